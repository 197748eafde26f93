"MLServer, adaptive batching on."

import os

import numpy as np
import onnxruntime as rt
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self):
        options = rt.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = rt.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        found = self.session.run(["probability"], {"X": x})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("p", found)])
