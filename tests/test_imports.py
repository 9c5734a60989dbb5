"""Who may import whom, and what stays light: the architecture, held by reading the imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mathllm

ROOT = Path(mathllm.__file__).parent

# from the bottom to the top: a module imports from its own level or from one below, never from above
LEVELS = [
    {"errors", "flags", "limits", "registry"},
    {"tokenizer", "config", "files", "locks", "percent", "pages"},
    {"tasks"},
    {"formats"},
    {"device", "data", "model"},
    {"resolve", "scope", "finding"},
    {"inference", "interp"},
    {"evaluation"},
    {"math_model"},
    {"checkpoint"},
    {"models", "working", "prove"},
    {"training"},
    {"chat", "api", "study", "bench", "inspection", "serve"},
    {"cli"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

# parts of one level that have nothing to do with each other
STRANGERS = [("data", "model"), ("tokenizer", "config")]

WITHOUT_TORCH = [
    "mathllm",
    "mathllm.errors",
    "mathllm.registry",
    "mathllm.tokenizer",
    "mathllm.config",
    "mathllm.tasks",
    "mathllm.tasks.expressions",
    "mathllm.tasks.splits",
    "mathllm.formats",
    "mathllm.finding",
    "mathllm.resolve",
    "mathllm.percent",
    "mathllm.cli.main",
    "mathllm.serve.server",  # until it listens
]


def modules() -> dict[str, Path]:
    """Dotted names below `mathllm` and their files; `""` is the package itself."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str) -> Iterator[str]:
    """Our own modules that a module imports, anywhere in it; a name from the package itself comes as `""`."""
    package = MODULES[name].name == "__init__.py"
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # from . import x
                here = ["mathllm", *(name.split(".") if name else [])]
                above = here[: len(here) - node.level + package]
                base = ".".join([*above, *([base] if base else [])])
            inside = base.removeprefix("mathllm").lstrip(".")
            targets = []
            for alias in node.names:
                whole = f"{inside}.{alias.name}".lstrip(".")
                targets.append(f"{base}.{alias.name}" if whole in MODULES else base)
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "mathllm":
                yield target.removeprefix("mathllm").lstrip(".")


IMPORTS = {name: sorted(set(imports_of(name))) for name in MODULES}


def test_every_module_has_its_level() -> None:
    unknown = {name.split(".")[0] for name in MODULES if name} - set(LEVEL)
    assert not unknown, "give these a level in LEVELS, and DESIGN.md a line"
    assert {"tokenizer", "tasks.base", "formats.column", "cli.main", ""} <= set(MODULES)
    # the reader sees imports: at the top, inside functions, of modules and of names
    assert "errors" in IMPORTS["tokenizer"]
    assert {"tasks", "formats.follow"} <= set(IMPORTS["formats.base"])
    assert "api" in IMPORTS[""]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name))
def test_no_module_imports_from_above(name: str) -> None:
    part = name.split(".")[0]
    for target in IMPORTS[name]:
        other = target.split(".")[0]
        if other == "":
            continue  # `from mathllm import __version__`: the test below sees to it
        assert other in LEVEL, f"{name} imports {target}, which does not exist"
        assert LEVEL[other] <= LEVEL[part], f"{name} imports {target}, which stands above it"
        assert (part, other) not in STRANGERS
        assert (other, part) not in STRANGERS


def test_the_model_knows_nothing_of_digits() -> None:
    # `from_config` names the type of what it is given
    for name in MODULES:
        if name.startswith("model."):
            below = {target.split(".")[0] for target in IMPORTS[name]}
            assert below <= {"errors", "limits", "registry", "model", "config"}
            assert "config" not in below or name == "model.transformer"


def test_the_package_itself_is_asked_for_its_version_only() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if name and isinstance(node, ast.ImportFrom) and node.module == "mathllm" and not node.level:
                names = {alias.name for alias in node.names if alias.name not in MODULES}
                assert names <= {"__version__"}, f"{name} takes {names} from the public API above it"


def test_no_modules_import_one_another_in_a_circle() -> None:
    # a package is one node with its __init__; the lazy public API on top is no part of any circle
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in IMPORTS[name]:
            if target:
                visit(target, (*path, name))
        done.add(name)

    for name in MODULES:
        if name:
            visit(name, ())


def loaded_by(name: str) -> set[str]:
    """Top-level modules that are there after importing one, in a fresh interpreter."""
    code = f"import sys, {name}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_light_modules_do_without_torch() -> None:
    # all in one interpreter: if torch is there after the last, one of them has brought it
    loaded = loaded_by(", ".join(WITHOUT_TORCH))
    assert "numpy" in loaded
    assert "torch" not in loaded
    assert not loaded & {"wandb", "safetensors", "transformers", "tokenizers"}


def test_the_command_line_answers_help_without_numpy() -> None:
    loaded = loaded_by("mathllm.cli.main")
    assert "typer" in loaded
    assert not loaded & {"numpy", "torch", "wandb", "safetensors"}
