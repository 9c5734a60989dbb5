"""The server beside others around the same model: `python -m benchmarks.serving` (needs wrk, and litserve for that
peer).

Each server answers POST /predict for random sums of three digits, asked by wrk with so many clients on the same
machine; the servers take turns. `one at a time` is FastAPI around `model.solve`, as a first server looks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PORT = 8137
CLIENTS = (1, 16, 64)
SCRIPT = """
math.randomseed(os.time())
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  return wrk.format(nil, "/predict", nil,
    string.format('{"equation": "%d+%d="}', math.random(0, 999), math.random(0, 999)))
end
"""
ONE_AT_A_TIME = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field
import torch
import mathllm
torch.set_num_threads(1)
model = mathllm.load("addsub-3digit")
app = FastAPI()
class Asked(BaseModel):
    equation: str = Field(pattern=r"^[0-9]{1,3}[+-][0-9]{1,3}=$")
@app.post("/predict")
def predict(asked: Asked):
    return {"equation": asked.equation, "predicted_answer": str(model.solve(asked.equation[:-1]).answer)}
@app.get("/readyz")
def ready():
    return {}
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""
LITSERVE = """
import sys
import litserve as ls
import torch
import mathllm
class Api(ls.LitAPI):
    def setup(self, device):
        torch.set_num_threads(1)
        self.model = mathllm.load("addsub-3digit")
    def decode_request(self, request):
        return request["equation"][:-1]
    def predict(self, texts):
        return self.model.generate(texts)
    def unbatch(self, output):
        return output
    def encode_response(self, solution):
        return {"predicted_answer": str(solution.answer)}
if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.002, api_path="/predict")
    ls.LitServer(api, accelerator="cpu", workers_per_device=1).run(port=int(sys.argv[1]), generate_client_file=False)
"""
SERVERS = {
    "mathllm serve": [
        sys.executable,
        "-m",
        "mathllm",
        "serve",
        "--checkpoint",
        "addsub-3digit",
        "--port",
        str(PORT),
    ],
    "one at a time": [sys.executable, "-c", ONE_AT_A_TIME, str(PORT)],
    "LitServe, batches of 32": [sys.executable, LITSERVE, str(PORT)],
}


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A server that answers."""
    if command[1].startswith("\nimport"):  # one that starts processes of its own has to be a file
        (folder / "peer.py").write_text(command[1])
        command = [command[0], str(folder / "peer.py"), command[2]]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    asked = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/predict", b'{"equation": "1+1="}', {"Content-Type": "application/json"}
    )
    for _ in range(600):
        try:
            with urllib.request.urlopen(asked, timeout=5) as answer:
                assert json.load(answer)["predicted_answer"] == "2"
            return process
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise SystemExit(f"{command[:2]} does not answer")


def load(clients: int, seconds: int, folder: Path) -> dict[str, float]:
    """What wrk finds: answers a second, and milliseconds that half and 99% of them took."""
    script = folder / "predict.lua"
    script.write_text(SCRIPT)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "-s", str(script)]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{PORT}"], capture_output=True, text=True, check=True
    ).stdout
    assert "Non-2xx" not in said, said
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    shares = {
        f"p{share}": float(number) * units[unit]
        for share, number, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", said)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate
    return {"rate": float(rate[1]), **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(SERVERS))
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("this needs wrk: apt-get install wrk")
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(options.rounds):
            for server in options.only or SERVERS:
                process = started(SERVERS[server], folder)
                try:
                    load(16, 1, folder)  # to warm up
                    for clients in CLIENTS:
                        found.setdefault((server, clients), []).append(load(clients, options.seconds, folder))
                finally:
                    os.killpg(process.pid, signal.SIGTERM)
                    try:
                        process.wait(10)
                    except subprocess.TimeoutExpired:
                        os.killpg(process.pid, signal.SIGKILL)
                    time.sleep(1)
    print("| server | clients | answers/s | half within | 99% within |\n| --- | --- | --- | --- | --- |")
    for (server, clients), runs in found.items():
        middle: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"| {server} | {clients} | {middle['rate']:,.0f} | {middle['p50']:.1f} ms | {middle['p99']:.1f} ms |"
        )


if __name__ == "__main__":
    main()
