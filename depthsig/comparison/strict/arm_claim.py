"""A claim as its unit tests need it: what each network gives as a function of the prompts' weights, and the arms.

Any claim of the form "this contrast of arms lies above 0 (or below)" will do, not only those of ``compare``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.curves import Arm, between
from depthsig.comparison.reliance import of_arm
from depthsig.errors import InputError

Values = Float[ndarray, "row *model"]
"""What each network gives in every row: [row, model], or [row, model, model] for distances."""
Measure = Callable[[Float[ndarray, "row prompt"]], Values]
"""From weights of the prompts (0 leaves one out) to :data:`Values`."""
Contrast = Callable[[Values, Sequence[Arm]], Float[ndarray, "row"]]

Passed = Literal["yes", "no", "not tested"]
TRUE_LEVEL = 0.05
"""A claim stands against an alternative where that one would give as much at most so often."""


@dataclass(frozen=True)
class Outcome:
    """What one unit test found.

    Attributes:
        test: its name, as ``unit_tests.csv`` has it.
        passed: ``yes``, ``no``, or ``not tested`` where it says nothing either way.
        note: the numbers behind it; where not tested, what would.
        value, low, high: the quantity that decided, with its 95 % interval where it has one.
    """

    test: str
    passed: Passed
    note: str
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan


def difference(values: Float[ndarray, "row model"], arms: Sequence[Arm]) -> Float[ndarray, "row"]:
    """The mean over the first arm's networks minus that over the last one's."""
    return of_arm(values, arms[0]) - of_arm(values, arms[-1])


def closeness(distances: Float[ndarray, "row model model"], arms: Sequence[Arm]) -> Float[ndarray, "row"]:
    """d(A, B) − min(d(A, C), d(B, C)) of three arms."""
    a, b, c = arms
    return between(distances, a, b) - np.minimum(between(distances, a, c), between(distances, b, c))


@dataclass(frozen=True, eq=False)
class ArmClaim:
    """A claim that a contrast of arms lies above 0, or below.

    Attributes:
        arms: the networks of each role, A first and C last, with their shares in every resample.
        measure: what each network gives under given weights of the prompts; columns are ``arms``' places.
        weights: of the prompts, row 0 the estimate (all 1), then a row a resample.
        contrast: the claim's quantity of those values and arms.
        above: whether the claim is that it lies above 0.
        symmetric: whether A and the second arm may change places without changing the quantity.

    Raises:
        InputError: for fewer than two arms, or a network in two of them.
    """

    arms: tuple[Arm, ...]
    measure: Measure
    weights: Float[ndarray, "row prompt"]
    contrast: Contrast = difference
    above: bool = True
    symmetric: bool = False

    def __post_init__(self) -> None:
        places = [place for arm in self.arms for place in arm.places]
        if len(self.arms) < 2 or len(set(places)) < len(places):
            raise InputError(
                f"a claim is tested between two arms or more that share no network; found {len(self.arms)} arms of "
                f"{[arm.places for arm in self.arms]}"
            )

    @property
    def prompts(self) -> int:
        """How many prompts there are."""
        return self.weights.shape[1]

    def quantity(
        self, weights: Float[ndarray, "row prompt"], arms: Sequence[Arm] | None = None
    ) -> Float[ndarray, "row"]:
        """The claim's quantity under other weights of the prompts, by default of the arms as they are."""
        return self.contrast(self.measure(weights), self.arms if arms is None else arms)

    def evenly(self, rows: int, members: Sequence[Sequence[int]] | None = None) -> tuple[Arm, ...]:
        """The arms with every network counted alike in all of so many rows, by default with their own networks."""
        members = [arm.places for arm in self.arms] if members is None else members
        return tuple(
            Arm(arm.role, tuple(places), np.full((rows, len(places)), 1 / len(places)))
            for arm, places in zip(self.arms, members, strict=True)
        )

    def claimed(self, quantity: Float[ndarray, "row"]) -> Float[ndarray, "row"]:
        """The quantity with the sign that makes the claimed direction positive."""
        return quantity if self.above else -quantity
