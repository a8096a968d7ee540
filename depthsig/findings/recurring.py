"""What recurs: the period of a block, the re-initialised control, blocks found blindly, loops that come to rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.findings.evidence import Evidence, average, interval
from depthsig.findings.finding import (
    LEVEL,
    Estimate,
    Judged,
    Rule,
    Unjudged,
    Verdict,
    judged,
    p_text,
    plain,
    thousandths,
)
from depthsig.metrics.rules import ACTIVATIONS, COMBINED, FAMILY, LOOP_GAP, LOOP_MOVES, LOOP_STEPS, STRENGTH, Member
from depthsig.signature.tested import TestedSpan, choose_span
from depthsig.statistics.period_search_matrix import FOUND, find_matrix_period
from depthsig.statistics.periodicity import period_strength
from depthsig.statistics.periodicity_matrix import MIN_STEPS, matrix_strength, span_cells

_SOURCE = "Kapl et al. 2602.16490"
SMALLER = 0.99
"""Of a loop's first step, what the last has to stay below to be smaller at all: equal ones differ by rounding."""


def _period(seen: Evidence) -> Judged:
    span = _span(seen)
    p = _combined(seen)
    members = _testable(seen)
    if not members:
        raise Unjudged(STRENGTH, "no profile of the family could be tested")
    strengths = _strengths(seen, span, members)
    estimate = interval(strengths)
    sentence = (
        f"Without its trend, a profile repeats with the block ({span}) by a strength of {estimate.text(thousandths)} "
        f"in the mean over {len(members)} profiles, where chance gives 0 and a perfect repeat 1; over all of "
        f"them {p_text(p)}"
    )
    detail = f"{span}, {p_text(p)}"
    if p < LEVEL:
        return Judged(STRENGTH, sentence + ".", estimate, 0.0, "holds", "test", detail)
    if estimate.high <= 0:
        return Judged(STRENGTH, sentence + ".", estimate, 0.0, "does not hold", "test", detail)
    sentence += ", which does not show that there is no period."
    return Judged(STRENGTH, sentence, estimate, 0.0, "open", "test", detail)


def _beyond_control(seen: Evidence) -> Judged:
    span = _span(seen)
    if seen.signature.control is None:
        raise Unjudged(STRENGTH, "no re-initialised control was measured (--control does)")
    control = Evidence(seen.signature.control)
    members = [m for m in _testable(seen) if m in _testable(control)]
    if not members:
        raise Unjudged(STRENGTH, "no profile of the family could be tested in model and control")
    own, other = _strengths(seen, span, members), _strengths(control, span, members)
    if own.shape != other.shape:
        raise Unjudged(STRENGTH, "the control was measured on other prompts")
    estimate, beside = interval(own - other), float(other[0])
    sentence = (
        f"The same architecture with re-initialised weights repeats with the block by {thousandths(beside)} "
        f"({p_text(_combined(control))}), the trained model by {thousandths(float(own[0]))}: training adds "
        f"{estimate.text(thousandths)}"
    )
    verdict, caveat, p = judged(estimate, 0.0), "", _combined(seen)
    if verdict == "holds" and not p < LEVEL:
        # The interval is about prompts: two draws of random weights differ by more than it knows of.
        verdict, caveat = "open", f"the trained model itself is not shown to recur ({p_text(p)})"
        sentence += f"; {caveat}"
    return Judged(STRENGTH, sentence + ".", estimate, 0.0, verdict, caveat=caveat)


def _span(seen: Evidence) -> TestedSpan:
    span = choose_span(seen.info)
    if span is None:
        raise Unjudged(STRENGTH, "no loop runs, and none was declared (--loop, --grown)")
    return span


def _combined(seen: Evidence) -> float:
    row = seen.score_row(COMBINED)
    if row is None:
        raise Unjudged(STRENGTH, "periods were not tested (--metrics period does)")
    if np.isnan(row["p_value"]):
        raise Unjudged(STRENGTH, f"no period could be tested ({row['note']})")
    return float(row["p_value"])


def _testable(seen: Evidence) -> list[Member]:
    rows = {member: seen.score_row(STRENGTH, *member) for member in FAMILY}
    return [member for member, row in rows.items() if row is not None and not np.isnan(row["value"])]


def _strengths(seen: Evidence, span: TestedSpan, members: Sequence[Member]) -> Float[ndarray, "row"]:
    """The mean strength over members, of the mean profiles of all prompts and of every resample."""
    return np.mean([_strength(seen, span, member) for member in members], axis=0)


def _strength(seen: Evidence, span: TestedSpan, member: Member) -> Float[ndarray, "row"]:
    entry, n = seen.signature.entries[member[0]], span.block * span.count

    def of(means: Float[ndarray, "row *cell"]) -> Float[ndarray, "row"]:
        if entry.kind == "matrix":
            return matrix_strength(span_cells(means, span.start, n), n, span.block)
        return period_strength(means, span.start, span.block, span.count, entry.log)

    return seen.resampled(of, seen.per_prompt(*member))


def _blocks(seen: Evidence) -> Judged:
    metric, part = ACTIVATIONS
    if seen.steps < MIN_STEPS:
        raise Unjudged(metric, f"{seen.steps} steps are too few to be searched for blocks; it takes {MIN_STEPS}")
    cosines = average(np.moveaxis(seen.per_prompt(metric, part), 0, -1))
    found = find_matrix_period(cosines, seed=seen.seed)
    if not found.testable:
        raise Unjudged(metric, found.reason)
    estimate, known = Estimate(float(found.strength)), choose_span(seen.info)
    told = "" if known is None else f"; what is declared or runs is {known}"
    if not found.p < FOUND:
        sentence = f"Searched blindly, no block recurs in what steps add ({p_text(found.p)}){told}."
        return Judged(metric, sentence, estimate, 0.0, "open", "test", p_text(found.p))
    assert found.start is not None and found.block is not None and found.count is not None
    start, end = found.start, found.start + found.block * found.count
    sentence = (
        f"Searched blindly, what steps add recurs every {found.block} steps in {start}:{end} "
        f"({found.count} x {found.block}, {p_text(found.p)}){told}."
    )
    detail = f"{start}:{end}, {found.count} x {found.block}, {p_text(found.p)}"
    return Judged(metric, sentence, estimate, 0.0, "holds", "test", detail)


def _rest(seen: Evidence) -> Judged:
    if not seen.info["spans"].get("executed"):
        raise Unjudged(LOOP_MOVES, "no loop runs")
    moved = seen.per_prompt(LOOP_MOVES)
    if not np.nan_to_num(moved).any() and np.isfinite(moved).any():
        sentence = f"None of {moved.shape[1]} passes moves the states: the loop rests at what enters it."
        return Judged(LOOP_MOVES, sentence, Estimate(0.0), 1.0, "holds", by="count")
    estimate = seen.estimate(_last_to_first, moved)
    if not np.isfinite(estimate.value):
        raise Unjudged(LOOP_MOVES, f"{LOOP_MOVES} is undefined")
    sentence = (
        f"The last of {moved.shape[1]} passes moves the states {estimate.text()} times as far as the first, relative "
        "to their size"
    )
    try:
        gap = float(average(seen.per_prompt(LOOP_GAP)[:, -1].ravel()))
        sentence += f"; one more would move them by {plain(gap)} of it"
    except Unjudged:
        pass
    verdict, caveat = judged(estimate, 1.0, above=False), ""
    if verdict == "holds":
        verdict, caveat = _themselves(seen)
        sentence += f"; {caveat}" if caveat else ""
    return Judged(LOOP_MOVES, sentence + ".", estimate, 1.0, verdict, caveat=caveat)


def _last_to_first(moved: Float[ndarray, "row iteration phase"]) -> Float[ndarray, "row"]:
    return average(moved[:, -1]) / average(moved[:, 0])


def _themselves(seen: Evidence) -> tuple[Verdict, str]:
    """Whether steps get smaller not only beside states that grow: what adds a constant forever never rests."""
    try:
        steps = seen.estimate(_last_to_first, seen.per_prompt(LOOP_STEPS))
    except Unjudged as why:
        return "open", f"it is not known whether the states grow: {why}"
    if judged(steps, SMALLER, above=False) == "holds":
        return "holds", ""
    return "open", f"the steps themselves are {steps.text()} times as long, so the states grow"


RECURRING = (
    Rule("recurrence", "patterns recur with the block", _SOURCE, _period, "chance", thousandths),
    Rule("recurrence_trained", "training makes them recur", _SOURCE, _beyond_control, "no difference", thousandths),
    Rule("blocks", "a block is found without being told", _SOURCE, _blocks, "chance", thousandths),
    Rule(
        "loop_rests",
        "the loop comes to rest",
        "Pappone et al. 2509.23314; LoopCoder-v2 2606.18023",
        _rest,
        "first pass",
    ),
)
