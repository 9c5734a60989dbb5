"""What is proved is so: windows that nothing is seen beyond, configurations that decide what is said, all of them
tried, and mistakes that are found where there are some."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import finished
from test_model import TINY, awake
from trained import trained_checkpoint
from typer.testing import CliRunner, Result

from mathllm.checkpoint import load_checkpoint, read_settings, save_model
from mathllm.cli.main import app
from mathllm.config import DataConfig, ModelConfig, build_config
from mathllm.errors import UsageError
from mathllm.finding import SHIPPED
from mathllm.formats import get_format
from mathllm.inspection.exactness import proof_of
from mathllm.math_model import MathModel
from mathllm.prove.cases import cases_of, sums, windows
from mathllm.prove.certificate import with_window, write
from mathllm.prove.exhaustive import exhaust
from mathllm.prove.hunt import hunt, smallest_leads
from mathllm.prove.local import configurations
from mathllm.prove.moves import changed
from mathllm.prove.proof import prove
from mathllm.resolve import resolve
from mathllm.scope import Scope
from mathllm.tasks import Sampling, concatenate, get_tasks, sample
from mathllm.tasks.expressions import expressions, parse_expressions
from mathllm.training.state import strange

(ADDITION,) = get_tasks("addition")
REVERSED = get_format("reversed")
OLD = Path(__file__).parent / "fixtures/format-2/add-any-length"  # says that 870+70 is 840


def windowed(window: str, **changes: object) -> MathModel:
    """An untrained model whose blocks do something."""
    how = {"position_settings": {"bias_window": window}, "max_length": 2000, **changes}
    config = dataclasses.replace(TINY, position="coupled-bias", **how)
    return MathModel(awake(config), DataConfig(task="addition", format="reversed", max_digits=4))


def logits_of(model: MathModel, texts: list[str]) -> torch.Tensor:
    gold = model.format.render(parse_expressions(texts))
    told = model.format.coordinates(gold.problems, gold.ids, model.model.axes)
    with torch.inference_mode():
        coordinates = {axis: torch.from_numpy(known) for axis, known in told.items()}
        return model.model(torch.from_numpy(gold.ids.astype(np.int64)), coordinates)


def keys_of(model: MathModel, texts: list[str]) -> np.ndarray:
    gold = model.format.render(parse_expressions(texts))
    return configurations(
        model.model, gold.ids, model.format.coordinates(gold.problems, gold.ids, model.model.axes)
    )


@pytest.mark.parametrize(("window", "below"), [("-1,0", 1), ("0", 0), ("-1", 2), ("-2,0", 2)])
@pytest.mark.parametrize("number", [0, 1])
def test_nothing_is_seen_beyond_a_window(window: str, below: int, number: int) -> None:
    model = windowed(window)
    gold = model.format.render(parse_expressions(["1111111+2222222"]))
    told = model.format.coordinates(gold.problems, gold.ids, model.model.axes)
    coordinates = {axis: torch.from_numpy(known) for axis, known in told.items()}
    column = 15 + 3  # of the token before the answer's digit at place 4
    logits = []
    for place in range(8):
        ids = torch.from_numpy(gold.ids.astype(np.int64))
        if place:  # another digit of one number there
            ids[0, 8 * number + place - 1] = 5
        with torch.inference_mode():
            logits.append(model.model(ids, coordinates)[0, column])
    for place in range(1, 8):
        assert torch.equal(logits[place], logits[0]) == (not 4 - below <= place <= 4)


def test_windows_are_distances_for_every_layer_or_for_all() -> None:
    assert windowed("-1").model.positions.parts["place"].windows == [(-1, 0)] * 2
    assert windowed(" 1, 0 ").model.positions.parts["place"].windows == [(-1, 1), (0, 0)]
    assert windowed("").model.positions.parts["place"].windows == []
    assert windowed("-1,-2").model.reach == {"place": 3}
    with pytest.raises(UsageError, match="has 3 distances for 2 layers"):
        windowed("-1,0,0")
    for wrong in ("one", "-1;0", "1.5", "--1"):
        with pytest.raises(UsageError, match="bias_window is a distance for each layer"):
            windowed(wrong)


numbers = st.integers(0, 10**9).map(lambda n: n % 10 ** (n % 9 + 1))


@settings(max_examples=30)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), st.sampled_from(["-1,0", "0", "-1"]))
def test_equal_configurations_are_answered_alike(pairs: list[tuple[int, int]], window: str) -> None:
    model = windowed(window)
    seen: dict[int, torch.Tensor] = {}
    for left, right in pairs:
        texts = [f"{left}+{right}"]
        for key, logits in zip(keys_of(model, texts)[0].tolist(), logits_of(model, texts)[0], strict=True):
            assert torch.allclose(seen.setdefault(key, logits), logits, atol=1e-4)


def test_configurations_tell_digits_apart_that_are_in_sight_and_no_others() -> None:
    model = windowed("-1,0")
    keys = keys_of(model, ["123456789+1", "123459789+1"])
    # the numbers differ at place 4: from the `=` on, before the digits of places 1 to 10
    same = (keys[0] == keys[1])[11:21].tolist()
    assert same == [place not in (4, 5, 6) for place in range(1, 11)]


@pytest.mark.parametrize("width", [1, 2])
def test_all_that_numbers_can_have_at_neighbouring_places(width: int) -> None:
    shown = {tuple(row) for row in windows(width).tolist()}
    found = set()
    for number in range(10**5):
        digits = [int(digit) for digit in reversed(str(number))] + [10] * 6
        found |= {tuple(digits[at : at + width]) for at in range(4)}
    # a lone 0 is a number's only digit
    assert found - {(0, 10), (0,)} == shown - {(0,)}


@pytest.mark.parametrize(("window", "width"), [("0", 1), ("-1,0", 2)])
def test_the_sums_hold_every_configuration_of_longer_ones(window: str, width: int) -> None:
    model = windowed(window)
    tried = np.unique(np.concatenate([predicted(model, part) for part in together(sums(ADDITION, width))]))
    rng = np.random.default_rng(0)
    for digits, stress in itertools.product((1, 2, 3, 5, 9, 30), (False, True)):
        problems = ADDITION.of_length(rng, 200, Sampling(digits), stress=stress)
        assert np.isin(predicted(model, problems), tried).all()
    # the first number shorter, or the second, a lone 0, and zeros at the top of what is seen
    mixed = sample(rng, 3000, (ADDITION,), Sampling(12, method="digits,balanced"))
    assert (mixed.lengths[:, 0] < mixed.lengths[:, 1]).mean() > 0.3
    assert np.isin(predicted(model, mixed), tried).all()
    odd = parse_expressions(["0+0", "0+99", "100+5", "5+1000", "909+1", "90909+9", "1+350153", "99999+1"])
    assert np.isin(predicted(model, odd), tried).all()
    assert len(tried) == {1: 1_310, 2: 245_595}[width]


def together(parts: object) -> list[object]:
    every = list(parts)  # type: ignore[call-overload]
    return [concatenate(every[at : at + 500]) for at in range(0, len(every), 500)]


def predicted(model: MathModel, problems: object) -> np.ndarray:
    gold = model.format.render(problems)  # type: ignore[arg-type]
    told = model.format.coordinates(gold.problems, gold.ids[:, :-1], model.model.axes)
    return configurations(model.model, gold.ids[:, :-1], told)[gold.loss_mask[:, 1:]]


def test_there_is_no_proof_without_a_window_or_for_other_tasks() -> None:
    with pytest.raises(UsageError, match="attention has no bound"):
        prove(windowed(""))
    with pytest.raises(UsageError, match="no differences of coordinates"):
        prove(MathModel(awake(TINY), DataConfig(task="addition", format="reversed")))
    with pytest.raises(UsageError, match="not known which"):
        cases_of(get_tasks("subtraction"), REVERSED, 2)
    for notation, width in ((REVERSED, 3), (get_format("scratchpad"), 2), (get_format("column"), 2)):
        with pytest.raises(UsageError, match="not known which"):
            cases_of((ADDITION,), notation, width)
    with pytest.raises(UsageError, match="see nothing above"):
        prove(windowed("1,0"))
    with pytest.raises(UsageError, match="without own_keys"):
        prove(windowed("-1,0", position_settings={"bias_window": "-1,0", "own_keys": True}))
    with pytest.raises(UsageError, match="without own_keys"):
        prove(windowed("-1,0", position_settings={"bias_window": "-1,0", "bias_axes": "place,segment"}))
    with pytest.raises(UsageError, match="has no room"):
        prove(windowed("-1,0", max_length=40))
    more = MathModel(windowed("-1,0").model, DataConfig(task="addition", format="reversed", max_operands=3))
    with pytest.raises(UsageError, match="sums of two numbers"):
        prove(more)


def test_chains_of_two_steps_hold_those_of_any_number() -> None:
    model, _ = with_window(load_checkpoint(SHIPPED / "own-thoughts"), "0")
    proof = prove(model)
    assert proof.problems == 10 + 10 * 24 + 10 * 24**2
    assert proof.long_unseen == 0
    assert proof.wrong == 0


def test_an_untrained_model_is_not_proved() -> None:
    proof = prove(windowed("0", layers=1))
    assert proof.wrong > 0
    assert not proof.holds
    assert "configurations are wrong" in proof.obstacle
    assert proof.weakest[0].lead < 0


def test_a_hunt_finds_the_mistake_that_no_sample_had_shown() -> None:
    model = load_checkpoint(OLD)
    assert model.solve("870+70").answer == 840
    found = hunt(model, seconds=60, max_digits=3, enough=1)
    assert [suspect.problem for suspect in found.wrong] == ["870+70"]
    assert found.wrong[0].said == 840
    assert found.first is not None


@pytest.mark.parametrize("way", ["hunt", "exhaust"])
def test_where_thoughts_are_a_models_own_leads_are_not_asked_for(way: str) -> None:
    config = dataclasses.replace(TINY, max_length=64)
    model = MathModel(awake(config), DataConfig(task="addition", format="slots", max_digits=3))
    with pytest.raises(UsageError, match="a model's own"):
        hunt(model, seconds=1) if way == "hunt" else exhaust(model, 9)


def test_what_a_hunt_changes_stays_a_problem_of_its_task() -> None:
    rng = np.random.default_rng(0)
    tasks = get_tasks("addition,subtraction,multiplication,division,remainder,arithmetic")
    names = ",".join(task.name for task in tasks)
    data = DataConfig(task=names, max_digits=4, second_digits=2, expression_digits=2, expression_numbers=4)
    scope = Scope(data, 1000)
    problems = sample(rng, 3000, tasks, scope.size)
    born = changed(rng, problems, scope)
    assert len(born) > 1500
    texts = expressions(born)
    assert expressions(parse_expressions(texts, tasks)) == texts
    for task in tasks:
        part = born[np.flatnonzero(born.task == task.code)]
        assert len(part) > 50
        assert not task.misfits(part).any()
    assert not scope.unseen(born)


def test_all_pairs_with_their_leads() -> None:
    tried = exhaust(load_checkpoint(OLD), 99)
    assert (tried.problems, tried.wrong) == (10_000, 0)
    assert 0 < tried.lead <= smallest_leads(load_checkpoint(OLD), parse_expressions(["1+1", "99+99"])).min()


def test_the_independent_checker_sees_other_weights(tmp_path: Path) -> None:
    config = ModelConfig("nano", 2, 16, 2, feed_forward=16, max_length=64, position="coupled-bias", activation="relu2",
                         position_settings={"bias_window": "-1,0"})  # fmt: skip
    model = awake(config)
    save_model(tmp_path, model, config, DataConfig(task="addition", format="reversed"))
    checker = Path(__file__).parents[1] / "docs/check_proof.py"
    proof = {"weights_sha256": "0", "config_sha256": "0", "problems": 254_100, "lead": 1, "error": 1e-5}
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    done = subprocess.run(
        [sys.executable, checker, tmp_path, "5000"], capture_output=True, text=True, check=False
    )
    assert "the proof is of another model.safetensors" in done.stderr


def test_a_lead_that_is_no_number_is_no_proof() -> None:
    model = windowed("0", layers=1)
    with torch.no_grad():
        model.model.head.weight[3] = torch.nan
    proof = prove(model)
    assert not proof.holds
    assert proof.lead == -math.inf
    assert not dataclasses.replace(
        proof, wrong=0, long_wrong=0, long_unseen=0, lead=5.0, double_difference=math.inf
    ).holds


def test_a_proof_that_longer_problems_contradict_is_none() -> None:
    good = prove(with_window(load_checkpoint(SHIPPED / "own-thoughts"), "0")[0])
    assert good.holds
    for change in ({"wrong": 1}, {"long_unseen": 1}, {"long_wrong": 1}, {"long_checked": 0}, {"lead": 1e-4}):
        assert not dataclasses.replace(good, **change).holds


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped chains with a window, written anew."""
    directory = tmp_path_factory.mktemp("windowed") / "chains"
    done = invoke("--checkpoint", SHIPPED / "own-thoughts", "--window", "0", "--output-dir", directory)
    assert "proved: all chains" in done.stdout
    return directory


def invoke(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["prove", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_a_checkpoint_with_a_window_is_one_of_its_own(chains: Path, tmp_path: Path) -> None:
    invoke("--checkpoint", chains, "--output-file", tmp_path / "proof.json")
    proof = json.loads((tmp_path / "proof.json").read_text(encoding="utf-8"))
    assert (proof["schema"], proof["holds"], proof["configurations"]) == ("mathllm.proof/1", True, 531)
    assert "given_window" not in proof
    with pytest.raises(UsageError, match="is there already"):
        write(load_checkpoint(chains), with_window(load_checkpoint(chains), "0")[1], chains)


def test_the_exit_code_says_whether_there_is_a_mistake(tmp_path: Path) -> None:
    how = {"position": "coupled-bias", "position_settings": {"bias_window": "0"}, "max_length": 100}
    save_model(
        tmp_path, awake(config := dataclasses.replace(TINY, **how)), config, DataConfig(format="reversed")
    )
    found = invoke(
        "--checkpoint", tmp_path, "--hunt", "--seconds", 600, code=3
    )  # it ends when there are many
    assert "the model says" in found.stdout
    assert "not proved" in invoke("--checkpoint", tmp_path, code=3).stdout
    none = invoke("--checkpoint", OLD, "--hunt", "--seconds", 1, "--max-digits", 1)
    assert "which proves nothing" in none.stdout
    pairs = json.loads(invoke("--checkpoint", OLD, "--exhaustive", 30, "--json").stdout)
    assert (pairs["schema"], pairs["problems"], pairs["wrong"]) == ("mathllm.exhaustive/1", 961, 0)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--hunt", "--window", "0"], "as it is"),
        (["--seconds", "5"], "needs --hunt"),
        (["--max-digits", "5"], "needs --hunt"),
        (["--exhaustive", "9", "--seed", "1"], "does nothing"),
        (["--output-dir", "x"], "for the checkpoint with a --window"),
        ([], "has no bound"),
        (["--window", "1,0"], "see nothing above"),
        (["--window", "one"], "distance for each layer"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        CliRunner().invoke(app, ["prove", "--checkpoint", str(OLD), *arguments], catch_exceptions=False)


def test_where_positions_are_absolute_all_pairs_are_tried() -> None:
    result = invoke("--checkpoint", trained_checkpoint(), "--json")
    assert json.loads(result.stdout)["about"] == "all problems of addition with two operands from 0 to 9"
    assert "note: positions are absolute here: nothing is known of longer numbers" in result.stderr


def test_a_run_ends_when_it_is_proved(tmp_path: Path) -> None:
    # the weights of a model that is right: it only has to be seen to be
    right = load_checkpoint(SHIPPED / "own-thoughts")
    settings = read_settings(right.path)
    run = {
        "output_dir": str(tmp_path / "run"),
        "hunt_steps": 1,
        "until_proved": True,
        "init": str(right.path),
    }
    run |= {"max_steps": 5, "batch_size": 8, "eval_examples": 20}
    data = {**dataclasses.asdict(settings.data), "train_ratio": 0.9, "val_ratio": 0.05, "curriculum_steps": 0}
    tables = {"model": settings.model.to_dict(), "data": data, "train": run}
    result = finished(build_config(tables, {"optim": {"learning_rate": 1e-9, "muon_learning_rate": 1e-9}}))
    assert (result.outcome.reason, result.outcome.step) == ("proved", 1)
    proved = load_checkpoint(tmp_path / "run")
    found = proof_of(proved)  # beside the weights that it is about
    assert found is not None
    assert found["holds"]
    assert strange(proved.path) == ""
    with pytest.raises(UsageError, match="proves after every hunt"):
        resolve(build_config(tables, {"train": {"hunt_steps": 0}}))
    other = {"init": "", "output_dir": str(tmp_path / "other")}
    with pytest.raises(UsageError, match="has no bound"):
        finished(build_config(tables, {"model": {"bias_window": ""}, "train": other}))
