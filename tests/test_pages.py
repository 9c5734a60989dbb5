"""Both pages in a real browser: nothing from elsewhere, no error, for everybody, and what they show is true."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Server, serving
from typer.testing import CliRunner

import mathllm
from mathllm.cli.main import app
from mathllm.inspection.page.page import can_be_typed, write_page
from mathllm.inspection.report import inspect
from mathllm.serve.app import PAGE
from mathllm.tasks.expressions import expressions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine"),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


class Visit:
    """A page that notes what it asks for and what goes wrong."""

    def __init__(self, browser: Any, home: str, **how: Any) -> None:
        self.page = browser.new_context(**how).new_page()
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        self.page.on(
            "request",
            lambda asked: self.elsewhere.append(asked.url) if not asked.url.startswith(home) else None,
        )
        self.page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def check(self) -> None:
        """Nothing from elsewhere, no error, nothing that some readers cannot use, and no sideways scroll."""
        from axe_playwright_python.sync_playwright import Axe

        assert self.elsewhere == []
        assert self.errors == []
        found = Axe().run(self.page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


LOOKS = [
    {"viewport": {"width": 1280, "height": 900}},
    {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    {"viewport": {"width": 320, "height": 640}},
]


@pytest.mark.parametrize("how", LOOKS)
def test_the_page_of_the_server(browser: Any, server: Server, how: dict[str, Any]) -> None:
    visit = Visit(browser, server.url, **how)
    page = visit.page
    page.goto(server.url)
    page.fill("#problem", "12*34")
    page.press("#problem", "Enter")
    page.wait_for_selector("#verdict .right")
    assert "12*34 = 408" in page.inner_text("#verdict")
    assert "12*30 = 360" in page.inner_text("#thought")
    page.click("#look")
    page.wait_for_selector("#heads canvas")
    page.focus("#heads [aria-checked=true]")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#looked").startswith("Head L0H1")
    page.fill("#count", "300")
    page.click("#hunt-go")
    page.locator("#found", has_text="The search has ended: 0 wrong of 300.").wait_for()
    assert "at most 1.3% are wrong" in page.inner_text("#tally")
    visit.check()


def test_a_token_is_changed_and_the_answer_follows(browser: Any, server: Server) -> None:
    visit = Visit(browser, server.url)
    page = visit.page
    page.goto(f"{server.url}/#q=658%2B189&m=addsub-3digit")
    page.wait_for_selector("#verdict .right")
    page.locator("#thought .token", has_text="7").first.click()
    assert page.locator("#other [data-token]").count() == 16
    assert page.locator("#other [data-token='<end>']").is_disabled()  # nothing can be written behind it
    page.click("#other [data-token='9']")
    page.wait_for_selector("#verdict .wrong")
    assert "658+189 = 849" in page.inner_text("#verdict")
    assert "The answer follows your change: before, it was 847." in page.inner_text("#verdict")
    page.fill("#problem", "5//2")
    page.press("#problem", "Enter")
    page.locator("#verdict", has_text="character 3").wait_for()
    assert page.get_attribute("#problem", "aria-invalid") == "true"
    visit.check()


STEPS = [{"viewport": {"width": 1280, "height": 900}}, {"viewport": {"width": 320, "height": 640}}]


@pytest.mark.parametrize("how", STEPS)
def test_a_step_is_rewritten_by_keyboard_alone(browser: Any, server: Server, how: dict[str, Any]) -> None:
    visit = Visit(browser, server.url, **how)
    page = visit.page
    page.goto(f"{server.url}/#q=658%2B189&m=addsub-3digit")
    page.wait_for_selector("#verdict .right")
    page.focus("#thought [tabindex='0']")  # the one stop of the Tab key
    assert page.locator("#thought [tabindex='0']").count() == 1
    page.keyboard.press("ArrowDown")
    while page.evaluate("document.activeElement.className") != "step-edit":
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.input_value("#step-text") == "5+8+1=14"
    for wrong, said in (("5+x=1", "Character 3, “x”"), ("5<end>", "Leave out <end>")):
        page.fill("#step-text", wrong)
        page.keyboard.press("Enter")
        assert said in page.inner_text("#step-said")
        assert page.get_attribute("#step-text", "aria-invalid") == "true"
    visit.check()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "step-edit"
    page.keyboard.press("Enter")
    page.fill("#step-text", "5+8+1=19")
    page.keyboard.press("Enter")
    page.wait_for_selector("#verdict .wrong")
    assert "658+189 = 897" in page.inner_text("#verdict")
    assert "The answer follows your change: before, it was 847." in page.inner_text("#verdict")
    assert page.evaluate("document.activeElement.className") == "step-edit"  # one more step can be changed
    assert page.locator("#thought .put").count() == len("5+8+1=19")
    visit.check()


def test_what_is_seen_is_sent_by_its_address(browser: Any, server: Server) -> None:
    """Temperature, seed and changes: two visits see the same, and another seed something else."""
    visit = Visit(browser, server.url)
    page = visit.page
    page.goto(f"{server.url}/#q=7856%2B1849&m=arithmetic&t=2&s=3")
    page.locator("#verdict .number").wait_for()
    assert page.is_visible("#seed")
    page.locator("#thought .step-edit").first.click()
    page.fill("#step-text", "5=1")
    page.click("text=Go on from here")
    page.locator("#verdict", has_text="your change").wait_for()
    assert "chance has a part" in page.inner_text("#verdict")
    shown, address = page.inner_text("#thought"), page.url
    friend = Visit(browser, server.url)
    friend.page.goto(address)
    friend.page.locator("#verdict", has_text="your change").wait_for()
    assert friend.page.inner_text("#thought") == shown
    assert friend.page.input_value("#seed") == "3"
    friend.page.click("#again")
    friend.page.locator("#verdict .number").wait_for()
    assert "s=3" not in friend.page.url
    assert "e=" not in friend.page.url
    for one in (visit, friend):
        one.check()


def test_what_is_shown_is_kept_in_a_file(browser: Any, server: Server, tmp_path: Path) -> None:
    visit = Visit(browser, server.url)
    page = visit.page
    page.goto(f"{server.url}/#q=12*34")
    page.wait_for_selector("#verdict .right")
    page.click("#look")
    page.wait_for_selector("#heads canvas")
    with page.expect_download() as kept:
        page.click("#save")
    assert kept.value.suggested_filename == "mathllm 12x34.html"
    file = tmp_path / "kept.html"
    kept.value.save_as(file)
    visit.check()
    text = file.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<button" not in text
    assert "http://" not in text
    alone = Visit(browser, file.as_uri())
    alone.page.goto(file.as_uri())
    said = alone.page.inner_text("body")
    assert "12*34 = 408" in said
    assert "right" in said
    assert "12*30 = 360" in said
    assert alone.page.locator("#heads img").count() == page.locator("#heads canvas").count()
    assert alone.page.evaluate("[...document.images].every((image) => image.naturalWidth > 1)")
    assert alone.page.locator("tbody tr").count() == 30  # a row a token, and a * is two
    # it looks as it did: its own style is allowed there
    assert alone.page.evaluate("getComputedStyle(document.querySelector('.line')).display") == "grid"
    alone.check()


def test_the_page_is_small(server: Server) -> None:
    assert sum(len(server.get(f"/static/{name}" if name else "/")[1].encode()) for name in PAGE) < 60_000


def test_the_page_takes_a_key(browser: Any) -> None:
    with serving("--checkpoint", "addsub-3digit", MATHLLM_API_KEYS="sesame") as guarded:
        visit = Visit(browser, guarded.url)
        page = visit.page
        page.goto(guarded.url)
        page.locator("#verdict", has_text="an API key is needed").wait_for()
        page.fill("#key", "sesame")
        page.press("#key", "Tab")
        page.fill("#problem", "1+2")
        page.press("#problem", "Enter")
        page.locator("#verdict", has_text="1+2 = 3").wait_for()
        assert visit.elsewhere == []
        assert all("401" in error for error in visit.errors)  # which the browser itself tells of


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of table."""
    place = tmp_path_factory.mktemp("inspect") / "report"
    what = "attention,ablation,probes,interchange,lens,neurons"
    arguments = ["inspect", "--checkpoint", "add-any-length", "--what", what, "--examples", "100"]
    ended = CliRunner().invoke(app, [*arguments, "--output-dir", str(place)])
    assert ended.exit_code == 0, ended.output
    return place


@pytest.mark.parametrize("how", LOOKS)
def test_the_page_of_inspect(browser: Any, report: Path, how: dict[str, Any]) -> None:
    home = (report / "index.html").as_uri()
    visit = Visit(browser, home, **how)
    page = visit.page
    page.goto(home)
    page.fill("#problem", "87654+98765")
    page.press("#problem", "Enter")
    page.locator("#verdict", has_text="186419").wait_for()
    page.uncheck("[data-part=L0H3]")  # without it, it comes to no end
    page.locator("#verdict .wrong").wait_for(timeout=5000)
    visit.check()


EVERY = sorted(path.parent.name for path in Path("checkpoints").glob("*/model.safetensors"))
FOLLOWED = """(asked) => {
  const data = JSON.parse(document.getElementById("data").textContent), model = readModel(data);
  return asked.map(([problem, ids]) => {
    const shown = ids.slice(0, -1), { told } = follow(readProblem(problem, data), shown, data);
    return { problem, logits: forward(model, shown, told).logits.map((row) => Array.from(row)) };
  });
}"""
READ = """() => {
  const data = JSON.parse(document.getElementById("data").textContent), model = readModel(data);
  return data.examples.map((example) => {
    const told = Object.entries(example.told).map(([axis, values]) => [axis, values.slice(0, -1)]);
    const { logits } = forward(model, example.ids.slice(0, -1), Object.fromEntries(told));
    return { problem: example.problem, logits: logits.map((row) => Array.from(row)) };
  });
}"""


@pytest.mark.parametrize("name", EVERY)
def test_the_model_in_the_page_is_the_model(browser: Any, name: str, tmp_path: Path) -> None:
    """Its logits on more than 200 texts of all models together, and its size."""
    model = mathllm.load(name)
    file = tmp_path / "index.html"
    report = inspect(model, what=["health"], examples=200)
    write_page(report, file)
    assert file.stat().st_size <= 1_500_000
    page = Visit(browser, file.as_uri()).page
    page.goto(file.as_uri())
    found = page.evaluate(READ)
    if can_be_typed(model):
        gold = report.texts.gold[:70]
        texts = [ids[:length].tolist() for ids, length in zip(gold.ids, gold.lengths, strict=True)]
        found += page.evaluate(FOLLOWED, list(zip(expressions(gold.problems), texts, strict=True)))
    for one in found:
        run = model.run_with((), [one["problem"]])
        logits = run.logits[0].numpy()
        # what the format rules out has no logit in Python
        off = np.where(np.isfinite(logits), one["logits"] - logits, 0)
        assert np.abs(off).max() < 1e-4
