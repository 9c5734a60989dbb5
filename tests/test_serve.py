"""The server, asked in this process: what it answers, what it refuses, and that company changes no answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mathllm.checkpoint import load_checkpoint
from mathllm.finding import SHIPPED
from mathllm.serve.app import create_app
from mathllm.serve.service import Service
from mathllm.serve.settings import Settings

MODELS = {"addsub": SHIPPED / "addsub-3digit", "arithmetic": SHIPPED / "arithmetic"}
LOCAL = "http://localhost"


def client_of(**settings: Any) -> tuple[TestClient, Service]:
    app, service = create_app(Settings(**{"models": MODELS, **settings}))
    return TestClient(app, LOCAL), service


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[TestClient, Service]]:
    client, service = client_of(admin_key="secret")
    with client:
        ready(client)
        yield client, service


@pytest.fixture(scope="module")
def client(served: tuple[TestClient, Service]) -> TestClient:
    return served[0]


def ready(client: TestClient) -> None:
    for _ in range(2000):
        if client.get("/readyz").status_code == 200:
            return
    raise AssertionError("it does not get ready")


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent events: names, and what comes with them."""
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


# what math-llm-poc answers


def test_predict_is_that_of_math_llm_poc(client: TestClient) -> None:
    answer = client.post("/predict", json={"equation": "951+11="})
    assert answer.status_code == 200
    found = answer.json()
    assert list(found) == ["equation", "predicted_answer", "full_output", "latency_ms"]
    assert (found["predicted_answer"], found["full_output"]) == ("962", "951+11=962")
    assert isinstance(found["latency_ms"], float)
    assert client.post("/predict", json={"equation": "5-7="}).json()["full_output"] == "5-7=-2"
    assert client.get("/health").json() == {"status": "ok", "model_loaded": True}


@pytest.mark.parametrize("equation", ["951+11", "1+1=2", "951+1١=", "1000+1=", "1*2=", "", "1+1=\n"])
def test_predict_refuses_as_it_does(client: TestClient, equation: str) -> None:
    answer = client.post("/predict", json={"equation": equation})
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert set(detail) >= {"type", "loc", "msg", "input"}
    assert detail["loc"] == ["body", "equation"]


def test_before_the_models_are_there() -> None:
    client, _ = client_of()  # it is not started
    assert client.get("/health").json() == {"status": "ok", "model_loaded": False}
    assert client.get("/livez").status_code == 200
    loading = client.get("/readyz")
    assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
    assert int(loading.headers["retry-after"]) >= 1
    refused = client.post("/predict", json={"equation": "1+1="})
    assert (refused.status_code, refused.json()) == (503, {"detail": "Model not loaded"})
    solve = client.post("/v1/solve", json={"expressions": ["1+1"]})
    assert (solve.status_code, solve.json()["error"]["type"]) == (503, "loading")


# answers


@pytest.mark.parametrize(("name", "problem"), [("addsub-3digit", "7-58"), ("add-any-length", "58+67")])
def test_what_has_one_true_text_is_drafted(name: str, problem: str) -> None:
    client, _ = client_of(models={name: SHIPPED / name})
    with client:
        ready(client)
        (found,) = client.post("/v1/solve", json={"expressions": [problem]}).json()["results"]
        assert (found["correct"], found["decoding"]) == (True, "draft")
        counted = f'mathllm_draft_rows_total{{model="{name}",outcome="accepted"}} 1.0'
        assert counted in client.get("/metrics").text


def test_each_expression_has_its_own_answer_or_error(client: TestClient) -> None:
    asked = ["658+189", "5//2", "12*34", "1/0", "2+3*4-50", "12+34=47", "7+"]
    found = client.post("/v1/solve", json={"expressions": asked}).json()
    by = dict(zip(asked, found["results"], strict=True))
    assert by["658+189"]["answer"] == "847"
    assert by["12*34"]["steps"] == ["*4=840", "+=840", "*3=630", "+=040"]
    assert by["2+3*4-50"]["answer"] == "-36"
    assert by["12+34=47"]["stated"] == {"answer": "47", "true": False}
    assert by["5//2"]["error"]["position"] == 2
    assert "zero" in by["1/0"]["error"]["message"]
    assert by["7+"]["error"]["hint"]
    for text in ("658+189", "12*34"):
        assert by[text]["decoding"] == "draft"
        assert by[text]["correct"]
    solved = [one for one in found["results"] if "error" not in one]
    assert found["usage"]["completion_tokens"] > 10 * len(solved)


def test_the_answer_is_the_models_own_however_it_is_decoded(client: TestClient) -> None:
    model = load_checkpoint(MODELS["addsub"])
    asked = [
        f"{a}{sign}{b}" for a, b in ((658, 189), (7, 999), (0, 0), (999, 999), (100, 1)) for sign in "+-"
    ]
    asked += ["12345+6", "1000000-1"]  # which it has not learned
    texts = []
    for draft in (True, False):
        body = {"expressions": asked, "model": "addsub", "draft": draft, "tokens": True}
        results = client.post("/v1/solve", json=body).json()["results"]
        texts.append([one.get("text", one.get("error")) for one in results])
        for text, one in zip(asked, results, strict=True):
            if "error" in one:
                continue
            own = model.solve(text)
            assert (one["text"], one["answer"], one["steps"]) == (own.text, str(own.answer), list(own.steps))
            assert one["confidence"] == pytest.approx(own.confidence, abs=1e-4)
            assert (one["decoding"] == "draft") == (draft and own.correct)
            assert draft or one["decoding"] == "steps"
            product = 1.0
            for token in one["tokens"]:
                product *= token["p"]
                assert token["top"][0][0] == token["token"]
            assert product == pytest.approx(own.confidence, abs=1e-4)
    assert texts[0] == texts[1]


def test_a_drawn_text_depends_on_its_seed_and_not_on_company(client: TestClient) -> None:
    def ask(seed: int) -> str:
        body = {"expressions": ["658+189"], "model": "addsub", "temperature": 25, "seed": seed}
        return client.post("/v1/solve", json=body).json()["results"][0]["text"]

    alone = [ask(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone
    assert ask(3) == alone[3]
    assert len(set(alone)) > 6


def test_a_stream_says_what_the_answer_says(client: TestClient) -> None:
    for more in ({}, {"draft": False}, {"temperature": 0.8, "seed": 1}):
        body = {"expressions": ["658+189", "1/0"], "model": "addsub", **more}
        said = events(client.post("/v1/solve", json={**body, "stream": True}).text)
        whole = client.post("/v1/solve", json=body).json()
        results = {data["index"]: data for name, data in said if name == "result"}
        tokens = [data for name, data in said if name == "token"]
        assert results[0]["text"] == whole["results"][0]["text"]
        assert "".join(one["token"] for one in tokens) == results[0]["text"].replace(" ", "").split("=", 1)[1]
        assert [one["i"] for one in tokens] == list(range(len(tokens)))
        assert "zero" in results[1]["error"]["message"]
        assert said[-1][0] == "done"
        assert said[-1][1]["usage"] == whole["usage"]


def test_a_model_that_is_named_answers_and_another_one_where_none_is(client: TestClient) -> None:
    def who(**more: Any) -> str:
        return (
            client.post("/v1/solve", json={"expressions": ["2*3"], **more})
            .json()["results"][0]
            .get("model", "")
        )

    assert who().startswith("arithmetic@")
    assert who(model="arithmetic").startswith("arithmetic@")
    refused = client.post("/v1/solve", json={"expressions": ["2+3"], "model": "adsub"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (404, "unknown_model")
    assert "addsub" in refused.json()["error"]["hint"]
    label = client.get("/version").json()["models"][0]
    other = client.post("/v1/solve", json={"expressions": ["2+3"], "model": "arithmetic@00000000"})
    assert (other.status_code, other.json()["error"]["type"]) == (404, "unknown_model")
    assert client.post("/v1/solve", json={"expressions": ["2+3"], "model": label}).status_code == 200


def test_a_text_is_gone_on_from(client: TestClient) -> None:
    def go_on(text: str, **more: Any) -> Any:
        return client.post("/v1/solve", json={"expressions": [text], **more})

    (found,) = go_on("658+189=<think>8+9=18", model="addsub").json()["results"]
    assert (found["answer"], found["expected"], found["decoding"]) == ("848", "847", "steps")
    assert found["steps"][0] == "8+9=18"
    (rows,) = go_on("21*43=<think>*4=840+=94", model="arithmetic", tokens=True).json()["results"]
    assert rows["words"][:2] == ["12*4 = 48", f"so far {rows['steps'][1][2:][::-1].lstrip('0')}"]
    assert "name it" in go_on("1+1=<think>").json()["error"]["hint"]
    assert go_on("1+1=<thnk>", model="addsub").json()["results"][0]["error"]["position"] == 4
    assert go_on("<think>1+1=", model="addsub").status_code == 422


# what OpenAI's clients know


def test_completions(client: TestClient) -> None:
    body = {"model": "addsub", "prompt": "658+189=", "logprobs": 2, "n": 2, "presence_penalty": 0}
    found = client.post("/v1/completions", json=body).json()
    assert found["object"] == "text_completion"
    for choice in found["choices"]:
        assert choice["text"] == "<think>8+9=175+8+1=146+1+1=8</think>847"
        assert choice["finish_reason"] == "stop"
        said = choice["logprobs"]
        text = choice["text"] + "<end>"
        places = zip(said["tokens"], said["text_offset"], strict=True)
        assert all(text[at : at + len(token)] == token for token, at in places)
        assert all(len(top) == 2 for top in said["top_logprobs"])
    prompt = "658+189=<think>8+9=18"
    changed = client.post("/v1/completions", json={"model": "addsub", "prompt": prompt}).json()
    assert changed["choices"][0]["text"] == "5+8+1=146+1+1=8</think>848"
    short = client.post(
        "/v1/completions", json={"model": "addsub", "prompt": "658+189=", "max_tokens": 5}
    ).json()
    assert (short["choices"][0]["text"], short["choices"][0]["finish_reason"]) == ("<think>8+9=", "length")
    streamed = client.post("/v1/completions", json={**body, "n": 1, "logprobs": None, "stream": True}).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(one["choices"][0]["text"] for one in chunks) == found["choices"][0]["text"]
    assert streamed.endswith("data: [DONE]\n\n")
    echoed = client.post("/v1/completions", json={**body, "n": 1, "echo": True}).json()["choices"][0]
    assert echoed["text"] == "658+189=<think>8+9=175+8+1=146+1+1=8</think>847"
    assert echoed["logprobs"]["text_offset"][0] == len("658+189=")


@pytest.mark.parametrize("problem", ["12*34", "658+189", "7*8-5+1", "189-658", "100/7"])
def test_a_streamed_chat_says_what_the_whole_one_says(client: TestClient, problem: str) -> None:
    body = {"messages": [{"role": "user", "content": problem}]}
    message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).text
    lines = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    deltas = [line["choices"][0]["delta"] for line in lines]
    assert len(deltas) > 5
    for name in ("content", "reasoning_content"):
        assert "".join(delta.get(name, "") for delta in deltas) == message[name]


def test_chat_completions(client: TestClient) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "12*34 = ?"}]
    found = client.post("/v1/chat/completions", json={"messages": messages}).json()
    (choice,) = found["choices"]
    assert choice["message"]["content"] == "408"
    assert choice["message"]["reasoning_content"].splitlines()[0] == "*4=840"
    streamed = client.post("/v1/chat/completions", json={"messages": messages, "stream": True}).text
    deltas = [
        json.loads(line[6:])["choices"][0]["delta"]
        for line in streamed.splitlines()
        if line.startswith("data: {")
    ]
    assert "".join(delta.get("content", "") for delta in deltas) == "408"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "1+1=", "logit_bias": {"5": 1}}, "logit_bias"),
        ({"prompt": "1+1=", "tols": 1}, "tols is not supported"),
        ({"prompt": "1+"}, "ends too early"),
        ({"prompt": [99]}, "ids of tokens"),
        ({"prompt": []}, "1 to 64 prompts"),
        ({"prompt": "1+1=", "model": "gpt-4"}, "unknown model"),
        ({"prompt": "1+1=", "temperature": 9}, "temperature"),
        ({"prompt": "658+189=<think>"}, "in the notation of one model"),
        ({"prompt": ["658-189", "9" * 400 + "+1"]}, "for several models"),
        ({"prompt": "1+1=", "stream": True, "logprobs": 0}, "logprobs is not supported in a stream"),
        ({}, "prompt"),
    ],
)
def test_errors_as_openai_has_them(client: TestClient, body: dict[str, Any], said: str) -> None:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert said in error["message"]


# a look inside, and a search


def test_explain_shows_where_it_looks(client: TestClient) -> None:
    import base64

    for body in ({"expression": "58+67"}, {"text": "58+67=<think>8+7="}):
        found = client.post("/v1/explain", json={"model": "addsub", **body}).json()
        layers, heads, length, _ = found["attention"]["shape"]
        assert length == len(found["tokens"])
        data = base64.b64decode(found["attention"]["data"])
        assert len(data) == layers * heads * length * length
        rows = [sum(data[at : at + length]) for at in range(0, len(data), length)]
        assert all(abs(row - 255) <= length for row in rows)
    assert found["next"][0][0] == "1"
    long = client.post("/v1/explain", json={"expression": "9" * 60 + "*" + "9" * 40})
    assert long.status_code == 422
    both = client.post("/v1/explain", json={"expression": "1+1", "text": "1+1="})
    assert both.status_code == 422


@pytest.mark.parametrize("kind", ["random", "carry", "edge"])
def test_a_hunt_counts(client: TestClient, kind: str) -> None:
    said = events(client.post("/v1/hunt", json={"kind": kind, "count": 150, "model": "addsub"}).text)
    assert said[-1][0] == "done"
    assert said[-1][1]["wrong"] == 0
    # of edges there are fewer: sums of 3 digits of 0, 1, 2, 5, 9, 10, 11, 99, 100, 101 and 999
    assert said[-1][1]["tried"] == (150 if kind != "edge" else 11 * 11)
    long = events(client.post("/v1/hunt", json={"count": 64, "digits": 5, "model": "addsub"}).text)
    assert [name for name, _ in long].count("wrong") == min(50, long[-1][1]["wrong"]) > 10
    assert all(data["answer"] != data["expected"] for name, data in long if name == "wrong")
    none = events(client.post("/v1/hunt", json={"count": 64, "digits": 900, "model": "addsub"}).text)
    assert none[-1][0] == "error"
    assert "cannot be asked" in none[-1][1]["message"]


def test_a_text_without_end_is_cut_where_the_room_is(served: tuple[TestClient, Service]) -> None:
    client, service = served
    expressions = [f"{a}+{a * 7 % 1000}" for a in range(100, 160)]
    body = {"expressions": expressions, "model": "addsub", "temperature": 100, "seed": 4}
    results = client.post("/v1/solve", json=body).json()["results"]
    assert [one["expression"] for one in results] == expressions
    assert "length" in {one["finish_reason"] for one in results}
    assert service.engine.requests == 0


def test_a_hunt_begins_with_little(client: TestClient) -> None:
    body = {"kind": "edge", "digits": 1000, "count": 1, "model": "addsub"}
    (refused,) = events(client.post("/v1/hunt", json=body).text)
    assert "cannot be asked" in refused[1]["message"]
    for task, status in (("addition,subtraction", 422), ("additions", 422), ("addition", 200)):
        assert client.post("/v1/hunt", json={"task": task, "count": 1}).status_code == status


def test_deadlines(client: TestClient) -> None:
    body = {"expressions": ["1+1", "1+2"]}
    for value, status in (("9" * 5000, 200), ("0", 504), ("-1", 200), ("x", 200)):
        answer = client.post("/v1/solve", json=body, headers={"x-deadline-ms": value})
        assert answer.status_code == status, value
        assert status == 200 or answer.json()["error"]["type"] == "deadline"


# who may ask, and how much


@pytest.mark.parametrize(
    ("how", "status", "kind"),
    [
        ({"json": {"expressions": []}}, 422, "invalid_request"),
        ({"json": {"expressions": ["1+1"], "modell": "x"}}, 422, "invalid_request"),
        ({"json": {"expressions": ["1+1"], "temperature": -1}}, 422, "invalid_request"),
        ({"json": {"expressions": ["1+1"] * 1025}}, 422, "invalid_request"),
        ({"json": {"expressions": ["1+" + "1" * 9000]}}, 422, "invalid_request"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "invalid_request"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "not_json"),
        ({"content": b" " * 70_000, "headers": {"content-type": "application/json"}}, 413, "too_large"),
        ({"json": {}, "headers": {"host": "evil.example"}}, 403, "host_not_allowed"),
    ],
)
def test_what_is_refused_says_why(client: TestClient, how: dict[str, Any], status: int, kind: str) -> None:
    answer = client.post("/v1/solve", **how)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == kind
    assert error["message"]
    assert error["hint"]
    assert error["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("text", ['"\\ud800"', "NaN", '"\\u0000"'])
def test_what_cannot_be_written_is_quoted(client: TestClient, text: str) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post("/predict", content=f'{{"equation": {text}}}', headers=headers)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "equation"])
    answer = client.post("/v1/solve", content=f'{{"expressions": [{text}]}}', headers=headers)
    assert answer.status_code == (422 if text == "NaN" else 200)
    if answer.status_code == 200:
        assert answer.json()["results"][0]["error"]["type"] == "invalid_expression"


def test_what_is_not_there(client: TestClient) -> None:
    client.request("FOO1", "/nothing")
    assert "FOO1" not in client.get("/metrics").text
    assert client.get("/nothing").json()["error"]["type"] == "not_found"
    assert client.get("/v1/solve").json()["error"]["type"] == "method_not_allowed"
    assert client.get("/static/..%2f..%2fapp.py").status_code == 404


def test_every_answer_has_an_id_and_its_guards(client: TestClient) -> None:
    for path in ("/", "/health", "/nothing"):
        headers = client.get(path, headers={"x-request-id": "mine-1"}).headers
        assert headers["x-request-id"] == "mine-1"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    strange = client.get("/health", headers={"x-request-id": b"a b\xe9"})
    assert re.fullmatch(r"[0-9a-f-]{36}", strange.headers["x-request-id"])


def test_keys_and_rates() -> None:
    client, _ = client_of(keys=["open sesame"], rate=2.0, models={"addsub": MODELS["addsub"]})
    with client:
        ready(client)
        body = {"expressions": ["1+1"]}
        for key in (
            {},
            {"authorization": "Bearer open"},
            {"x-api-key": ""},
            {"authorization": "open sesame"},
        ):
            assert client.post("/v1/solve", json=body, headers=key).status_code == 401
        assert client.get("/health").status_code == 200
        answers = [
            client.post("/v1/solve", json=body, headers={"x-api-key": "open sesame"}) for _ in range(4)
        ]
        assert [answer.status_code for answer in answers][:2] == [200, 200]
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1


def test_a_page_elsewhere_may_ask_only_if_it_is_named(client: TestClient) -> None:
    allowed, _ = client_of(origins=["https://school.example"])
    asked = {"origin": "https://school.example"}
    before = allowed.options("/v1/solve", headers={**asked, "access-control-request-method": "POST"})
    assert before.status_code == 204
    assert "POST" in before.headers["access-control-allow-methods"]
    assert client.options("/v1/solve", headers=asked).status_code != 204
    assert allowed.get("/health", headers=asked).headers["access-control-allow-origin"] == asked["origin"]
    assert (
        "access-control-allow-origin"
        not in allowed.get("/health", headers={"origin": "https://x.example"}).headers
    )


def test_more_than_it_can_hold_is_refused_at_once() -> None:
    client, service = client_of(max_queue=2, models={"addsub": MODELS["addsub"]})
    with client:
        ready(client)
        with ThreadPoolExecutor(8) as pool:
            body = {"expressions": ["658+189"] * 200, "model": "addsub", "draft": False}
            answers = list(pool.map(lambda _: client.post("/v1/solve", json=body), range(8)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.json()["error"]["type"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
        assert service.engine.requests == service.engine.tokens == 0
        assert client.post("/v1/solve", json=body).status_code == 200


def test_what_comes_too_late_is_not_begun(client: TestClient) -> None:
    for path, body in (("/v1/solve", {"expressions": ["1+1"]}), ("/v1/explain", {"expression": "1+1"})):
        late = client.post(path, json=body, headers={"x-deadline-ms": "0"})
        assert (late.status_code, late.json()["error"]["type"]) == (504, "deadline")


# what it tells of itself


def test_metrics_count_what_is_right_and_wrong(served: tuple[TestClient, Service]) -> None:
    client, _ = served

    def answers(verdict: str) -> float:
        text = client.get("/metrics").text
        found = re.findall(
            rf'mathllm_answers_total{{model="addsub",seen="\w+",verdict="{verdict}"}} (\d+)', text
        )
        return sum(map(float, found))

    before = answers("right"), answers("wrong")
    client.post("/v1/solve", json={"expressions": ["1+1", "5-3", "123456+654321"], "model": "addsub"})
    assert answers("right") == before[0] + 2
    assert answers("wrong") + answers("unended") + answers("unreadable") >= before[1] + 1


def test_a_model_is_replaced_and_put_back(served: tuple[TestClient, Service], tmp_path: Path) -> None:
    client, service = served
    before = service.shelf.find("addsub").label
    body = {"path": str(SHIPPED / "add-any-length")}
    assert client.post("/admin/models/addsub", json=body).status_code == 401
    key = {"authorization": "Bearer secret"}
    try:
        found = client.post("/admin/models/addsub", json=body, headers=key).json()
        assert found["root"] != before
        assert found["meta"]["versions"][1] == before
        solved = client.post("/v1/solve", json={"expressions": ["1+1"], "model": "addsub"}).json()["results"][
            0
        ]
        assert solved["text"].startswith("1+1=2")
        old = client.post("/v1/solve", json={"expressions": ["1+1"], "model": before}).json()["results"][0]
        assert old["model"] == before
        broken = client.post("/admin/models/addsub", json={"path": str(tmp_path)}, headers=key)
        assert broken.status_code == 422
    finally:
        back = client.post("/admin/models/addsub", json={"rollback": True}, headers=key).json()
    assert back["root"] == before
