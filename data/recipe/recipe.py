"""What a training run is made of, read from its TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthsig.plan import parse_order

from .corpus import Curriculum
from .model import Shape

ARMS = ("baseline", "looped", "midas", "lidas")
GROWN = ("midas", "lidas")


@dataclass(frozen=True)
class Recipe:
    """One arm: sizes, schedule and growth.

    Attributes:
        steps, rows: optimizer steps, and sequences in each.
        block: layers added by one growth.
        growth: the steps before which the model grows.
        order: the execution order as text, for the exported config; None without a loop.
        warmup: steps over which the learning rate rises.
    """

    name: str
    arm: str
    seed: int
    steps: int
    rows: int
    shape: Shape
    block: int
    growth: tuple[int, ...]
    curriculum: Curriculum
    order: str | None = None
    warmup: int = 150

    @property
    def label(self) -> str:
        """What tables call it: the arm, and its block where that is not the family's (``midas-block2``)."""
        return self.name.removeprefix("family-")

    @property
    def tokens_per_step(self) -> int:
        """Predicted tokens of one step."""
        return self.rows * self.shape.context

    def rate(self, step: int) -> float:
        """Share of the full learning rate: warm-up, constant, linear decay over the last third."""
        left = (self.steps - step) / max(1.0, self.steps / 3)
        return min(1.0, (step + 1) / self.warmup, left)


def read_recipe(path: Path, smoke: bool = False) -> Recipe:
    """A recipe from its TOML file; ``smoke`` keeps everything but the size.

    Raises:
        ValueError: for an arm that is not known, or a depth that is no whole number of blocks.
    """
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    if raw["arm"] not in ARMS:
        raise ValueError(f"{path.name}: arm is {raw['arm']!r}; it is one of {', '.join(ARMS)}")
    shape, order = Shape(**raw.get("shape", {})), raw.get("order")
    if order:
        shape = replace(shape, order=parse_order(order, shape.layers))
    recipe = Recipe(
        raw["name"], raw["arm"], raw["seed"], raw["steps"], raw["rows"], shape, raw["block"],
        _growth(raw, shape), _curriculum(raw), order,
    )  # fmt: skip
    return smaller(recipe) if smoke else recipe


def smaller(recipe: Recipe, steps: int = 24) -> Recipe:
    """The same run in seconds, to see that it runs: a narrow model and ``steps`` steps."""
    growth = tuple(max(1, g * steps // recipe.steps) for g in recipe.growth)
    shape = replace(recipe.shape, width=32, hidden=64, context=64)
    return replace(recipe, steps=steps, rows=4, growth=growth, shape=shape, warmup=4)


def _growth(raw: dict[str, Any], shape: Shape) -> tuple[int, ...]:
    """Growth over the first three quarters: from one block to all, evenly spaced."""
    if raw["arm"] not in GROWN:
        return ()
    stages, rest = divmod(shape.layers, raw["block"])
    if rest:
        raise ValueError(f"{shape.layers} layers are no whole number of blocks of {raw['block']}")
    return tuple(round(0.75 * i / (stages - 1) * raw["steps"]) for i in range(1, stages))


def _curriculum(raw: dict[str, Any]) -> Curriculum:
    given = raw.get("curriculum", {})
    return Curriculum(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
