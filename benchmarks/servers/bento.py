"""BentoML, with batches of up to 32: run by `bentoml serve`."""

import bentoml
import torch

import mathllm


@bentoml.service(workers=1, traffic={"timeout": 60})
class Solver:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = mathllm.load("addsub-3digit")

    @bentoml.api(route="/predict", batchable=True, max_batch_size=32, max_latency_ms=60_000)
    def predict(self, equation: list[str]) -> list[str]:
        return [str(solution.answer) for solution in self.model.generate([one[:-1] for one in equation])]
