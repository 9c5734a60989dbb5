"""Checks a proof (see docs/proof.md), and shares no code with what made it: NumPy in double precision.

    python docs/check_proof.py checkpoints/add-any-length          # all of it
    python docs/check_proof.py checkpoints/add-any-length 51       # every 51st problem

Problems and model are written out anew, and every token that the model chooses has to be the right one."""

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

TOKENS = "0123456789+-=Tte"  # T and t are <think> and </think>, e is <end>
EPSILON = float(np.finfo(np.float32).eps)
erf = np.vectorize(math.erf)
UNIT = 10.0  # parameters of the bias are stored divided by it
Problem = tuple[str, tuple[int, ...], int]  # a text, places of all tokens but the last, tokens of the prompt


def sums() -> Iterator[Problem]:
    """All that two numbers can have at two neighbouring places, at the units and above every digit and carry."""
    shown = ["", *"123456789"]
    shown += [f"{'1' * (top == 0)}{top}{low}" for top in range(10) for low in range(10)]
    below = [("", "")] + [(f"{digit}0", "00") for digit in range(10)]
    below += [("90", f"{digit + 1}0") for digit in range(9)] + [("99", "91")]
    for (one, other), left, right in product(below, shown, shown):
        a, b = int(left + one or "0"), int(right + other or "0")
        total, counts = str(a + b), [len(str(a)), len(str(b))]
        text = f"{str(a)[::-1]}+{str(b)[::-1]}={total[::-1]}e"
        ends = (counts[0] + 1, counts[1] + 1, len(total) + 2)
        yield text, (*range(1, ends[0]), 0, *range(1, ends[1]), *range(1, ends[2])), sum(counts) + 2


def chains() -> Iterator[Problem]:
    """All chains of at most two steps, modulo 10, with the state after each step."""
    steps = [sign + digit for sign in "+-" for digit in "0123456789"] + ["++" + digit for digit in "1379"]
    for count in range(3):
        for first, *rest in product("0123456789", *[steps] * count):
            state, states = int(first), ""
            for step in rest:
                state = (state * int(step[-1]) if len(step) == 3 else state + int(step)) % 10
                states += str(state)
            prompt = [1] + [place for place, step in enumerate(rest, 1) for _ in step] + [0]
            places = (*prompt, *range(1, count + 2), count + 1, 0)
            yield f"{first}{''.join(rest)}=T{states}t{state}e", places, len(prompt)


class Model:
    """What a checkpoint computes, in double precision."""

    def __init__(self, directory: Path) -> None:
        found = load_file(directory / "model.safetensors")
        self.w = {name: tensor.astype(float) for name, tensor in found.items()}
        config = json.loads((directory / "config.json").read_text())
        model, data = config["model"], config["data"]
        names = "position norm qk_norm kv_heads tie_embeddings loops bias_axes own_keys segments random_start"
        shape = ["coupled-bias", "rmsnorm", True, 0, False, 1, "place", False, True, 0]
        check([model[name] for name in names.split()] == shape, "this is about other models")
        kinds = {("addition", "reversed", "-1,0"): sums, ("chain", "steps", "0"): chains}
        kind = data["task"], data["format"], model["bias_window"]
        self.problems = kinds.get(kind) or sys.exit("this is about other models")
        self.layers, self.heads, self.near = model["layers"], model["heads"], model["bias_near"]
        self.scale = model["qk_scale"] / np.sqrt(model["hidden"] // self.heads)
        self.gelu = {"gelu": True, "relu2": False}[model["activation"]]
        self.lowest = ([int(end) for end in model["bias_window"].split(",")] * self.layers)[: self.layers]

    def bias(self, layer: int, places: np.ndarray) -> np.ndarray:
        """What is added to scores (heads, queries, keys) by places, -inf where a query does not look."""
        names = [f"positions.relative.place.{name}" for name in ("near", "decay", "placeless")]
        near, decay, none = (self.w[name][layer] * UNIT for name in names)
        apart = places - places[:, None]
        bias = near[np.clip(apart, -self.near, self.near) + self.near]
        bias = bias - np.maximum(np.abs(apart) - self.near, 0)[..., None] * decay
        placeless = (places == 0) & (places[:, None] > 0)
        bias = np.where(placeless[..., None], none, bias)
        later = np.arange(len(places)) > np.arange(len(places))[:, None]
        bias[later | (~placeless & ((apart < self.lowest[layer]) | (apart > 0)))] = -np.inf
        return bias.transpose(2, 0, 1)

    def logits(self, ids: np.ndarray, places: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Logits (B, T, 16) of texts (B, T) whose tokens stand alike."""
        w = self.w
        x = w["embedding.weight"][ids] + w["positions.segments.weight"][segments]
        for layer in range(self.layers):
            name = f"blocks.{layer}."
            qkv = normed(x, w[name + "attention_norm.weight"]) @ w[name + "attention.qkv.weight"].T
            q, k, v = np.split(qkv, 3, -1)
            q, k, v = (one.reshape(*ids.shape, self.heads, -1).swapaxes(1, 2) for one in (q, k, v))
            scores = normed(q) @ normed(k).swapaxes(2, 3) * self.scale + self.bias(layer, places)
            pattern = np.exp(scores - scores.max(-1, keepdims=True))
            z = (pattern / pattern.sum(-1, keepdims=True)) @ v
            x = x + z.swapaxes(1, 2).reshape(x.shape) @ w[name + "attention.out.weight"].T
            inner = normed(x, w[name + "feed_forward_norm.weight"]) @ w[name + "feed_forward.up.weight"].T
            inner = inner / 2 * (1 + erf(inner / np.sqrt(2))) if self.gelu else np.maximum(inner, 0) ** 2
            x = x + inner @ w[name + "feed_forward.down.weight"].T
        return normed(x, w["final_norm.weight"]) @ w["head.weight"].T


def normed(x: np.ndarray, weight: float | np.ndarray = 1.0) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * weight


def smallest_lead(model: Model, problems: list[Problem]) -> float:
    """By how much the right token is ahead of all others that may stand there, where that is least."""
    least, alike = np.inf, dict[tuple[tuple[int, ...], int], list[str]]()
    for text, places, prompt in problems:
        alike.setdefault((places, prompt), []).append(text)
    for (places, prompt), texts in alike.items():
        segments = (np.arange(len(places)) >= prompt - 1).astype(int)
        for start in range(0, len(texts), 1000):
            ids = np.array([[TOKENS.index(token) for token in text] for text in texts[start : start + 1000]])
            logits = model.logits(ids[:, :-1], np.array(places), segments)[:, prompt - 1 :]
            gold = ids[:, prompt:]
            # a thought is digits, and its brackets stand where they have to
            opened, closed = (np.cumsum(ids == TOKENS.index(one), 1)[:, prompt - 1 : -1] > 0 for one in "Tt")
            logits[opened & ~closed & (gold < 10), 10:] = -np.inf
            own = np.take_along_axis(logits, gold[..., None], -1)[..., 0]
            np.put_along_axis(logits, gold[..., None], -np.inf, -1)
            chosen = ~np.isin(gold, [TOKENS.index("T"), TOKENS.index("t")])
            least = np.minimum(least, (own - logits.max(-1))[chosen].min())  # which keeps NaN
    return float(least)


def check(good: bool, why: str) -> None:
    _ = good or sys.exit(why)


def main(directory: Path, every: int) -> None:
    proof = json.loads((directory / "proof.json").read_text())
    for file, key in (("model.safetensors", "weights_sha256"), ("config.json", "config_sha256")):
        same = proof[key] == hashlib.sha256((directory / file).read_bytes()).hexdigest()
        check(same, f"the proof is of another {file}")
    problems = list((model := Model(directory)).problems())
    check(len(problems) == proof["problems"], "the proof has tried other problems")
    least, slack = smallest_lead(model, problems[::every]), 10 * proof["error"]
    print(f"{len(problems):,} / {every} problems: least lead {least:.4f}, by the proof {proof['lead']:.4f}")
    check(0 < least < np.inf, "some token is wrong")
    check(least > proof["lead"] - slack, "the proof claims too much")
    check(every > 1 or least < proof["lead"] + slack, "the proof claims less than it says")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
