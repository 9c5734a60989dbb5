"""LitServe, with batches of up to 32."""

import sys
from typing import Any

import litserve
import torch

import mathllm


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.model = mathllm.load("addsub-3digit")

    def decode_request(self, request: dict[str, str]) -> str:
        return request["equation"][:-1]

    def predict(self, texts: list[str]) -> list[Any]:
        return list(self.model.generate(texts))

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, solution: Any) -> dict[str, str]:
        return {"predicted_answer": str(solution.answer)}


if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.002, api_path="/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), generate_client_file=False)
