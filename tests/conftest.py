"""What every test may count on: one torch thread, plain text of 100 columns, W&B off, an empty home."""

import os
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import hypothesis
import pytest

# a busy machine is no reason to fail: no deadline. `--hypothesis-profile` still overrides this one.
hypothesis.settings.register_profile(
    "mathllm",
    deadline=None,
    max_examples=50,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mathllm")

# two test processes on two cores: more threads each would only wait for one another.
# these are read when torch is first imported; `one_torch_thread` below covers the case that it already is
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

# rich, typer and pytest each listen to some of these, and CI services set them
LOOKS = ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "COLORTERM", "GITHUB_ACTIONS", "TTY_COMPATIBLE")
LOOKS += ("TTY_INTERACTIVE", "TERMINAL_WIDTH", "LINES")

SCRATCH = pytest.StashKey[str]()


@pytest.hookimpl(trylast=True)  # pytest has looked at the terminal by then, and its report keeps its colours
def pytest_configure(config: pytest.Config) -> None:
    for name in ONE_THREAD:
        os.environ[name] = "1"
    for name in (*LOOKS, "WANDB_API_KEY"):
        os.environ.pop(name, None)
    os.environ.update(NO_COLOR="1", TERM="dumb", COLUMNS="100", WANDB_MODE="disabled")
    # line history, settings, caches: each test process has a home of its own, and subprocesses inherit it
    home = tempfile.mkdtemp(prefix="mathllm-tests-")
    config.stash[SCRATCH] = home
    os.environ["HOME"] = home
    for kind in ("CACHE", "CONFIG", "DATA", "STATE"):
        os.environ[f"XDG_{kind}_HOME"] = str(Path(home, kind.lower()))


def pytest_unconfigure(config: pytest.Config) -> None:
    if SCRATCH in config.stash:
        shutil.rmtree(config.stash[SCRATCH], ignore_errors=True)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    torch = sys.modules.get("torch")  # the tests that do without torch do not wait for it
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@lru_cache(maxsize=1)
def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not has_cuda():
        pytest.skip("needs a CUDA device")
