"""Scripted conversations: lines in, what the terminal shows out."""

import io
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trained import alone, parrot, trained_checkpoint

from mathllm.chat import Chat
from mathllm.checkpoint import load_checkpoint
from mathllm.errors import MathLLMError
from mathllm.finding import TAKEN
from mathllm.inference.sampling import SamplingParams
from mathllm.math_model import MathModel
from mathllm.models import find_models
from mathllm.tokenizer import TOKENS, encode
from mathllm.working import MEANING, Page, layout, make_console


@pytest.fixture
def model() -> MathModel:
    return load_checkpoint(trained_checkpoint(task="addition,subtraction"))


class Terminal(io.StringIO):
    """Keeps what was printed; where the text `interrupt` is to come first, raises KeyboardInterrupt."""

    encoding = "utf-8"

    def __init__(self, interrupt: str = "") -> None:
        super().__init__()
        self.interrupt = interrupt

    def write(self, text: str) -> int:
        if self.interrupt and self.interrupt in text:
            self.interrupt = ""
            raise KeyboardInterrupt
        return super().write(text)


def chat_with(model: MathModel, terminal: Terminal, read_line: Callable[[str], str]) -> Chat:
    console = make_console(terminal)
    console.width = 80
    return Chat(alone(model), console, read_line)


def talk(model: MathModel, *lines: str | type[BaseException], terminal: Terminal | None = None) -> str:
    """All that is shown when these lines are typed (or these exceptions raised) and then Ctrl-D, without the
    greeting. Every prompt is checked to be asked for at the beginning of a line."""
    terminal = terminal or Terminal()
    waiting = iter([*lines, EOFError])
    start = 0

    def read_line(prompt: str) -> str:
        nonlocal start
        start = start or len(terminal.getvalue())
        assert prompt == "> "
        assert terminal.getvalue().endswith("\n")
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    chat_with(model, terminal, read_line).run()
    assert next(waiting, None) is None, "the conversation ended early"
    assert max(map(len, terminal.getvalue().splitlines())) <= 80
    return terminal.getvalue()[start:].strip("\n")


def test_a_problem_is_worked_out(model):
    assert re.fullmatch(r"  8\+9=17\n  8\+9 = 17  ✓  confidence (99|98)\.\d\d%", talk(model, "8+9"))
    for line in ("8+9=", " 8 + 9 = ", "8+9\t", "08+9"):
        assert "8+9 = 17  ✓" in talk(model, line)
    assert "9-4 = 5  ✓" in talk(model, "9-4")


def test_the_greeting_says_what_the_model_can_do(model):
    terminal = Terminal()
    talk(model, terminal=terminal)
    greeting = terminal.getvalue()
    assert str(model.path) in greeting.replace("\n", "").replace("  ", "")
    assert "parameters" in greeting
    assert "trained on addition and subtraction of numbers of up to 1 digit\n" in greeting
    assert "column format: digit columns" in greeting
    assert "type a problem like 6+1, or /help; Ctrl-D leaves" in greeting


def test_steps_and_answer_in_the_other_notations():
    trained = load_checkpoint(trained_checkpoint("reversed"))
    assert talk(trained, "8+9").startswith("  8+9=71\n  8+9 = 17  ✓")
    two = "<think>99+12=021</think><think>021+5=521</think>125<end>"
    shown = talk(parrot(two, format="pairwise", max_operands=3), "99+21+5")
    assert shown.startswith("  99+12=021\n  021+5=521\n  99+21+5 = 125  ✓  confidence")
    shown = talk(parrot("021<end>", format="reversed"), "99+21")
    assert shown.startswith("  99+12=021\n  99+21 = 120  ✓")
    shown = talk(parrot("120<end>", format="plain"), "99+21")
    assert shown.startswith("  99+21 = 120  ✓")
    shown = talk(parrot("<think>1-2=-1</think>-1<end>", task="subtraction", signed=True), "1-2")
    assert shown.startswith("  1-2=-1\n  1-2 = -1  ✓")
    shown = talk(parrot("0120<end>", format="plain", zero_pad=True), "99+21")
    assert shown.startswith("  99+21 = 0120  ✓")


def test_every_step_stands_on_its_own_line():
    text = "<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>"
    *lines, last = talk(parrot(text), "658+189").splitlines()
    assert lines == [
        "  8+9=17",
        "  5+8+1=14",
        "  6+1+1=8",
    ]
    assert re.fullmatch(r"  658\+189 = 847  ✓  confidence \d\d\.\d\d%", last)


def test_wrong_answers_and_answers_that_are_none(model):
    assert "12+34 = 45  ✗ it is 46  confidence" in talk(parrot("45<end>", format="plain"), "12+34")
    assert "32+9=2" in (shown := talk(parrot("2<end>", format="reversed"), "23+9"))
    assert "23+9 = 2  ✗ it is 32" in shown
    for text in ("<end>", "4+<end>", "=<end>", "<think>45<end>", "4</think>5<end>"):
        shown = talk(parrot(text, format="plain"), "12+34").splitlines()
        assert "  ✗ that is no number; 12+34 = 46  confidence" in shown[-1]
        assert "" not in shown
    for text in ("<end>", "<think></think><end>", "<think>4+2=6<end>", "46<end>", "<think>1</think>2+<end>"):
        shown = talk(parrot(text), "12+34").splitlines()
        assert "  ✗ that is no number; 12+34 = 46  confidence" in shown[-1]
    for backwards in ("-<end>", "<end>", "1+<end>"):
        assert "✗ that is no number" in talk(parrot(backwards, format="reversed"), "12+34")
    # babble to the end of the room
    shown = talk(parrot("12", max_length=20, format="plain"), "12+34").splitlines()
    assert shown[0] == "  12+34 = 12222222222222"
    assert shown[1].startswith("  ✗ it came to no end; 12+34 = 46")


def test_an_unfinished_problem_is_finished_by_the_model(model):
    for line in ("7+", " 7 + ", "1+2+", "9-"):
        head = line.replace(" ", "")
        note, *rest = talk(model, line).splitlines()
        match = re.fullmatch(
            rf"  the model chose ({re.escape(head)}\d) \(it was trained only on what follows the =\)", note
        )
        assert match  # one digit, as many as it was trained on
        assert any(text.startswith(f"  {match[1]} = ") for text in rest)
        assert head.count("+") > 1 or match[1].startswith("9-") or "✓" in rest[-1]


def test_an_unfinished_problem_that_cannot_be_finished(model):
    for line, caret in (
        ("+", "  ^"),
        ("7++", "    ^"),
        ("9-1-2-1-3-1-", "             ^"),
        ("x+", "  ^"),
    ):
        shown = talk(model, line).splitlines()
        assert shown[0] == caret, line
        # of the trial digit nothing is heard ("at most 4,000 digits" is not it)
        assert all("0" not in text.replace("4,000", "") for text in shown)
    assert "room for 32" in talk(model, "1" * 40 + "+")


@pytest.mark.parametrize(
    ("line", "position", "message"),
    [
        ("12+3a", 4, "character 'a' at position 5 is not one of the tokens"),
        ("1++2", 2, "a number was expected here"),
        ("1+-2", 2, "a number was expected here"),
        ("-1+2", 0, "a number was expected here"),
        ("=", 0, "there is no problem here"),
        ("==", 0, "does not belong"),
        ("12", 2, "the problem ends too early"),
        ("1+2=x", 4, "what follows the '=' is no whole number"),
        ("1+2==3", 4, "what follows the '=' is no whole number"),
        ("(1+2)", 0, "character '(' at position 1: a problem has no brackets"),
        ("1.5+2", 1, "character '.' at position 2: a problem has no decimals"),
        ("-5+3", 0, "a number was expected here: only factors and results may be below zero"),
        ("1+2-3+1+1+1+1", 11, "'+' does not fit: an expression has 2 to 6 numbers"),
        ("6/0", 2, "nothing can be divided by zero"),
        ("<think>", 0, "does not belong"),
        ("٣+٤", 0, "character '٣' at position 1"),
        ("３−４＋−", 4, "a number was expected here"),
        ("½", 0, "character '½' at position 1"),
        ("\x00+1", 0, "position 1"),
        ("1+\x1b[31m", 2, "position 3"),
        ("[bold]1[/bold]", 0, "character '['"),
        ("\ud800+1", 0, "position 1"),
    ],
)
def test_what_is_no_problem_gets_a_caret(model, line, position, message):
    shown = talk(model, line).splitlines()
    at = next(i for i, text in enumerate(shown) if text.strip() == "^")
    # under what was typed, two columns to the right because of the prompt
    assert shown[at] == " " * (2 + position) + "^"
    assert at == 0 or shown[0].startswith("  ")  # repeated where the terminal would not show it as it is
    assert message in " ".join(text.strip() for text in shown)
    assert "\x1b" not in "".join(shown)


def test_a_long_line_is_shown_around_its_error(model):
    shown = talk(model, "1" * 500 + "x" + "1" * 500).splitlines()
    assert shown[0][shown[1].index("^")] == "x"
    assert "at position 501" in shown[2]


def test_numbers_that_are_too_long(model):
    assert "more than 4,000 digits" in talk(model, "9" * 10_000 + "+1")
    shown = talk(model, "9" * 3_000 + "+1")
    assert "the problem alone takes 3,003 tokens, and this model has room for 32" in shown
    assert "it was trained on problems of numbers of up to 1 digit" in shown
    assert "the problem and its solution take 37 tokens" in talk(model, "1111+2222").replace("\n ", "")


def test_what_was_never_seen_in_training_is_answered_with_a_note(model):
    never = "  in training this model never saw "
    assert talk(model, "12+3").startswith(never + "a number of more than 1 digit\n")
    assert talk(model, "1+2+3").startswith(never + "a problem of more than 2 numbers\n")
    assert talk(model, "1-2").startswith(never + "a result below zero\n")
    for line in ("12+3", "1+2+3", "1-2"):
        assert "confidence" in talk(model, line)
    adder = parrot("1<end>", format="plain")
    assert talk(adder, "3-2").startswith(never + "a problem of subtraction\n")
    assert never not in talk(adder, "999+999")


def test_empty_lines_do_nothing(model):
    assert talk(model, "", "   ", "\t").strip() == ""


def test_help_names_every_command(model):
    for line in ("/help", "help", "/HELP", " /help "):
        shown = talk(model, line)
        for command in (
            "/temperature",
            "/tokens",
            "/checkpoint",
            "/help",
            "quit, exit",
            "Ctrl-D",
            "Ctrl-C",
            "658+",
        ):
            assert command in shown


@pytest.mark.parametrize("word", ["quit", "exit", "/quit", "/exit", "QUIT", " exit "])
def test_leaving(model, word):
    lines = [word]
    Chat(alone(model), make_console(Terminal()), lambda _: lines.pop()).run()


@pytest.mark.parametrize("line", ["quit now", "help me", "exit 1+1"])
def test_more_than_a_word_is_no_command(model, line):
    assert f"character {line[0]!r} at position 1" in talk(model, line)


def test_ctrl_d_leaves_the_cursor_on_a_new_line(model):
    terminal = Terminal()
    talk(model, terminal=terminal)
    assert terminal.getvalue().endswith("leaves\n\n\n")


def test_unknown_commands_name_the_nearest(model):
    shown = talk(model, "/temprature 1", "/", "/xyz")
    assert "unknown command '/temprature'" in shown
    assert "did you mean '/temperature'?" in shown
    assert "unknown command '/'" in shown
    shown = talk(model, "/tem 0.5", "/h", "/TOK on", "/t 1")
    assert "temperature 0.5" in shown
    assert "Ctrl-D" in shown
    assert "tokens are shown after every answer" in shown
    assert "unknown command '/t'" in shown
    assert "did you mean '/temperature'?" in talk(model, "/temprature 1")
    assert "did you mean" not in talk(model, "/tmp")


def test_an_answer_of_no_more_than_so_many_tokens(model):
    terminal = Terminal()
    chat = Chat(alone(model), make_console(terminal), input, most=3)
    chat.handle("8+9")
    assert len(chat.written) == 3
    assert "it came to no end; 8+9 = 17" in terminal.getvalue()


def test_a_stated_answer_is_checked(model):
    assert talk(model, "8+9=17").endswith("\n  8+9=17 is true")
    assert talk(model, " 8 + 9 = 018 ").endswith("\n  8+9=18 is not true: it is 17")
    assert "8+9 = 17  ✓" in talk(model, "8+9=18")


def test_what_keyboards_make_of_signs_is_read(model):
    assert "9-4 = 5  ✓" in talk(model, "９−４＝")
    assert "the model chose 7+" in talk(model, "7＋")


def test_the_model_that_has_learned_it_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_checkpoint(), "checkpoints/adder")
    waiting, terminal = (
        iter(["8+9", "9-4", "9-5", "7-", "x", "8+9", "/checkpoint addsub-3digit", "8+9"]),
        Terminal(),
    )
    console = make_console(terminal)
    console.width = 120

    def read_line(_):
        line = next(waiting, None)
        if line is None:
            raise EOFError
        return line

    Chat(find_models(), console, read_line).run()
    shown = [line.strip() for line in terminal.getvalue().splitlines()]
    assert "what it has not learned, another may answer: " + ", ".join(TAKEN[:3]) + " and 1 more" in shown
    never = "arithmetic answers: checkpoints/adder never saw a problem of subtraction"
    assert [line for line in shown if "answers" in line] == [never, "checkpoints/adder answers"]
    assert sum("✓" in line for line in shown) >= 5
    assert shown[-6].endswith("columns with carries and borrows, as in school"), "which is the only one now"


def test_temperature(model):
    shown = talk(
        model,
        "/temperature",
        "/temperature 0.5",
        "temperature",
        "/temperature x",
        "/temperature -1",
        "/temperature nan",
    )
    assert "temperature 0 (always the likeliest token)" in shown
    assert shown.count("temperature 0.5") == 2
    assert "a temperature is a number like 0.8, not 'x'" in shown
    assert "must be from 0 (greedy) to 100, not -1" in shown
    chat = chat_with(model, Terminal(), lambda _: "")
    chat.handle("/temperature 0.5")
    assert (chat.params, model.params) == (SamplingParams(0.5), SamplingParams()), "of this chat alone"
    chat.handle(f"/checkpoint {trained_checkpoint()}")
    assert (chat.model.path, chat.params) == (trained_checkpoint(), SamplingParams(0.5)), "it stays"
    answers = set(re.findall(r"4\+4 = (\S+)", talk(model, "/temperature 100", *["4+4"] * 8)))
    assert len(answers) > 1


def test_tokens(model):
    shown = talk(model, "/tokens", "8+9", "/tokens")
    assert "there is no answer yet" in shown
    table = [line.split() for line in shown.splitlines()[shown.splitlines().index("") + 1 :]][3:]
    ids = encode("8+9=<think>8+9=17</think>17<end>").tolist()
    assert table[0] == ["position", "id", "token", "probability", "runner-up"]
    assert [row[:3] for row in table[1:]] == [[str(i), str(t), TOKENS[t]] for i, t in enumerate(ids)]
    assert all(len(row) == 3 for row in table[1:5])  # the prompt
    for row in table[5:]:
        assert float(row[3].strip("<>%")) > 90
        assert row[4] in TOKENS
        assert row[4] != row[2]
        assert float(row[5].strip("<>%")) < 10
    narrow = Terminal()
    chat = chat_with(model, narrow, input)
    chat.console.width = 40
    chat.handle("8+9")
    chat.handle("/tokens")
    lines = narrow.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert "…" not in narrow.getvalue()
    assert lines[2].split() == ["at", "id", "token", "sure", "or"]
    shown = talk(model, "/tokens on", "8+9", "/tokens off", "8+9", "/tokens maybe")
    assert shown.count("position") == 1
    assert "unknown setting of /tokens 'maybe'" in shown


def test_changing_the_checkpoint(model, tmp_path):
    other = trained_checkpoint("reversed")
    short = tmp_path / "short"
    short.symlink_to(other)
    shown = talk(model, f"/checkpoint {short}", "8+9", "/tokens", "/checkpoint")
    assert shown.count("reversed format") == 2
    assert "  8+9=71\n  8+9 = 17  ✓" in shown


def broken(tmp_path: Path, name: str) -> Path:
    directory = tmp_path / name
    shutil.copytree(trained_checkpoint(), directory)
    weights, config = directory / "model.safetensors", directory / "config.json"
    if name == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif name == "garbage":
        weights.write_bytes(b"garbage" * 100)
    elif name == "empty":
        config.write_bytes(b"")
    elif name == "vocabulary":
        config.write_text(config.read_text().replace('"<think>"', '"<thing>"'))
    elif name == "shape":
        config.write_text(config.read_text().replace('"hidden": 64', '"hidden": 128'))
    elif name == "weightless":
        weights.unlink()
    return directory


@pytest.mark.parametrize("name", ["truncated", "garbage", "empty", "vocabulary", "shape", "weightless"])
def test_a_broken_checkpoint_leaves_the_old_one_in_place(model, tmp_path, name):
    path = broken(tmp_path, name)
    shown = talk(model, "/temperature 1e-9", f"/checkpoint {path}", "8+9", "/checkpoint", "/temperature")
    assert "8+9 = 17  ✓" in shown
    assert "trained on addition and subtraction" in shown  # still the old one
    assert shown.endswith("temperature 1e-09")


@pytest.mark.parametrize("path", ["/no/such/place", "x" * 5000, "\0", ".", "~", "~nobody-at-all/x"])
def test_a_checkpoint_that_is_none(model, path):
    assert "8+9 = 17  ✓" in talk(model, f"/checkpoint {path}", "8+9")


def test_ctrl_c_stops_only_the_answer():
    text = "<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>"
    for interrupt in range(len(encode(text))):
        shown = talk(parrot(text, interrupt=interrupt), "658+189", "/temperature", "/tokens")
        assert "\n  stopped\n" in "\n" + shown
        assert "✓" not in shown
        assert "temperature 0" in shown
        assert shown.splitlines()[-1].split()[0] == str(len("658+189=") - 1 + interrupt)


@pytest.mark.parametrize("place", ["  8", "  8+9 = ", "confidence"])
def test_ctrl_c_while_something_is_printed(model, place):
    shown = talk(model, "8+9", "3+4", terminal=Terminal(interrupt=place))
    assert "stopped" in shown
    assert "3+4 = 7  ✓" in shown


def test_ctrl_c_at_the_prompt_gives_a_new_line(model):
    shown = talk(model, KeyboardInterrupt, "8+9", KeyboardInterrupt)
    assert shown.startswith("  8+9=17")
    assert "stopped" not in shown


def test_without_unicode_the_verdict_is_in_words(model):
    class Old(Terminal):
        encoding = "ascii"

    shown = talk(model, "8+9", terminal=Old())
    assert "8+9 = 17  right  confidence" in shown
    assert talk(parrot("1<end>", format="plain"), "8+9", terminal=Old()).isascii()


def test_colours_only_where_there_are_any(model, monkeypatch):
    for variable in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TERM", "xterm-256color")

    class Tty(Terminal):
        def isatty(self) -> bool:
            return True

    assert "\x1b[36m" in talk_raw(model, Tty())
    assert "\x1b" not in talk_raw(model, Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in talk_raw(model, Tty())


def talk_raw(model: MathModel, terminal: Terminal) -> str:
    Chat(alone(model), make_console(terminal), lambda _: "8+9").handle("8+9")
    return terminal.getvalue()


@example("column", [11, 10, 10])  # a % that turns out to be a - and a *
@example("scratchpad", encode("<think>*4=840+=840*3").tolist())
@given(st.sampled_from(["column", "scratchpad"]), st.lists(st.integers(0, 14), max_size=40))
def test_streaming_shows_what_is_there_in_the_end(notation, ids):
    terminal = Terminal()
    model = parrot("<end>", task="multiplication", format=notation)
    lay_out = partial(layout, model, model.ask("12*34"), 80)
    page = Page(make_console(terminal), "LEAD", "bold", lay_out)
    shown = ""
    for length in range(1, len(ids) + 1):
        page.show(ids[:length], done=False)
        assert terminal.getvalue().startswith(shown)
        shown = terminal.getvalue()
    page.show(ids, done=True)
    thought, answer = lay_out(ids)
    assert terminal.getvalue() == thought.replace(MEANING, "") + ("LEAD" + answer if answer else "")


def test_rows_of_working_say_what_they_are_where_there_is_room():
    model = parrot("<think>*4=840+=940</think>904<end>", task="multiplication", format="scratchpad")
    shown = talk(model, "12*34")
    assert "  *4=840      12*4 = 48\n  +=940       so far 49\n" in shown
    assert "12*4" not in layout(model, model.ask("12*34"), 20, encode("<think>*4=840+=940").tolist())[0]


@given(st.text(max_size=30) | st.text("0123456789+-=/ quitexhlp<>#k", max_size=12))
def test_no_line_ends_the_chat_with_an_error(line):
    model = parrot("<think>1+2=3</think>3<end>", max_digits=2)
    chat = Chat(alone(model), make_console(Terminal()), lambda _: line)
    try:
        chat.handle(line)
    except MathLLMError as error:
        chat.show_error(error, line)


@pytest.mark.parametrize(
    ("line", "who"), [("7/", "arithmetic"), ("17%", "arithmetic"), ("12345678901/", "divide-any-length")]
)
def test_an_unfinished_quotient_goes_to_who_has_learned_it(line, who, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_checkpoint(), tmp_path / "checkpoints" / "adder")
    chat = Chat(find_models(), make_console(Terminal()), lambda _: "")
    asked, notes = chat.problem(line)
    assert chat.model.path.name == who
    assert asked.problems.operands[0, -1].any()
    assert "the model chose" in notes[0]
