"""`mathllm serve`: models that programs and browsers can ask."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from mathllm.cli import options
from mathllm.cli.options import number, option, path
from mathllm.errors import UsageError, remark
from mathllm.flags import MACHINE, MODEL

NETWORK, LIMITS = "Network", "Limits"


def serve(
    *,
    checkpoint: options.Checkpoint = None,
    model: Annotated[
        list[str] | None,
        option("A checkpoint under a name; repeatable.", MODEL, metavar="NAME=PATH", default="all that ship"),
    ] = None,
    watch: Annotated[
        bool, option("Look for newer weights every 5 seconds (of a run: its best).", MODEL, "--watch")
    ] = False,
    host: Annotated[
        str, option("The address to listen on: 0.0.0.0 is open to the network.", NETWORK)
    ] = "127.0.0.1",
    port: Annotated[int, option("0: any that is free.", NETWORK, min=0, max=65_535)] = 8000,
    allowed_hosts: Annotated[
        str | None,
        option(
            "Names that it answers to, with commas; *: all.",
            NETWORK,
            default="this machine's own; all, with another --host",
        ),
    ] = None,
    cors_origins: Annotated[
        str | None, option("Pages elsewhere that may ask, with commas.", NETWORK, default="none")
    ] = None,
    max_queue: Annotated[int, number("Requests that may wait; more are refused.", LIMITS)] = 128,
    max_tokens: Annotated[int, number("Tokens of a text.", LIMITS, 32)] = 2048,
    rate: Annotated[float, option("Requests a second of one caller; 0: any.", LIMITS, min=0)] = 0.0,
    deadline: Annotated[float, option("Seconds after which a request is not begun.", LIMITS, min=0)] = 30.0,
    drain_timeout: Annotated[
        float, option("Seconds to finish what runs when it is stopped.", LIMITS, min=0)
    ] = 30.0,
    log_problems: Annotated[
        bool, option("Have the log tell what was asked, too.", LIMITS, "--log-problems")
    ] = False,
    threads: Annotated[int, number("Threads that compute.", MACHINE)] = 1,
) -> None:
    """Answer programs and browsers over HTTP, on this machine alone unless --host says otherwise.

    http://127.0.0.1:8000 shows a page to play with. Programs ask /v1/solve, or what OpenAI's clients know:
    docs/serve.md has all of it. API keys come from MATHLLM_API_KEYS (with commas), one for /admin from
    MATHLLM_ADMIN_KEY; or from the files that MATHLLM_API_KEYS_FILE (a key a line) and MATHLLM_ADMIN_KEY_FILE name.

    \b
    mathllm serve
    mathllm serve --checkpoint checkpoints/mine --port 9000
    mathllm serve --model sums=add-any-length --model mine=checkpoints/mine --watch
    curl localhost:8000/v1/solve -H 'Content-Type: application/json' -d '{"expressions": ["658+189"]}'
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None or find_spec("prometheus_client") is None:
        raise UsageError("the server needs more than mathllm brings", "pip install 'mathllm[serve]'")
    from mathllm.serve.server import run
    from mathllm.serve.settings import LOOPBACK, Settings

    if "*" in names(cors_origins):
        raise UsageError("--cors-origins names pages, and * is none", "for example https://example.org")
    keys = names(os.environ.get("MATHLLM_API_KEYS")) + names(secret("MATHLLM_API_KEYS").replace("\n", ","))
    if host not in LOOPBACK and not keys:
        remark(f"everybody who reaches {host}:{port} may ask: MATHLLM_API_KEYS=... asks for a key")
    settings = Settings(
        models=places(checkpoint, model or []),
        max_queue=max_queue,
        max_queue_tokens=max(131_072, max_tokens),
        max_tokens=max_tokens,
        deadline=deadline,
        drain_timeout=drain_timeout,
        threads=threads,
        keys=keys,
        admin_key=os.environ.get("MATHLLM_ADMIN_KEY") or secret("MATHLLM_ADMIN_KEY"),
        hosts=[*LOOPBACK, *names(allowed_hosts), *([] if host in LOOPBACK or allowed_hosts else ["*"])],
        origins=names(cors_origins),
        rate=rate,
        log_problems=log_problems,
        watch=watch,
    )
    run(settings, host, port)


def secret(variable: str) -> str:
    """What is in the file that VARIABLE_FILE names, as Docker's secrets are given; nothing, where it names none.
    Raises UsageError for a file that cannot be read, or is empty: without its keys all would be open."""
    place = os.environ.get(f"{variable}_FILE")
    if not place:
        return ""
    try:
        text = Path(place).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{variable}_FILE cannot be read: {error}", "the server's own user has to read it"
        ) from None
    if not text.strip(", \n"):
        raise UsageError(f"{variable}_FILE is {place}, where no key is", "write one into it, or unset it")
    return text


def names(text: str | None) -> list[str]:
    """What is between commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def places(checkpoint: str | None, models: list[str]) -> dict[str, Path]:
    """The models to serve, by name. Raises UsageError for what is no NAME=PATH, CheckpointError for what is missing."""
    from mathllm.finding import SHIPPED, SHIPPED_NAMES, find_checkpoint

    if checkpoint is not None and models:
        raise UsageError("--checkpoint is one model, --model several", "use --model for all of them")
    if checkpoint is not None:
        find_checkpoint(checkpoint)
        name = Path(checkpoint).resolve().name.replace("@", "-")
        return {name or "model": path(checkpoint)}
    found: dict[str, Path] = {}
    for text in models:
        name, equals, place = text.partition("=")
        if not (equals and name and place) or set(name) & set("@/") or name in found:
            raise UsageError(
                f"--model takes NAME=PATH, each name once, not {text!r}", "for example mine=checkpoints/mine"
            )
        find_checkpoint(place)
        found[name] = path(place)
    return found or {name: SHIPPED / name for name in SHIPPED_NAMES}
