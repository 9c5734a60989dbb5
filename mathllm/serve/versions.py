"""The models of a server, by name, and in versions that are known by their content."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mathllm.checkpoint import load_checkpoint
from mathllm.errors import CheckpointError, UsageError, unknown_choice
from mathllm.finding import CONFIG, WEIGHTS, find_checkpoint
from mathllm.inference.engine import room_in
from mathllm.math_model import MathModel
from mathllm.models import Candidate, Models
from mathllm.scope import Scope
from mathllm.tasks import sample
from mathllm.tasks.numbers import Ints

KEPT = 2  # versions of a model: the one that answers, and the one before
TRIED = 16  # problems that a version has to read before it answers


@dataclass(frozen=True, eq=False)
class Version:
    """A model as it was loaded: `name@` and the beginning of the SHA-256 of its weights and settings."""

    name: str
    digest: str
    model: MathModel
    created: int  # seconds since 1970

    @property
    def label(self) -> str:
        return f"{self.name}@{self.digest[:8]}"


class Shelf:
    """Models by name; the first one answers what none is named for, unless another has learned it and it has not.

    Texts of a model have at most `max_tokens`. Versions are replaced whole: who holds one goes on with it."""

    def __init__(
        self, places: Mapping[str, Path], max_tokens: int, device: torch.device | None = None
    ) -> None:
        self.places, self.max_tokens, self.device = dict(places), max_tokens, device
        # replaced as one, since several threads look at it
        self._state: tuple[dict[str, list[Version]], Models] = ({}, Models([], named=False))
        self._changing = threading.Lock()
        self._read: dict[str, str] = {}  # what was tried last of what is on disk, by name

    @property
    def _versions(self) -> dict[str, list[Version]]:
        return self._state[0]

    @property
    def names(self) -> list[str]:
        return list(self.places)

    @property
    def loaded(self) -> bool:
        return len(self._versions) == len(self.places)

    @property
    def newest(self) -> list[Version]:
        """The versions that answer."""
        return [versions[0] for versions in self._versions.values()]

    def versions(self, name: str) -> list[Version]:
        """The newest first. Raises UsageError for a name that there is not."""
        if name not in self._versions:
            raise unknown_choice("model", name, self.names)
        return self._versions[name]

    def find(self, name: str) -> Version:
        """The version that `name`, or `name@digest`, stands for. Raises UsageError where there is none."""
        plain, _, digest = name.partition("@")
        for version in self.versions(plain):
            if not digest or (len(digest) >= 8 and version.digest.startswith(digest)):
                return version
        raise UsageError(
            f"model {plain!r} has no version {digest!r}", f"there is {self.versions(plain)[0].label}"
        )

    def load(self, name: str, path: str | Path | None = None) -> Version:
        """Loads a model, again or from another place, and lets it answer once it has been tried. Raises CheckpointError
        for what is damaged; then all stays as it was."""
        if name not in self.places:
            raise unknown_choice("model", name, self.names)
        with self._changing:
            place = find_checkpoint(path or self.places[name]).resolve()  # a run's `best` may move meanwhile
            digest, before = digest_of(place), self._versions.get(name, [])
            if path is None:
                self._read[name] = digest
            version = before[0] if before and before[0].digest == digest else None
            found = version or read_version(name, place, self.max_tokens, self.device)
            if path is not None:
                self.places[name], self._read[name] = Path(path), digest
            if version is None:
                self._put(name, [found, *before][:KEPT])
            return found

    def changed(self, name: str) -> bool:
        """Is something on disk where a model is read from that has not been tried? What has been is tried once: who has
        put the version before back wants that."""
        return digest_of(find_checkpoint(self.places[name])) != self._read.get(name)

    def roll_back(self, name: str) -> Version:
        """Lets the version before answer again. Raises UsageError where there is none."""
        with self._changing:
            versions = self.versions(name)
            if len(versions) < KEPT:
                raise UsageError(f"model {name!r} has no version before {versions[0].label}")
            self._put(name, versions[::-1])
            return versions[1]

    def choose(self, texts: Sequence[str]) -> list[tuple[Version, Ints]]:
        """The versions that answer texts, each with its rows [M]: see Models.choose."""
        known, models = self._state
        newest = {id(versions[0].model): versions[0] for versions in known.values()}
        return [(newest[id(model)], rows) for model, rows in models.choose(texts)]

    def _put(self, name: str, versions: list[Version]) -> None:
        known = {**self._versions, name: versions}
        known = {one: known[one] for one in self.places if one in known}
        candidates = []
        for newest, *_ in known.values():
            candidate = Candidate(newest.model.path, self.device)
            candidate.model, candidate.scope = newest.model, newest.model.scope
            candidates.append(candidate)
        self._state = known, Models(candidates, named=False)


def digest_of(place: Path) -> str:
    """What the weights of a checkpoint and its settings are known by. Raises CheckpointError where there are none."""
    found = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        try:
            found.update((place / name).read_bytes())
        except OSError as error:
            raise CheckpointError(f"cannot read {place / name}: {error.strerror or error}") from error
    return found.hexdigest()


def read_version(name: str, place: Path, max_tokens: int, device: torch.device | None) -> Version:
    """A version from disk, tried on some problems of its own. Raises CheckpointError for what is damaged."""
    digest = digest_of(place)
    model = load_checkpoint(place, device)
    if digest_of(place) != digest:
        raise CheckpointError(f"{place} was replaced while it was read", "read it again")
    model.scope = Scope(model.data, min(room_in(model.model), max_tokens))
    drawn = sample(np.random.default_rng(0), TRIED, model.tasks, model.scope.size)
    asked, _ = model.fit(drawn)
    if not np.isfinite(model.draft(asked).logits.max(initial=0.0)):
        raise CheckpointError(f"the outputs of {place} are not numbers", "use another checkpoint of the run")
    return Version(name, digest, model, int(time.time()))
