"""Does a pattern recur with the block in one model more than in another, over the same steps?

The strength that is compared is the mean strength over the fixed family of the combined test
(:data:`depthsig.metrics.rules.FAMILY`), as far as its members are testable on both
sides. Not the strength of the profile whose p is smallest: that one is picked for being large in A, and
its difference to C would be too. Both sides are read over A's span, start, block and count in steps;
a model with fewer steps than the span has no such strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.curves import Arm
from depthsig.comparison.inputs import Input, Pairing, numbers_hash, pair_prompts, per_prompt
from depthsig.errors import InputError
from depthsig.metrics import entry
from depthsig.metrics.rules import FAMILY, Member
from depthsig.signature.tested import TestedSpan, choose_span
from depthsig.statistics.convergence import arm_mean, weighted_means
from depthsig.statistics.periodicity import period_strength
from depthsig.statistics.periodicity_matrix import bad_matrix_span, matrix_strength, span_cells
from depthsig.tables.periods import combined_p, family_tests
from depthsig.tables.samples import Key

WEIGHTS = Float[ndarray, "row prompt"]


@dataclass(frozen=True, eq=False)
class Reading:
    """Strengths of one model over one span: every resample, and the tests of the estimate."""

    strengths: dict[Member, Float[ndarray, "row"]]
    p: dict[Member, float]
    combined: float
    reasons: tuple[str, ...] = ()
    """Why members could not be tested."""


def read_strengths(one: Input, rows: ndarray, span: TestedSpan, weights: WEIGHTS) -> Reading:
    """Strengths of the fixed family's members over ``span``; those that cannot be tested are missing."""
    tests = family_tests(one.signature, span)
    strengths = {}
    for member in FAMILY:
        test = tests.get(member)
        if test is not None and test.testable:
            values = strength_of(one, rows, member, span, weights)
            if values is not None and np.isfinite(values[0]):
                strengths[member] = values
    p = {member: test.p for member, test in tests.items() if test.testable}
    reasons = tuple(dict.fromkeys(test.reason for test in tests.values() if not test.testable))
    return Reading(strengths, p, combined_p(tests)[0], reasons)


def strength_of(
    one: Input, rows: ndarray, member: Member, span: TestedSpan, weights: WEIGHTS
) -> Float[ndarray, "row"] | None:
    """Strength of one member of the family over a span in every row; None where it was not measured."""
    of_member, n = entry(member[0]), span.block * span.count
    matrix = of_member.kind == "matrix"
    values = per_prompt(one, rows, Key(*member), one.steps, matrix=matrix)
    if values is None:
        return None
    if not matrix:
        return period_strength(weighted_means(values, weights), span.start, span.block, span.count, of_member.log)
    if bad_matrix_span(one.steps, span.start, span.block, span.count):
        return None
    return matrix_strength(weighted_means(span_cells(values, span.start, n), weights), n, span.block)


@dataclass(frozen=True, eq=False)
class Recurrence:
    """Strengths of an arm A beside another (the baseline, or A's re-initialised control).

    Attributes:
        members: of the family, those that are testable in every signature of both arms.
        strengths_a, strengths_c: by member, in every resample.
        p_a, p_c: by member, the largest over the seeds.
        combined_a, combined_c: the combined p over A's steps, signature by signature.
        reason: why there is nothing to compare; empty if there is.
    """

    other: str
    members: tuple[Member, ...] = ()
    strengths_a: dict[Member, Float[ndarray, "row"]] = field(default_factory=dict)
    strengths_c: dict[Member, Float[ndarray, "row"]] = field(default_factory=dict)
    p_a: dict[Member, float] = field(default_factory=dict)
    p_c: dict[Member, float] = field(default_factory=dict)
    combined_a: tuple[float, ...] = ()
    combined_c: tuple[float, ...] = ()
    reason: str = ""

    def mean(self, side: str) -> Float[ndarray, "row"]:
        """The family's mean strength of side ``a`` or ``c`` in every resample."""
        strengths = self.strengths_a if side == "a" else self.strengths_c
        return np.mean([strengths[m] for m in self.members], axis=0)


class Periods:
    """Strengths of compared models, each model read over each span once."""

    def __init__(self, inputs: Sequence[Input], pairing: Pairing, weights: WEIGHTS) -> None:
        self.inputs, self.pairing, self.weights = inputs, pairing, weights
        self.read = lru_cache(maxsize=None)(self._read_once)

    def _read_once(self, place: int, span: TestedSpan) -> Reading:
        return read_strengths(self.inputs[place], self.pairing.rows[place], span, self.weights)

    def against(self, a: Arm, c: Arm) -> Recurrence:
        """A's strengths over its own spans beside C's over the same steps."""
        spans = [choose_span(self.inputs[p].signature.info) for p in a.places]
        without = [self.inputs[p].name for p, s in zip(a.places, spans, strict=True) if s is None]
        if without:
            return Recurrence(c.role, reason=f"no span is declared or observed in {', '.join(without)}")
        known = [s for s in spans if s is not None]
        end = max(s.start + s.block * s.count for s in known)
        short = [self.inputs[p].name for p in c.places if self.inputs[p].steps < end]
        if short:
            return Recurrence(c.role, reason=f"{', '.join(short)} has fewer steps than the span's end, {end}")
        own = [self.read(p, s) for p, s in zip(a.places, known, strict=True)]
        other = [[self.read(p, s) for p in c.places] for s in known]
        return _beside(c.role, own, a.weights, other, c.weights)

    def beside_control(self, a: Arm) -> Recurrence:
        """A's strengths beside those of the re-initialised controls in A's folders, at the same prompts."""
        own, other, lacking = [], [], []
        for place in a.places:
            one, span = self.inputs[place], choose_span(self.inputs[place].signature.info)
            if one.signature.control is None or span is None:
                lacking.append(one.name)
                continue
            own.append(self.read(place, span))
            other.append([self.read_control(place, span)])
        if lacking:
            return Recurrence("control", reason=f"no re-initialised control in {', '.join(lacking)}")
        return _beside("control", own, a.weights, other, np.ones((len(self.weights), 1)))

    def read_control(self, place: int, span: TestedSpan) -> Reading:
        """The re-initialised control in a model's folder, over the same span and at the same prompts."""
        one, control = self.inputs[place], self.inputs[place].signature.control
        assert control is not None  # whoever asks has seen it
        as_input = Input(f"{one.name}/control", control, None, numbers_hash(control))
        return read_strengths(as_input, _same_prompts(one, as_input, self.pairing.rows[place]), span, self.weights)


def _same_prompts(one: Input, control: Input, rows: ndarray) -> ndarray:
    """The control's rows of the prompts at ``rows``."""
    pairing = pair_prompts([one, control])
    place = {int(row): int(other) for row, other in zip(*pairing.rows, strict=True)}
    missing = [row for row in rows if int(row) not in place]
    if missing:
        raise InputError(f"the control of {one.name!r} lacks {len(missing)} of its prompts; analyze it again")
    return np.array([place[int(row)] for row in rows])


def _beside(
    name: str, own: list[Reading], own_weights: ndarray, other: list[list[Reading]], other_weights: ndarray
) -> Recurrence:
    """Averages over seeds; ``other`` holds, for each of A's spans, the other arm's members over it."""
    everyone = [*own, *(reading for readings in other for reading in readings)]
    members = tuple(m for m in FAMILY if all(m in reading.strengths for reading in everyone))
    combined_a = tuple(r.combined for r in own)
    combined_c = tuple(r.combined for readings in other for r in readings)
    if not members:
        why = "; ".join(dict.fromkeys(reason for reading in everyone for reason in reading.reasons))
        reason = "no profile of the family is testable on both sides" + (f" ({why})" if why else "")
        return Recurrence(name, reason=reason, combined_a=combined_a)
    a = {m: arm_mean(np.stack([r.strengths[m] for r in own], 1), own_weights) for m in members}
    c = {}
    for m in members:
        over_seeds = [arm_mean(np.stack([r.strengths[m] for r in rs], 1), other_weights) for rs in other]
        c[m] = arm_mean(np.stack(over_seeds, 1), own_weights)
    p_a = {m: max(r.p[m] for r in own) for m in members}
    p_c = {m: max(r.p[m] for rs in other for r in rs) for m in members}
    return Recurrence(name, members, a, c, p_a, p_c, combined_a, combined_c)
