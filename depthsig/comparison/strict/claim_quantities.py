"""The quantities of the three claims, and of their placebos, as functions of the prompts' weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.curves import Arm, resampled
from depthsig.comparison.inputs import per_prompt
from depthsig.comparison.recurrence import strength_of
from depthsig.comparison.strict.arm_claim import ArmClaim, Measure, closeness
from depthsig.comparison.strict.grounds import Ground
from depthsig.metrics import entry
from depthsig.metrics.rules import CHEAP_LATE, LATE, Member
from depthsig.signature.tested import TestedSpan, choose_span
from depthsig.statistics.convergence import l1_distance, weighted_means
from depthsig.statistics.periodicity import wrong_sizes
from depthsig.tables.samples import Key
from depthsig.tables.score_rows import statistic

_Weights = Float[ndarray, "row prompt"]
LATE_SOURCE = Key(entry(LATE[0]).needs[0], *LATE[1:])
"""The profile whose last third is read."""


def late_share_of(ground: Ground, key: Key) -> Measure | None:
    """The share of the last third of a profile in every network; None where one does not have it."""
    sources = []
    for one, rows in zip(ground.inputs, ground.pairing.rows, strict=True):
        values = per_prompt(one, rows, key, one.steps, matrix=False)
        if values is None:
            return None
        sources.append((values, statistic(entry(LATE[0]), one.steps, key.scope)))

    def measure(weights: _Weights) -> Float[ndarray, "row model"]:
        return np.stack([share(weighted_means(values, weights)) for values, share in sources], 1)

    return measure


def cheapest(ground: Ground) -> tuple[Key, Measure] | None:
    """The first profile of the clean run alone that all have, by the fixed list of the rules."""
    for name, part, scope in CHEAP_LATE:
        measure = late_share_of(ground, Key(name, part, scope))
        if measure is not None:
            return Key(name, part, scope), measure
    return None


@dataclass(frozen=True, eq=False)
class Strengths:
    """Strengths of the block's period over A's span, in every network, and of wrong blocks over the same span.

    Attributes:
        spans: for every network the spans that it is read over: its own in A, in others those of A.
        members: of the fixed family, those that are testable on both sides.
    """

    ground: Ground
    spans: tuple[tuple[TestedSpan, ...], ...]
    members: tuple[Member, ...]

    @classmethod
    def of(cls, ground: Ground, a: Arm, members: Sequence[Member]) -> Strengths:
        """The strengths that the claim of A is about."""
        own = {place: choose_span(ground.inputs[place].signature.info) for place in a.places}
        known = {place: span for place, span in own.items() if span is not None}
        every = tuple({(s.start, s.block, s.count): s for s in known.values()}.values())
        spans = tuple((known[place],) if place in known else every for place in range(len(ground.inputs)))
        return cls(ground, spans, tuple(members))

    def measure(self, weights: _Weights) -> Float[ndarray, "row model"]:
        """The mean strength over the family."""
        return self._mean(weights, self.spans, self.members)

    def wrong(self) -> dict[int, tuple[tuple[tuple[TestedSpan, ...], ...], tuple[Member, ...]]]:
        """Wrong blocks that fit on A's span, with the spans they have there and the members that they can be read of.

        Sizes that neither divide the block nor are a multiple of it, at least three times in the span. (A start
        moved by a step or two is no placebo: a pattern that recurs with the block does so from any start.)
        """
        first = self.spans[0][0]
        found = {}
        for size in wrong_sizes(first.block, first.block * first.count):
            spans = tuple(
                tuple(replace(s, block=size, count=s.block * s.count // size) for s in own) for own in self.spans
            )
            one = np.ones((1, len(self.ground.pairing)))
            members = tuple(m for m in self.members if np.isfinite(self._mean(one, spans, (m,))).all())
            if members:
                found[size] = spans, members
        return found

    def beyond(
        self, size: tuple[tuple[tuple[TestedSpan, ...], ...], tuple[Member, ...]], weights: _Weights
    ) -> Float[ndarray, "row model"]:
        """How much more the block is found than a wrong one, over the same members."""
        spans, members = size
        return self._mean(weights, self.spans, members) - self._mean(weights, spans, members)

    def _mean(
        self, weights: _Weights, spans: Sequence[Sequence[TestedSpan]], members: Sequence[Member]
    ) -> Float[ndarray, "row model"]:
        columns = []
        for one, rows, own in zip(self.ground.inputs, self.ground.pairing.rows, spans, strict=True):
            found = [strength_of(one, rows, member, span, weights) for member in members for span in own]
            columns.append(np.mean([np.full(len(weights), np.nan) if f is None else f for f in found], axis=0))
        return np.stack(columns, 1)


def distances_of(ground: Ground, keys: Sequence[Key]) -> Measure:
    """Distances between networks, the mean over the profiles ``keys``."""

    def measure(weights: _Weights) -> Float[ndarray, "row model model"]:
        size = len(ground.inputs)
        total = np.zeros((len(weights), size, size))
        for key in keys:
            curves = [resampled(i, r, key, weights) for i, r in zip(ground.inputs, ground.pairing.rows, strict=True)]
            for a, b in combinations(range(size), 2):
                distance = l1_distance(curves[a], curves[b])
                total[:, a, b] += distance
                total[:, b, a] += distance
        return total / len(keys)

    return measure


def arm_claim_of(
    ground: Ground, claim: str, members: Sequence[Member] = (), keys: Sequence[Key] = ()
) -> tuple[ArmClaim, Strengths | None] | None:
    """A claim of ``compare`` as its unit tests need it; None where its quantity was not measured.

    Args:
        ground: of the claim's networks alone, A first and C last (:meth:`Ground.only`).
        members: of the family, for recurrence. keys: the profiles compared, for convergence.
    """
    arms = tuple(ground.arms.values())
    if claim == "convergence":
        measure = distances_of(ground, keys)
        return ArmClaim(arms, measure, ground.weights, closeness, above=False, symmetric=True), None
    if claim == "recurrence":
        strengths = Strengths.of(ground, arms[0], members)
        return ArmClaim(arms, strengths.measure, ground.weights), strengths
    late = late_share_of(ground, LATE_SOURCE)
    return None if late is None else (ArmClaim(arms, late, ground.weights), None)
