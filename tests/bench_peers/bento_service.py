"BentoML, batching on."

import os

import bentoml
import numpy as np
import onnxruntime as rt


@bentoml.service(workers=1, traffic={"timeout": 60, "concurrency": 1024})
class Score:
    def __init__(self):
        options = rt.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = rt.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=5000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["probability"], {"X": np.asarray(x, dtype=np.float32)})[0]
