"""How many local configurations there are in products, quotients and whole expressions, for docs/proof.md.

    python -m benchmarks.local_configurations

Random problems of the sizes of training are looked at, in models of the recipes with a window: one place to either side
in the first layer, the token's own in the second. Where nearly every prediction has a configuration of its own, no set
of problems that one could try holds all of them.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from mathllm.config import build_config
from mathllm.data.sources import sampling
from mathllm.formats import get_format
from mathllm.model.transformer import Transformer
from mathllm.prove.local import configurations
from mathllm.tasks import get_tasks

RECIPES = {
    "multiplication": "multiply-any-length",
    "division": "divide-any-length",
    "remainder": "divide-any-length",
    "arithmetic": "arithmetic",
}
WINDOW = "1,0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=3200)
    options = parser.parse_args()
    for name, recipe in RECIPES.items():
        config = build_config({}, recipe=recipe)
        settings = {**config.model.position_settings, "bias_window": WINDOW}
        model = Transformer.from_config(dataclasses.replace(config.model, position_settings=settings))
        notation, (task,) = get_format(config.data.format), get_tasks(name)
        how, rng = sampling(config.data), np.random.default_rng(0)
        how = dataclasses.replace(how, method="uniform" if "uniform" in task.samplings else "digits")
        counts = rng.integers(2, task.most_operands(how) + 1, options.problems)
        gold = notation.render(task.sample(rng, counts, how.method, how))
        told = notation.coordinates(gold.problems, gold.ids[:, :-1], model.axes)
        found = configurations(model, gold.ids[:, :-1], told)[gold.loss_mask[:, 1:]]
        different = len(np.unique(found))
        print(
            f"{name}: {len(found):,} predictions in {options.problems:,} problems, {different:,} different",
            flush=True,
        )


if __name__ == "__main__":
    main()
