"""Versions of models: what is taken from disk, and what stays when it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_serve import client_of, ready

from mathllm.cli.serve import places
from mathllm.errors import CheckpointError, UsageError
from mathllm.finding import SHIPPED
from mathllm.serve.versions import Shelf


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED / "addsub-3digit", tmp_path / "addsub"))


def change(place: Path) -> None:
    """Other weights, by next to nothing."""
    weights = load_file(place / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] *= 1 + 1e-6
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


def test_what_was_put_back_stays_until_something_else_is_on_disk(place: Path) -> None:
    shelf = Shelf({"addsub": place}, 2048)
    first = shelf.load("addsub")
    assert not shelf.changed("addsub")
    change(place)
    assert shelf.changed("addsub")
    second = shelf.load("addsub")
    assert second.label != first.label
    assert shelf.roll_back("addsub") is first
    assert not shelf.changed("addsub")  # it has been tried, and is not wanted
    change(place)
    assert shelf.changed("addsub")


def test_other_settings_are_another_version(place: Path) -> None:
    shelf = Shelf({"addsub": place}, 2048)
    first = shelf.load("addsub")
    config = json.loads((place / "config.json").read_text())
    config["data"]["max_digits"] -= 1
    (place / "config.json").write_text(json.dumps(config))
    assert shelf.changed("addsub")
    assert shelf.load("addsub").label != first.label
    assert shelf.find("addsub").model.data.max_digits == first.model.data.max_digits - 1


def test_from_another_place_it_is_read_from_there_from_then_on(place: Path, tmp_path: Path) -> None:
    shelf = Shelf({"addsub": place}, 2048)
    first = shelf.load("addsub")
    other = Path(shutil.copytree(place, tmp_path / "other"))
    assert shelf.load("addsub", other) is first  # which is the same
    change(other)
    assert shelf.changed("addsub")
    with pytest.raises(CheckpointError):
        shelf.load("addsub", tmp_path / "none")
    assert shelf.places["addsub"] == other


def test_a_model_that_was_missing_may_come_later(place: Path) -> None:
    (place / "config.json").rename(place / "away.json")
    client, service = client_of(models={"addsub": place}, admin_key="secret")
    with client:
        while not service.failed:
            pass
        assert client.get("/readyz").json() == {"status": "failed"}
        assert client.post("/v1/solve", json={"expressions": ["1+1"]}).status_code == 503
        (place / "away.json").rename(place / "config.json")
        key = {"authorization": "Bearer secret"}
        assert client.post("/admin/models/addsub", json={}, headers=key).status_code == 200
        ready(client)
        assert client.post("/v1/solve", json={"expressions": ["1+1"]}).json()["results"][0]["answer"] == "2"


def test_a_run_is_followed_to_its_best(tmp_path: Path) -> None:
    run = tmp_path / "mine@home"
    shutil.copytree(SHIPPED / "addsub-3digit", run / "checkpoint-5")
    assert places(str(run), []) == {"mine-home": run}
    for text in ("a/b=addsub-3digit", "a@b=addsub-3digit", "a=", "addsub-3digit"):
        with pytest.raises(UsageError, match="NAME=PATH"):
            places(None, [text])
