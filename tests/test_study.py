"""`mathllm study`: variants and seeds of one training, measured alike, and nothing done twice."""

import json
import runpy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from runs import finished
from typer.testing import CliRunner

from mathllm.cli.main import app
from mathllm.cli.study import cell, show
from mathllm.errors import DataError, UsageError
from mathllm.evaluation.lengths import RANDOM, STRESS
from mathllm.files import toml_names
from mathllm.study import RESULT, Study, lines, load_study, shares, unit_of

ROOT = Path(__file__).parents[1]

STUDY = """
recipe = "length-100x"
seeds = 2
digits = [2, 3]
examples = 5
settings = ["model.layers=1", "model.hidden=16", "model.heads=2", "train.max_steps=3", "data.max_digits=2",
            "train.batch_size=8", "train.eval_examples=20", "train.threads=1"]

[variants]
"all of it" = []
"no places" = ["model.position=rope"]
"""


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["study", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", toml_names("studies"))
def test_every_variant_of_the_package_can_be_trained(name: str) -> None:
    study = load_study(name)
    runs = study.runs(Path("anywhere"), range(study.seeds))  # checks them all
    assert len({run.directory for run in runs}) == len(runs) == study.seeds * len(study.variants)
    assert name in invoke("--help")


def test_the_lengths_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path, picture = tmp_path / "mine.toml", tmp_path / "lengths.png"
    path.write_text(STUDY)
    invoke(path, "--output-dir", tmp_path / "out", "--seeds", "0", "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_few_lines_a_panel_that_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from mathllm.evaluation import plots

    figure = Figure()
    monkeypatch.setattr(plots, "picture", lambda *size: nullcontext(figure))
    chains = [
        {"variant": f"v{n}", "correct": 1, "num_examples": 2}
        | {
            "lengths": [
                {"task": "chain", "kind": RANDOM, "digits": d, "correct": n, "num_examples": 10}
                for d in (2, 5)
            ]
        }
        for n in range(10)
    ]
    study = Study("mine", "demo", {f"v{n}": [] for n in range(11)}, digits=(2, 5))
    drawn = lines(study, chains, RANDOM)
    assert (drawn["v7"], unit_of(chains)) == ({1: [0.7], 4: [0.7]}, ("step", 1))
    plots.plot_lengths(drawn, tmp_path / "lines.png", "steps")
    assert [len(axis.containers) for axis in figure.axes] == [5, 5], "v10 is not measured"
    assert {axis.get_xlabel() for axis in figure.axes} == {"steps"}
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == [
        f"v{n}" for n in range(5, 10)
    ]
    assert all(len({style[part] for style in plots.STYLES}) == len(plots.STYLES) == 7 for part in range(3))


def test_the_picture_of_the_docs_is_that_of_the_table() -> None:
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    found = pictures["lines"]((ROOT / "docs" / "thoughts.md").read_text(encoding="utf-8"))
    assert found["cold start"][12] == [0.946, 1.0, 1.0]
    assert found["no thought"][2] == [0.1, 0.1, 0.1]
    assert len(found) == 14


def test_a_study_from_the_beginning_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = tmp_path / "mine.toml", tmp_path / "out"
    path.write_text(STUDY)
    first = invoke(path, "--output-dir", out, "--seeds", "0", "--only", "no places")
    assert "no places" in first
    assert "all of it" not in first
    done = (out / "no-places-seed0" / RESULT).read_bytes()
    table = invoke(path, "--output-dir", out)
    assert (out / "no-places-seed0" / RESULT).read_bytes() == done, "what is finished stays"
    lines = [line for line in table.splitlines() if line.startswith(("all of it", "no places"))]
    assert len(lines) == 4  # two variants; random and carry stress
    assert all(line.split()[-1] == "2" for line in lines)  # seeds
    results = json.loads((out / "results.json").read_text())["results"]
    assert [(r["variant"], r["seed"]) for r in results] == [
        (variant, seed) for variant in ("all of it", "no places") for seed in (0, 1)
    ]
    assert {row["num_examples"] for r in results for row in r["lengths"]} == {5}
    found = shares(results, "random")
    assert set(found) == {(v, c) for v in ("all of it", "no places") for c in ("held out", "2", "3")}
    assert found["no places", "3"] == [
        row["correct"] / 5
        for r in results
        for row in r["lengths"]
        if (r["variant"], row["digits"], row["kind"]) == ("no places", 3, "random")
    ]
    # nothing is trained any more
    monkeypatch.setattr("mathllm.study.train", None)
    assert invoke(path, "--output-dir", out) == table
    assert invoke(path, "--output-dir", out, "--table") == table
    as_json = invoke(path, "--output-dir", out, "--table", "--json")
    assert json.loads(as_json) == json.loads((out / "results.json").read_text())
    for changed in (("train.max_steps=3", "train.max_steps=4"), ("digits = [2, 3]", "digits = [2]")):
        path.write_text(STUDY.replace(*changed))
        with pytest.raises(DataError, match="is of other settings"):
            invoke(path, "--output-dir", out)
        with pytest.raises(UsageError, match="no run of mine is finished"):
            invoke(path, "--output-dir", out, "--table")


def test_a_run_that_ended_is_measured_but_not_trained_again(tmp_path: Path) -> None:
    path, out = tmp_path / "mine.toml", tmp_path / "out"
    # its patience ends long before the last step
    path.write_text(STUDY.replace("max_steps=3", 'max_steps=3","train.eval_steps=1","train.patience=1'))
    invoke(path, "--output-dir", out, "--seeds", "0", "--only", "no places")
    (result,) = out.glob("*/" + RESULT)
    first = json.loads(result.read_text())
    assert first["steps"] < 40
    result.unlink()
    metrics = (result.parent / "metrics.jsonl").read_bytes()
    invoke(path, "--output-dir", out, "--seeds", "0", "--only", "no places")
    assert (result.parent / "metrics.jsonl").read_bytes() == metrics
    assert {**json.loads(result.read_text()), "eval_seconds": 0} == {**first, "eval_seconds": 0}
    result.unlink()
    with pytest.raises(DataError, match="a run of other settings"):
        invoke(path, "--output-dir", out, "--seeds", "0", "--only", "no places", "--set", "data.max_digits=1")


def test_a_run_that_was_interrupted_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    path, out = tmp_path / "mine.toml", tmp_path / "out"
    path.write_text(STUDY)
    study = load_study(str(path))
    (run,) = study.runs(out, [0], ["no places"])
    config = replace(run.config, train=replace(run.config.train, threads=2, save_steps=1, max_steps=2))
    finished(config)  # as if it had been stopped after two of three steps, on a machine with more cores
    (run.directory / "test_results.json").unlink()
    settings = json.loads((run.directory / "training_config.json").read_text())
    settings["train"] |= {"max_steps": 3, "save_steps": run.config.train.save_steps}
    (run.directory / "training_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="a run of other settings"):
        invoke(path, "--output-dir", out, "--set", "optim.learning_rate=0.5")
    invoke(path, "--output-dir", out, "--seeds", "0", "--only", "no places")
    assert json.loads((run.directory / "study_result.json").read_text())["steps"] == 3
    assert json.loads((run.directory / "training_config.json").read_text())["train"]["threads"] == 2


def test_the_table_has_all_seeds_that_are_finished(tmp_path: Path) -> None:
    path, out = tmp_path / "mine.toml", tmp_path / "out"
    path.write_text(STUDY)
    for seed in (0, 7):
        invoke(path, "--output-dir", out, "--seeds", seed, "--only", "no places")
    results = json.loads((out / "results.json").read_text())["results"]
    assert [result["seed"] for result in results] == [0, 7]
    path.write_text(STUDY.replace("max_steps=3", "max_steps=4"))
    invoke(path, "--output-dir", out, "--seeds", 1, "--only", "all of it")
    assert "2 results of other settings were left out" in invoke(path, "--output-dir", out, "--table")
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"study .*mine.toml is not valid TOML"):
        load_study(str(path))


def test_tables_say_what_is_hard_about_the_problems(capsys: pytest.CaptureFixture[str]) -> None:
    for name, variant, task, stress in (
        ("thoughts", "cold start", "chain", "no idle steps"),
        ("positions", "rope", "addition", "carry stress"),
    ):
        rows = [
            {"task": task, "kind": kind, "digits": 5, "correct": 1, "num_examples": 1}
            for kind in (RANDOM, STRESS)
        ]
        result = {"variant": variant, "seed": 0, "correct": 1, "num_examples": 1, "lengths": rows}
        show(Console(), load_study(name), results=[result], others=0, root=Path())
        titles = [line for line in capsys.readouterr().out.splitlines() if line.endswith("seeds")]
        assert [title.split("  ")[0] for title in titles] == ["random", stress]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("digits = [2, 3]", "digits = [2, 90000]"), "90,000 digits take"),
        (("digits = [2, 3]", "digits = [0]"), "digits should be a list"),
        (("seeds = 2", 'seeds = "2"'), "seeds should be how many"),
        (('"no places" = [', '"no places" = 3 #'), "variants should be lists"),
        (('"no places"', '"all-of it"'), "differ in punctuation"),
        (("model.position=rope", "model.position=ropy"), "'no places'.*ropy"),
        (("model.position=rope", "model.random_start=40000"), "'no places'.*random_start"),
        (("model.position=rope", "train.seed=3"), "train.seed itself"),
    ],
)
def test_a_study_that_cannot_end_does_not_begin(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in STUDY
    (tmp_path / "mine.toml").write_text(STUDY.replace(*change))
    with pytest.raises(UsageError, match=message):
        invoke(tmp_path / "mine.toml", "--output-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(STUDY)
    (tmp_path / "results.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"results\.json is not the result of a study"):
        invoke(tmp_path / "mine.toml", "--output-dir", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "results.json"}


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="positions"):
        load_study("position")
    (tmp_path / "bad.toml").write_text("recipe = 3\nwhat = 1\n[variants]\n")
    with pytest.raises(UsageError, match="is no study"):
        load_study(str(tmp_path / "bad.toml"))
    with pytest.raises(UsageError, match="there is no study"):
        load_study(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="rope"):
        load_study("positions").runs(tmp_path, [0], only=["ropes"])
    with pytest.raises(UsageError, match="no run of positions is finished"):
        invoke("positions", "--table", "--output-dir", tmp_path)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([1.0], "100"),
        ([0.9999], "99.9"),
        ([0.0, 1.0, 0.5], "50 (0-100)"),
        ([0.2, 0.8], "50 (20-80)"),
    ],
)
def test_cells_of_the_table_are_medians_rounded_down(values: list[float], text: str) -> None:
    assert cell(values) == text
