"""Does a claim fail where the roles are dealt out at random?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from depthsig.comparison.strict.arm_claim import TRUE_LEVEL, ArmClaim, Outcome, Values

PERMUTED = "permuted labels"
MOST_LABELLINGS = 5000
"""Beyond so many ways to deal out the roles, so many are drawn."""
_TIE = 1e-9


@dataclass(frozen=True)
class Permutation:
    """An exact permutation test of the roles.

    Attributes:
        p: the share of labellings, the true one among them, with a quantity as large in the claimed direction.
        smallest: the smallest p that so many networks allow.
        labellings: how many ways there are to deal out the roles, or were drawn.
    """

    p: float
    smallest: float
    labellings: int


def permute_labels(claim: ArmClaim, values: Values, seed: int = 0, most: int = MOST_LABELLINGS) -> Permutation:
    """The exact p of the claim when networks are dealt out to the arms in every distinct way (Fisher 1935, § 21).

    Args:
        values: what each network gives on all prompts; the first row counts.
        seed: of the labellings where there are more than ``most``, which are drawn then (Phipson & Smyth 2010:
            the true one counts among them).
    """
    sizes = [len(arm.places) for arm in claim.arms]
    total, left = 1, sum(sizes)
    for size in sizes:
        total, left = total * comb(left, size), left - size
    everyone = tuple(place for arm in claim.arms for place in arm.places)
    every = total <= most
    dealt = labellings(everyone, sizes) if every else _drawn(everyone, sizes, most - 1, seed)

    def quantity(members: Sequence[Sequence[int]]) -> float:
        return float(claim.claimed(claim.contrast(values[:1], claim.evenly(1, members)))[0])

    true = quantity([arm.places for arm in claim.arms])
    if np.isnan(true):
        return Permutation(np.nan, np.nan, total)
    found = np.array([quantity(members) for members in dealt])
    as_large = int(np.sum(found >= true - _TIE * max(1.0, abs(true))))
    count, as_large = (total, as_large) if every else (most, as_large + 1)
    alike = 2 if claim.symmetric and len(sizes) > 2 and sizes[0] == sizes[1] else 1
    return Permutation(as_large / count, (alike if every else 1) / count, count)


def permuted_labels(claim: ArmClaim, values: Values, seed: int = 0) -> Outcome:
    """Whether the claim holds for the true roles and not for roles dealt out at random.

    Passed with p of at most .05; failed with a larger one although the networks would allow it, or although
    some other labelling does as well as the true one. Where the true labelling is the best, but there are
    too few networks for .05, nothing is tested.
    """
    found = permute_labels(claim, values, seed)
    if np.isnan(found.p):
        return Outcome(PERMUTED, "not tested", "the quantity is undefined in a network")
    sizes = " + ".join(str(len(arm.places)) for arm in claim.arms)
    note = (
        f"p = {found.p:.3g} over {found.labellings} labellings of {sizes} networks, {found.smallest:.3g} the smallest"
    )
    if found.p <= TRUE_LEVEL + _TIE:
        return Outcome(PERMUTED, "yes", note, found.p)
    if found.p > found.smallest + _TIE:
        return Outcome(PERMUTED, "no", note, found.p)
    few = f"too few networks for p ≤ {TRUE_LEVEL:g}: 3 an arm are enough"
    return Outcome(PERMUTED, "not tested", f"{few}; {note}", found.p)


def labellings(everyone: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every distinct way to deal out networks to arms of these sizes.

    >>> list(labellings((0, 1), (1, 1)))
    [((0,), (1,)), ((1,), (0,))]
    """
    if not sizes:
        yield ()
        return
    for chosen in combinations(everyone, sizes[0]):
        rest = [one for one in everyone if one not in chosen]
        for others in labellings(rest, sizes[1:]):
            yield (chosen, *others)


def _drawn(everyone: Sequence[int], sizes: Sequence[int], count: int, seed: int) -> Iterator[list[list[int]]]:
    rng, ends = np.random.default_rng(seed), np.cumsum(sizes)
    for _ in range(count):
        order = rng.permutation(np.array(everyone))
        yield [order[end - size : end].tolist() for end, size in zip(ends, sizes, strict=True)]
