"LitServe, batching on."

import os
import sys

import litserve as ls
import numpy as np
import onnxruntime as rt


class Score(ls.LitAPI):
    def setup(self, device):
        options = rt.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = rt.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return np.asarray(request["x"], dtype=np.float32)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return self.session.run(["probability"], {"X": x})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"p": output.tolist()}


if __name__ == "__main__":
    api = Score(max_batch_size=64, batch_timeout=0.002)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning")
