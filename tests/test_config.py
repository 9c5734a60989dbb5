"""Settings: where they come from, which one wins, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

import mathllm
from mathllm.config import (
    ACTIVATIONS,
    NORMS,
    SECTIONS,
    SIZES,
    Config,
    ModelConfig,
    build_config,
    from_saved,
    load_recipe,
    recipe_names,
)
from mathllm.data.sources import sampling
from mathllm.errors import UsageError
from mathllm.flags import parse_assignments
from mathllm.formats import get_format
from mathllm.model import norms, transformer
from mathllm.registry import OBJECTIVES, POSITIONS, objective_class, position_class
from mathllm.tasks import get_tasks
from mathllm.tasks.splits import SplitRatios

RECIPES = Path(mathllm.__file__).parent / "recipes"


def recipe_file(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def shape(config: Config) -> tuple[int, int, int, int]:
    model = config.model
    return model.layers, model.hidden, model.heads, model.feed_forward


def test_without_any_setting_the_defaults_hold() -> None:
    assert build_config() == Config()
    assert build_config().model.size == "small"
    # what the class says and what the table of sizes says must not drift apart
    assert {name: getattr(ModelConfig(), name) for name in SIZES["small"]} == SIZES["small"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("nano", (2, 64, 4, 256)),
        ("small", (4, 256, 4, 512)),
        ("medium", (6, 512, 8, 1024)),
        ("large", (8, 512, 8, 2048)),
    ],
)
def test_a_size_is_a_shape(size: str, expected: tuple[int, int, int, int]) -> None:
    for config in (
        build_config({"model": {"size": size}}),
        build_config(assignments=[f"model.size={size}"]),
    ):
        assert config.model.size == size
        assert shape(config) == expected


def test_each_source_overrides_the_ones_below(tmp_path: Path) -> None:
    recipe = recipe_file(
        tmp_path,
        '[model]\nsize = "nano"\nlayers = 3\nheads = 2\n[optim]\nlearning_rate = 1\nwarmup_steps = 7\n',
    )
    config = build_config(recipe=recipe)
    assert shape(config) == (3, 64, 2, 256)  # the recipe's own words before the size it names
    assert config.optim.learning_rate == 1.0
    assert config.optim.schedule == Config().optim.schedule

    config = build_config(recipe=recipe, assignments=["model.layers=5", "optim.learning_rate=2e-3"])
    assert shape(config) == (5, 64, 2, 256)
    assert config.optim.learning_rate == 2e-3
    assert config.optim.warmup_steps == 7

    flags = {"model": {"layers": 6}, "train": {"seed": 9}}
    config = build_config(flags, recipe=recipe, assignments=["model.layers=5", "train.seed=8"])
    assert shape(config) == (6, 64, 2, 256)
    assert config.train.seed == 9

    assert build_config(flags, {"model": {"layers": 7}}).model.layers == 7
    assert build_config(assignments=["model.layers=1", "model.layers=2"]).model.layers == 2


def test_another_size_replaces_the_shape_that_came_with_a_recipe(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, '[model]\nsize = "nano"\nlayers = 3\n')
    assert shape(build_config(recipe=recipe, assignments=["model.size=medium"])) == (6, 512, 8, 1024)
    assert shape(build_config({"model": {"size": "large"}}, recipe=recipe)) == (8, 512, 8, 2048)
    assert shape(build_config({"model": {"size": "nano"}}, recipe=recipe)) == (3, 64, 4, 256)
    assert shape(build_config({"model": {"size": "large"}}, assignments=["model.layers=1"])) == (
        1,
        512,
        8,
        2048,
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model.layers=3", 3),
        (" model.layers = 3 ", 3),
        ("optim.learning_rate=1e-3", 1e-3),
        ("optim.learning_rate=1", 1.0),
        ("train.compile=true", True),
        ("train.compile=False", False),
        ("data.task=addition,subtraction", "addition,subtraction"),
        ("data.data_dir=a=b.c", "a=b.c"),
        ("train.output_dir=", ""),
    ],
)
def test_assignments_take_the_type_of_their_field(text: str, value: object) -> None:
    section, _, key = text.split("=")[0].strip().partition(".")
    found = getattr(getattr(build_config(assignments=[text]), section), key)
    assert found == value
    assert type(found) is type(value)


SET = "for example --set model.layers=3; docs/cli.md has all of them"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "model.layrs=3",
            r"unknown setting in \[model\] 'layrs'; choose from size, layers",
            "did you mean 'layers'?",
        ),
        ("optm.learning_rate=3", "unknown section 'optm'; choose from model, data", "did you mean 'optim'?"),
        ("model.size=nanno", "unknown model size 'nanno'; choose from nano, small", "did you mean 'nano'?"),
        ("model.size=", "unknown model size ''", None),
        ("model.position=ropes", "unknown position 'ropes'", "did you mean 'rope'?"),
        ("model.norm=layer_norm", "unknown norm 'layer_norm'", "did you mean 'layernorm'?"),
        ("model.activation=swish", "unknown activation 'swish'", None),
        ("optim.optimizer=adam", "unknown optimizer 'adam'", "did you mean 'adamw'?"),
        ("optim.schedule=cosin", "unknown schedule 'cosin'", "did you mean 'cosine'?"),
        ("train.precision=fp64", "unknown precision 'fp64'", None),
        ("model.layers=three", "model.layers is a whole number, not 'three'", None),
        ("model.layers=2.5", "model.layers is a whole number, not '2.5'", None),
        ("model.layers=", "model.layers is a whole number, not ''", None),
        ("model.layers=0", "model.layers must be at least 1, not 0", None),
        ("optim.learning_rate=fast", "optim.learning_rate is a number, not 'fast'", None),
        ("optim.learning_rate=nan", "optim.learning_rate must be at least 0, not nan", None),
        ("train.compile=1", "train.compile is true or false, not '1'", None),
        ("train.batch_size=0", "train.batch_size must be at least 1, not 0", None),
        ("train.target_exact_match=99", "target_exact_match is a share from 0 to 1, not 99", None),
        ("model.heads=3", "hidden 256 must be a multiple of heads 3", None),
        ("model.kv_heads=3", "heads a multiple of kv_heads 3", None),
        ("layers=3", "--set takes section.key=value, not 'layers=3'", SET),
        (
            "model.layers",
            "--set takes section.key=value, not 'model.layers'",
            SET,
        ),
        ("", "--set takes section.key=value, not ''", SET),
    ],
)
def test_assignments_that_cannot_be_used_are_refused(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_config(assignments=[text])
    assert caught.value.exit_code == 2
    if hint:
        assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nlayers = 2.5", "model.layers is a whole number, not 2.5"),
        ("[model]\nlayers = true", "model.layers is a whole number, not True"),
        ("[model]\nposition = 3", "model.position is a text, not 3"),
        ("[model]\nlayers = inf", "model.layers is a whole number, not inf"),
        ("[model]\nlayers = [1]", r"model.layers is a whole number, not \[1\]"),
        ("[model]\nsize = 3", "model.size is a text, not 3"),
        ("[train]\nseed = 1979-05-27", "train.seed is a whole number"),
        ("[optim]\ngrad_clip = nan", "optim.grad_clip is a number, not nan"),
        ("[optim]\nweight_decay = -1", "optim.weight_decay must be at least 0, not -1"),
        ("[train]\ncompile = 1", "train.compile is true or false, not 1"),
        ("[models]\nlayers = 2", "unknown section 'models'"),
        ("[model]\nlayer = 2", "unknown setting in .model. 'layer'"),
        ("layers = 2", "'layers' stands outside a table"),
        ("[model", "mine.toml is not valid TOML: "),
    ],
)
def test_recipes_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_config(recipe=recipe_file(tmp_path, text))


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"mine.toml is not valid TOML"):
        build_config(recipe=str(path))


def test_unknown_recipes_are_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'dem'") as caught:
        build_config(recipe="dem")
    assert caught.value.hint == "did you mean 'demo'?"
    with pytest.raises(UsageError, match="there is no recipe file") as caught:
        build_config(recipe=str(tmp_path / "none.toml"))
    assert caught.value.hint == f"the package has: {', '.join(recipe_names())}"


def test_every_recipe_in_the_package_is_listed() -> None:
    assert recipe_names() == sorted(path.stem for path in RECIPES.glob("*.toml"))
    assert "demo" in recipe_names()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_parses_and_builds(path: Path) -> None:
    config = build_config(recipe=path.stem)
    assert config == build_config(recipe=str(path))
    # it says what it says: each of its values is in the configuration
    for section, entries in load_recipe(path.stem).items():
        for key, value in entries.items():
            assert config.to_dict()[section][key] == value
    # and the names in it are names of something
    data = config.data
    notation = get_format(data.format, data.zero_pad)
    codes = get_tasks(data.task)
    for code in codes:
        notation.check_task(code)
    SplitRatios(data.train_ratio, data.val_ratio)
    longest = notation.longest(codes, sampling(data))
    assert config.model.max_length == 0 or config.model.max_length >= longest
    assert path.read_text(encoding="utf-8").startswith("# ")  # which says what the recipe is for


def test_a_configuration_survives_its_dictionary() -> None:
    config = build_config({"model": {"size": "nano"}, "train": {"seed": 3}}, assignments=["data.signed=true"])
    assert build_config(config.to_dict()) == config
    assert list(config.to_dict()) == list(SECTIONS)


def test_a_position_has_one_name_however_it_is_typed() -> None:
    assert build_config(assignments=["model.position=coupled + rope"]).model.position == "coupled+rope"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_config().model.layers = 3  # type: ignore[misc]


def test_assignments_become_tables() -> None:
    tables = parse_assignments(["model.layers=3", "model.heads = 2", "train.seed=1"])
    assert tables == {"model": {"layers": "3", "heads": "2"}, "train": {"seed": "1"}}
    assert parse_assignments([]) == {}


# --- settings of the position and of the objective that are chosen ---


def test_settings_of_the_chosen_position_and_objective_stand_beside_the_other_keys() -> None:
    config = build_config(
        {"objective": {"name": "gumbel", "noise": 0.5}},
        assignments=["model.position=coupled-bias+rope", "model.bias_near=0", "model.bias_axes=place, run"],
    )
    assert config.model.position_settings == {
        "random_start": 0,
        "bias_near": 0,
        "bias_decay": 3.0,
        "bias_axes": "place,run",
        "own_keys": False,
        "segments": True,
        "bias_window": "",
    }
    flat = config.to_dict()
    assert flat["model"]["bias_near"] == 0
    assert flat["objective"]["noise"] == 0.5
    assert build_config(flat) == config
    assert build_config().to_dict()["objective"] == {"name": "teacher-forcing"}
    assert "bias_near" not in build_config().to_dict()["model"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.bias_near=-1", "model.bias_near must be at least 0, not -1"),
        ("model.bias_near=0.5", "model.bias_near is a whole number, not '0.5'"),
        ("model.bias_decay=inf", "model.bias_decay must be finite"),
        ("model.position_settings=1", r"unknown setting in \[model\] 'position_settings'"),
        ("model.bias_nea=1", r"unknown setting in \[model\] 'bias_nea'"),
        ("objective.settings=1", r"unknown setting in \[objective\] 'settings'"),
        ("objective.temperature=0", "a temperature is from 0.01 to 100, not 0"),
        ("objective.estimator=none", "unknown estimator 'none'"),
    ],
)
def test_settings_of_what_is_chosen_are_checked_as_the_others_are(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_config(
            assignments=["model.position=coupled-bias", "objective.name=gumbel", text],
        )


def test_settings_of_what_is_not_chosen_are_refused_unless_they_say_nothing() -> None:
    # files of old hold all of them
    assert build_config({"model": {"bias_near": 1, "bias_decay": 3.0, "random_start": 0}}) == Config()
    assert build_config({"objective": {"noise": 1.0, "temperature": 1}}) == Config()
    with pytest.raises(UsageError, match=r"model.bias_near does nothing with position 'rope'") as caught:
        build_config(assignments=["model.bias_near=0"])
    assert caught.value.hint == "--set model.bias_near=1, or choose --position coupled-bias"
    with pytest.raises(
        UsageError, match=r"objective.noise does nothing with objective 'teacher-forcing'"
    ) as caught:
        build_config(assignments=["objective.noise=0"])
    assert caught.value.hint == "--set objective.noise=1.0, or choose --set objective.name=gumbel"


def test_settings_belong_to_the_objective_that_is_named_with_them() -> None:
    chosen = build_config(assignments=["objective.name=teacher-forcing"], recipe="chain-thoughts")
    assert chosen.objective.settings == {}
    with pytest.raises(UsageError, match=r"objective.noise does nothing"):
        build_config(
            assignments=["objective.name=teacher-forcing", "objective.noise=0"], recipe="chain-thoughts"
        )
    # earlier versions saved all settings of all objectives
    saved = {"objective": {"name": "teacher-forcing", "temperature": 2.0, "gradient_slots": 1}}
    with pytest.raises(UsageError, match="does nothing"):
        build_config(saved)
    assert build_config(from_saved(saved)) == Config()
    kept = {"objective": {"name": "gumbel", "temperature": 2.0}}
    assert from_saved(kept) == kept
    products = {"data": {"task": "addition,multiplication"}}
    assert build_config(from_saved(products)).data.second_digits == 1
    assert build_config(products).data.second_digits == 0
    assert from_saved({"data": {"task": "multiplication", "second_digits": 0}})["data"]["second_digits"] == 0
    with pytest.raises(UsageError, match="unknown setting"):
        build_config(from_saved({"objective": {"name": "teacher-forcing", "mood": 2.0}}))


@pytest.mark.parametrize("names", [POSITIONS, OBJECTIVES], ids=["positions", "objectives"])
def test_every_registered_name_leads_to_a_class_with_settings(names: dict[str, object]) -> None:
    for name in names:
        found = position_class(name) if names is POSITIONS else objective_class(name)
        assert dataclasses.is_dataclass(found.Settings)
    with pytest.raises(UsageError, match="unknown"):
        position_class("ropes") if names is POSITIONS else objective_class("gumble")


def test_names_of_norms_and_activations_are_those_that_the_model_knows() -> None:
    assert tuple(transformer.ACTIVATIONS) == ACTIVATIONS
    assert tuple(norms.NORMS) == NORMS
