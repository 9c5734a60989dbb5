"""The errors of the server, one status after the other: each says what happened, what helps, and where the log has
it."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from test_serve import LOCAL, MODELS, client_of, events, ready

from mathllm.serve.app import create_app
from mathllm.serve.observe import JsonLines
from mathllm.serve.service import Service
from mathllm.serve.settings import Settings
from mathllm.tokenizer import MINUS

ONE = {"addsub": MODELS["addsub"]}
JSON = {"content-type": "application/json"}
SUM = {"expressions": ["1+1"]}
ADMIN = {"authorization": "Bearer secret"}
OPENAI = ("/v1/completions", "/v1/chat/completions", "/v1/models")


@contextmanager
def started(**settings: Any) -> Iterator[tuple[TestClient, Service]]:
    client, service = client_of(**{"models": ONE, **settings})
    with client:
        ready(client)
        yield client, service


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with started(admin_key="secret") as (client, _):
        yield client


def is_error(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """An error has a type, a reason, a hint, and the id of its header, and tells nothing of our code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == kind
    assert error["message"]
    assert error.get("hint") or "(" in error["message"]  # where OpenAI's clients look for it
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return error


def goes_again(answer: Any) -> None:
    assert int(answer.headers["retry-after"]) >= 1


@contextmanager
def log_of() -> Iterator[list[dict[str, Any]]]:
    """The lines that the server writes meanwhile."""
    text, logger, lines = io.StringIO(), logging.getLogger("mathllm.serve"), list[dict[str, Any]]()
    handler, level = logging.StreamHandler(text), logger.level
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        lines += map(json.loads, text.getvalue().splitlines())


CASES: list[tuple[str, dict[str, Any], int, str]] = [
    *((path, {"content": b"{", "headers": JSON}, 422, "invalid_request") for path in ("/v1/solve", "/v1/explain")),
    *((path, {"content": b"{", "headers": JSON}, 400, "invalid_request") for path in OPENAI[:2]),
    ("/v1/solve", {"content": b'{"expressions": ["\xff"]}', "headers": JSON}, 422, "invalid_request"),
    ("/v1/solve", {"content": b"[" * 60_000, "headers": JSON}, 422, "invalid_request"),
    ("/v1/completions", {"content": b'{"prompt": "\xff"}', "headers": JSON}, 400, "invalid_request"),
    ("/v1/hunt", {"json": {"kind": "all"}}, 422, "invalid_request"),
    ("/v1/solve", {"json": {**SUM, "stream": 1}}, 422, "invalid_request"),
    ("/v1/explain", {"json": {"expression": "1+"}}, 422, "invalid_expression"),
    ("/v1/completions", {"json": {"prompt": "1+"}}, 400, "invalid_expression"),
    ("/v1/chat/completions", {"json": {"messages": []}}, 400, "invalid_request"),
    ("/v1/solve", {"json": {**SUM, "model": "adsub"}}, 404, "unknown_model"),
    ("/v1/explain", {"json": {"expression": "1+1", "model": "adsub"}}, 404, "unknown_model"),
    ("/v1/hunt", {"json": {"model": "adsub"}}, 404, "unknown_model"),
    ("/v1/completions", {"json": {"prompt": "1+1", "model": "adsub"}}, 404, "unknown_model"),
    ("/admin/models/adsub", {"json": {}, "headers": ADMIN}, 404, "unknown_model"),
    ("/admin/models/adsub", {"json": {"rollback": True}, "headers": ADMIN}, 404, "unknown_model"),
    ("/admin/models/addsub", {"json": {"rollback": True}, "headers": ADMIN}, 422, "invalid_request"),
    ("/admin/models/addsub", {"json": {"path": "/nowhere"}, "headers": ADMIN}, 422, "invalid_request"),
    ("/admin/models/addsub", {"json": {"path": "a\0b"}, "headers": ADMIN}, 422, "invalid_request"),
    ("/admin/models/addsub", {"json": {"path": "a" * 5000}, "headers": ADMIN}, 422, "invalid_request"),
    ("/admin/models/addsub", {"json": {}}, 401, "unauthorized"),
    ("/v1/nothing", {"json": {}}, 404, "not_found"),
    ("/v1/models", {"json": {}}, 405, "method_not_allowed"),
    ("/livez", {"json": {}}, 405, "method_not_allowed"),
    *((path, {"json": {}, "headers": {"host": "evil.example"}}, 403, "host_not_allowed") for path in ("/", *OPENAI)),
    *((path, {"content": b"1", "headers": {"content-type": "text/plain"}}, 415, "not_json") for path in OPENAI[:2]),
    ("/v1/solve", {"content": b"1"}, 415, "not_json"),
    ("/predict", {"content": b" " * 70_000, "headers": JSON}, 413, "too_large"),
    ("/v1/solve", {"json": SUM, "headers": {"x-much": "a" * 70_000}}, 431, "too_large"),
    ("/v1/solve", {"json": SUM, "headers": {"x-deadline-ms": "0"}}, 504, "deadline"),
    ("/predict", {"json": {"equation": "1+1="}, "headers": {"x-deadline-ms": "0"}}, 504, "deadline"),
    ("/v1/completions", {"json": {"prompt": "1+1"}, "headers": {"x-deadline-ms": "0"}}, 504, "deadline"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "how", "status", "kind"), CASES)
def test_each_error_says_what_and_why(
    client: TestClient, path: str, how: dict[str, Any], status: int, kind: str
) -> None:
    error = is_error(client.post(path, **how), status, kind)
    if kind == "unknown_model":
        assert "addsub" in json.dumps(error)  # the nearest name
        assert error["param"] == "model"


def test_a_body_that_grows_too_large_while_it_comes(client: TestClient) -> None:
    """Without a length, as in chunks: what is too much is not read to its end."""
    read = []

    def pieces() -> Iterator[bytes]:
        yield b'{"expressions": ["'
        for number in range(1000):
            read.append(number)
            yield b"1" * 1000

    for path in ("/v1/solve", "/v1/completions", "/predict"):
        is_error(client.post(path, content=pieces(), headers=JSON), 413, "too_large")
    assert (
        client.post("/v1/solve", content=iter([b'{"expressions":', b'["1+1"]}']), headers=JSON).status_code
        == 200
    )


# digits that are not ASCII, characters that end a text elsewhere, halves of one in UTF-16, and problems
ODD = st.text(st.sampled_from("0123456789+-*/%=() \0\ud800\udfff١３½\u202e\x1b<think>"), max_size=30)


@settings(max_examples=20)
@given(text=ODD, times=st.sampled_from([1, 1, 1, 400, 3400]))
def test_any_text_is_answered_or_refused_with_a_reason(client: TestClient, text: str, times: int) -> None:
    text *= times
    bodies = {
        "/v1/solve": {"expressions": ["1+1", text], "model": "addsub"},
        "/v1/explain": {"expression": text},
        "/v1/completions": {"prompt": text, "max_tokens": 5},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": text}], "max_tokens": 5},
    }
    for path, body in bodies.items():
        answer = client.post(path, content=json.dumps(body).encode(), headers=JSON)
        if answer.status_code != 200:
            assert answer.status_code in (400, 413, 422)
            is_error(answer, answer.status_code, answer.json()["error"]["type"])
        elif path == "/v1/solve":
            good, odd = answer.json()["results"]
            assert good["answer"] == "2"
            assert odd["error"]["message"] if "error" in odd else odd["text"]
    answer = client.post("/predict", content=json.dumps({"equation": text}).encode(), headers=JSON)
    assert answer.status_code in (200, 413, 422)


@pytest.mark.parametrize("text", ["1" * 100_000, "١+١", "1+1\0", "\ud800", "1" * 9000 + "+1"])
def test_texts_that_are_no_problem(client: TestClient, text: str) -> None:
    body = json.dumps({"expressions": [text]}).encode()
    answer = client.post("/v1/solve", content=body, headers=JSON)
    if len(text) > 100:
        is_error(answer, *((413, "too_large") if len(text) > 1 << 16 else (422, "invalid_request")))
    else:
        error = answer.json()["results"][0]["error"]
        assert error["type"] == "invalid_expression"
        assert error["hint"]


def test_predict_has_the_errors_of_math_llm_poc(client: TestClient) -> None:
    for body in (b"\xff", b'{"equation": "\xff"}'):
        answer = client.post("/predict", content=body, headers=JSON)
        assert (answer.status_code, list(answer.json())) == (400, ["detail"])
    assert client.get("/predict").json() == {"detail": "Method Not Allowed"}


def test_a_method_that_a_route_has_not_is_told_which_it_has(client: TestClient) -> None:
    for path, allowed in (("/v1/solve", "POST"), ("/predict", "POST")):
        assert client.get(path).headers["allow"] == allowed


def test_so_it_is_without_a_body(client: TestClient) -> None:
    for method in ("POST", "PUT", "PATCH"):
        is_error(client.request(method, "/health"), 405, "method_not_allowed")


def test_all_errors_are_as_openai_has_them(client: TestClient) -> None:
    for how in ({"headers": {"host": "evil.example"}}, {"headers": {"content-type": "text/plain"}}):
        error = client.post("/v1/completions", content=b"1", **how).json()["error"]
        assert set(error) == {"message", "type", "param", "code", "request_id"}


def test_keys_are_asked_for_by_all_routes_but_the_open_ones() -> None:
    with started(keys=["open sesame"]) as (client, _):
        for path in client.get("/openapi.json", headers={"x-api-key": "open sesame"}).json()["paths"]:
            asked = client.post(path, json={}) if client.get(path).status_code == 405 else client.get(path)
            if path in ("/health", "/livez", "/readyz", "/version"):
                assert client.get(path).status_code == 200
            else:
                for method in ("get", "post"):
                    asked = client.request(method, path, **({"json": {}} if method == "post" else {}))
                    is_error(asked, 401, "unauthorized")
                    assert asked.headers["www-authenticate"] == "Bearer"


def test_who_asks_too_often_is_told_when_to_come_again() -> None:
    with started(rate=1.0) as (client, _):
        answers = [client.get("/v1/models") for _ in range(3)]
        is_error(answers[-1], 429, "rate_limited")
        goes_again(answers[-1])
        assert client.get("/livez").status_code == 200


@contextmanager
def hunting(client: TestClient, service: Service) -> Iterator[None]:
    """While a search goes on."""
    body = {"count": 1_000_000, "model": "addsub"}
    thread = threading.Thread(target=lambda: client.post("/v1/hunt", json=body))
    thread.start()
    end = time.monotonic() + 30
    while not service.engine.requests and time.monotonic() < end:
        time.sleep(0.001)
    try:
        yield
    finally:
        assert client.portal is not None
        client.portal.call(service.engine.drain, 0.0)
        thread.join(30)


def test_one_search_at_a_time() -> None:
    with started() as (client, service), hunting(client, service):
        second = client.post("/v1/hunt", json={"count": 10})
        is_error(second, 429, "busy")
        goes_again(second)
        assert client.post("/v1/solve", json=SUM).json()["results"][0]["answer"] == "2"


def test_a_full_server_and_one_that_ends() -> None:
    with started(max_queue=1) as (client, service):
        with hunting(client, service):
            full = client.get("/readyz")
            assert (full.status_code, full.json()) == (503, {"status": "full"})
            goes_again(full)
            check_closed(client, "overloaded")
        check_closed(client, "draining")
        assert client.get("/readyz").json() == {"status": "draining"}
        assert client.get("/livez").status_code == 200


def test_a_server_that_is_loading() -> None:
    app, _ = create_app(Settings(models=ONE))  # it is not started
    check_closed(TestClient(app, LOCAL), "loading")


def check_closed(client: TestClient, kind: str) -> None:
    """Nothing is taken in, and everyone is told when to try again."""
    bodies: dict[str, Any] = {"/v1/solve": SUM, "/v1/explain": {"expression": "1+1"}, "/v1/hunt": {}}
    bodies |= {"/v1/completions": {"prompt": "1+1", "model": "addsub"}}
    bodies |= {"/v1/chat/completions": {"messages": [{"role": "user", "content": "1+1"}], "model": "addsub"}}
    for path, body in bodies.items():
        answer = client.post(path, json=body)
        is_error(answer, 503, kind)
        goes_again(answer)
    answer = client.post("/predict", json={"equation": "1+1="})
    assert (answer.status_code, list(answer.json())) == (503, ["detail"])
    goes_again(answer)


# weights that were damaged after they were read: differences have no numbers, and sums have


@pytest.fixture(scope="module")
def damaged() -> Iterator[TestClient]:
    with started() as (client, service):
        with torch.no_grad():
            service.shelf.find("addsub").model.model.embedding.weight[MINUS] = torch.nan
        yield client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"equation": "5-3="}),
        ("/v1/explain", {"expression": "5-3"}),
        ("/v1/completions", {"prompt": "5-3="}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "5-3"}]}),
    ],
)
def test_what_is_our_fault_is_found_in_the_log(damaged: TestClient, path: str, body: dict[str, Any]) -> None:
    with log_of() as lines:
        error = is_error(damaged.post(path, json=body), 500, "internal")
    failed = [line for line in lines if line.get("request_id") == error["request_id"]]
    assert any("Traceback" in line.get("exception", "") for line in failed)
    assert any(line["event"] == "request" and line["status"] == 500 for line in failed)


@pytest.mark.parametrize("how", [{}, {"draft": False}, {"tokens": True}])
def test_a_row_that_fails_fails_alone(damaged: TestClient, how: dict[str, Any]) -> None:
    body = {"expressions": ["658+189", "5-3", "7+8"], **how}
    answer = damaged.post("/v1/solve", json=body)
    assert answer.status_code == 200
    first, bad, last = answer.json()["results"]
    assert (first["answer"], last["answer"]) == ("847", "15")
    assert (bad["expression"], bad["error"]["type"]) == ("5-3", "internal")


def test_a_drawn_row_that_fails_fails_alone(damaged: TestClient) -> None:
    test_a_row_that_fails_fails_alone(damaged, {"temperature": 0.01})


def test_a_stream_of_a_row_that_fails_is_json(damaged: TestClient) -> None:
    text = damaged.post("/v1/solve", json={"expressions": ["7+8", "5-3"], "stream": True}).text
    assert "NaN" not in text
    results = {data["index"]: data for name, data in events(text) if name == "result"}
    assert results[0]["answer"] == "15"
    assert results[1]["error"]["type"] == "internal"


def test_bulk_work_does_not_hold_up_a_lone_request() -> None:
    """Not sampled texts by the hundred, and not as many expressions as may come in one request."""
    with started() as (client, service):
        for count, bulk in ((150, {"temperature": 1.0}), (1000, {})):
            body = {"expressions": ["658+189"] * count, "stream": True, **bulk}
            with ThreadPoolExecutor() as pool:
                asked = pool.submit(client.post, "/v1/solve", json=body)
                while not service.engine.requests:
                    time.sleep(0.001)
                assert client.post("/predict", json={"equation": "1+1="}).json()["predicted_answer"] == "2"
                assert service.engine.requests, "it was answered before the others were"
                assert asked.result().status_code == 200
        assert service.engine.requests == service.engine.tokens == 0


def test_a_stream_of_openai_ends_with_the_error(damaged: TestClient) -> None:
    text = damaged.post("/v1/completions", json={"prompt": "5-3=", "stream": True}).text
    (error,) = (json.loads(said)["error"] for said in re.findall("data: (.*error.*)\n", text))
    assert (error["type"], error["code"]) == ("internal", "internal")


def test_a_row_that_fails_is_in_the_log(damaged: TestClient) -> None:
    with log_of() as lines:
        found = damaged.post("/v1/solve", json={"expressions": ["5-3"]}).json()
    assert any(line.get("request_id") == found["id"] and "exception" in line for line in lines)
