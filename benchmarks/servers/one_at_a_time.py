"""FastAPI around `model.solve`, as a first server looks."""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

import mathllm

torch.set_num_threads(1)
model = mathllm.load("addsub-3digit")
app = FastAPI()


class Asked(BaseModel):
    equation: str = Field(pattern=r"^[0-9]{1,3}[+-][0-9]{1,3}=$")


@app.post("/predict")
def predict(asked: Asked) -> dict[str, str]:
    return {"predicted_answer": str(model.solve(asked.equation[:-1]).answer)}


uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
