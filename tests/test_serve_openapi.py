"""/openapi.json says what the routes take and answer: held to what they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from serving import serving
from test_serve import MODELS, client_of
from test_serve_errors import CASES

HIDDEN = ("/", "/v1/nothing")  # the page, and what there is not


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    client, _ = client_of(models={"addsub": MODELS["addsub"]})
    paths: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    return paths


def test_every_error_is_described(described: dict[str, Any]) -> None:
    for path, _, status, _ in CASES:
        route = re.sub("/models/.+", "/models/{name}", path)
        if status == 405 or route in HIDDEN:
            continue
        known = described[route].get("post", described[route].get("get"))["responses"]
        assert {str(status), f"{status // 100}XX"} & set(known), (path, status)


def test_streams_are_described(described: dict[str, Any]) -> None:
    kinds = {
        path: set(how["post"]["responses"]["200"]["content"])
        for path, how in described.items()
        if "post" in how
    }
    both = {"application/json", "text/event-stream"}
    assert kinds["/v1/solve"] == kinds["/v1/completions"] == kinds["/v1/chat/completions"] == both
    assert kinds["/v1/hunt"] == {"text/event-stream"}
    assert set(described["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}


# what schemathesis finds, where it is installed: it is no tool of ours, since it brings more along than it is worth
# on every machine (`pip install schemathesis`)


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    schemathesis = pytest.importorskip("schemathesis")
    with serving("--model", "addsub-3digit=addsub-3digit", MATHLLM_ADMIN_KEY="secret") as server:
        refusals = {"expected-statuses": [400, 404, 405, 413, 415, 422]}  # 413: it tries very long texts
        config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": refusals}})
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)


def test_schemathesis_finds_nothing(schema: Any) -> None:
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    left_out = [positive_data_acceptance]  # whether a text is a problem, no schema can say
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
        @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def holds(case: Any) -> None:
            case.call_and_validate(headers={"authorization": "Bearer secret"}, excluded_checks=left_out)

        holds()
