"""Gradio around `model.solve`, asked by its API and without its queue."""

import sys

import gradio
import torch

import mathllm

torch.set_num_threads(1)
model = mathllm.load("addsub-3digit")


def predict(equation: str) -> str:
    return str(model.solve(equation[:-1]).answer)


page = gradio.Interface(predict, "text", "text", api_name="predict")
page.queue(api_open=True).launch(server_port=int(sys.argv[1]), quiet=True)
