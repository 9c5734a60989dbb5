"""The report of `mathllm inspect`, one problem in the terminal, and the page with the model in it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from shipped import ADDSUB, ANY_LENGTH, ARITHMETIC, DIVIDE, MULTIPLY, OWN_THOUGHTS
from test_inspection import QUICK, untrained
from typer.testing import CliRunner

from mathllm.checkpoint import load_checkpoint
from mathllm.cli.inspect import MEASURED
from mathllm.cli.main import app
from mathllm.inspection.page.page import data_of
from mathllm.inspection.report import MEASUREMENTS, inspect
from mathllm.inspection.single import inspect_one
from mathllm.inspection.writing import write

PAGE = Path(inspect.__code__.co_filename).parent / "page"


# one problem


def test_one_problem_token_by_token() -> None:
    model = load_checkpoint(ANY_LENGTH)
    found = inspect_one(model, "58+67")
    assert [token.token for token in found.tokens] == ["5", "2", "1", "<end>"]
    assert [token.role for token in found.tokens] == ["answer 1", "answer 2", "answer 3", "<end>"]
    run = model.run_with_cache("58+67", "blocks.0.attn.hook_pattern")
    for place, token in enumerate(found.tokens):
        assert token.lens[-1] == token.token
        assert abs(sum(token.written.values()) - token.lead) < 1e-3
        column = int(run.gold.prompt_lengths[0]) - 1 + place
        weights = run.cache["blocks.0.attn.hook_pattern"][0, 3, column]
        role, weight = token.looks_at["L0H3"][0]
        assert abs(weights.max() - weight) < 1e-5
        assert run.roles.names[run.roles.codes[0, int(weights.argmax())]] == role


# the command and its files


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=True)
    return result.output if result.exit_code == 0 else f"failed: {result.exception}"


def test_a_wrong_answer_is_not_shown_as_the_true_one() -> None:
    found = inspect_one(untrained("addition", "slots"), "275+32")
    assert found.text.endswith("307<end>")
    assert not found.right
    chain = inspect_one(load_checkpoint(OWN_THOUGHTS), "3+4*7")
    assert chain.right
    assert json.loads(json.dumps(chain.to_dict(), allow_nan=False))["tokens"][0]["lead"] is None


def test_the_report_of_a_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "report"
    how = ("--checkpoint", ANY_LENGTH, "--examples", 300, "--output-dir", place)
    output = invoke(*how, "--exhaustive", 9)
    assert "proved: right on sums of two numbers of any length" in output
    assert "exhaustive: right on 100 of 100: all problems of addition" in output
    found = json.loads((place / "report.json").read_text())
    assert found["schema"] == "mathllm.inspect/1"
    assert set(found["measurements"]) == QUICK
    assert [claim["strength"] for claim in found["claims"]][:2] == ["proved", "exhaustive"]
    arrays = np.load(place / "arrays.npz", allow_pickle=False)
    assert arrays["attention_mean"].shape[0] == 8
    assert {path.stem for path in (place / "pictures").iterdir()} == {
        *("attention", "ablation", "probes", "interchange", "lens", "neurons")
    }
    page = (place / "index.html").read_text()
    assert len(page) < 1.5e6
    assert not re.search(r"""(src|href)=|https?://|@import|url\(""", page)
    assert not re.search(r"\{\{\w+\}\}", page)
    assert "is there already" in invoke(*how)
    assert "failed" not in invoke(*how, "--overwrite", "--what", "lens,health", "--only", "addition")
    assert "unknown task" in invoke(*how, "--overwrite", "--only", "subtraction")
    assert set(json.loads((place / "report.json").read_text())["measurements"]) == {"lens", "health"}


def test_what_cannot_be_asked_for_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    where = ("--checkpoint", ANY_LENGTH)
    for report in ("", "{}", '{"schema": "mathllm.inspect/1"}'):  # of somebody else, or beside other files
        if report:
            (tmp_path / "mine" / "report.json").write_text(report)
        said = invoke(*where, "--output-dir", tmp_path / "mine", "--overwrite")
        assert "holds more than a report" in said
        assert (tmp_path / "mine" / "thesis.txt").exists()
    assert "unknown measurement" in invoke(*where, "--what", "auras", "--output-dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "does nothing beside a problem" in invoke("1+2", *where, "--examples", 200)
    assert "is for exactness and circuit" in invoke(
        *where, "--what", "lens", "--exhaustive", 9, "--output-dir", tmp_path / "new"
    )


def test_help_names_every_measurement() -> None:
    assert set(re.findall("[a-z]+", MEASURED)) - {"minutes"} == set(MEASUREMENTS)


def test_one_problem_in_the_terminal() -> None:
    output = invoke("58+67", "--checkpoint", ANY_LENGTH)
    assert "85+76=521<end>" in output
    assert "L0H3" in output
    document = json.loads(invoke("58+67", "--checkpoint", ANY_LENGTH, "--json"))
    assert document["tokens"][0]["token"] == "5"


# the page


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("path", [ANY_LENGTH, ADDSUB, OWN_THOUGHTS, MULTIPLY, DIVIDE, ARITHMETIC])
def test_the_page_computes_what_python_computes(path: Path, tmp_path: Path) -> None:
    model = load_checkpoint(path)
    report = inspect(model, what=["health"], examples=120)
    data = data_of(report)
    (tmp_path / "data.json").write_text(json.dumps(data))
    asked = ["7+8", "999+1", "1-100", "870+70"] if path == ADDSUB else ["7+8", "870+70", "99999+1"]
    asked = ["3+4*7-2", "5", "9*9-8*3"] if path == OWN_THOUGHTS else asked
    script = """
        const { readModel, forward, readProblem, solve } = require(process.argv[1]);
        const data = JSON.parse(require("fs").readFileSync(process.argv[2], "utf8")), model = readModel(data);
        const read = (one) => forward(model, one.ids, one.told).logits.map((row) => Array.from(row));
        const logits = data.examples.map(read);
        const solved = data.typed ? JSON.parse(process.argv[3]).map((text) => {
          const problem = readProblem(text, data);
          return [solve(model, problem, data).ids, problem.answer];
        }) : [];
        console.log(JSON.stringify({ logits, solved }));
    """
    done = subprocess.run(
        ["node", "-e", script, str(PAGE / "model.js"), str(tmp_path / "data.json"), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    for example, logits in zip(data["examples"], found["logits"], strict=True):
        ids = torch.tensor([example["ids"]])
        told = {axis: torch.tensor([known]) for axis, known in example["told"].items()}
        with torch.inference_mode():
            own = model.model(ids, told)[0]
        assert (torch.tensor(logits) - own).abs().max() < 1e-4
    assert data["typed"] == (path in (ANY_LENGTH, ADDSUB, OWN_THOUGHTS))
    for text, (ids, answer) in zip(asked, found["solved"], strict=False):
        written = model.complete(model.ask(text))
        assert ids == written.ids[0, : written.lengths[0]].tolist()
        assert answer == str(model.solve(text).expected)


def test_a_page_of_a_large_model_has_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathllm.inspection.page.page.MOST_BYTES", 1000)
    report = inspect(untrained(), what=["health"], examples=100)
    assert data_of(report)["model"] is None


def test_nothing_in_a_page_ends_its_script(tmp_path: Path) -> None:
    shutil.copytree(ADDSUB, tmp_path / "{{data}}<b>")
    report = inspect(load_checkpoint(tmp_path / "{{data}}<b>"), what=["health"], examples=100)
    write(report, tmp_path, pictures=False)
    assert "<title>{{data}}&lt;b&gt;, inside</title>" in (tmp_path / "index.html").read_text()
    page = (tmp_path / "index.html").read_text()
    assert page.count("</script>") == 2
    assert "<think>" not in page.split('id="data">')[1].split("</script>")[0]
