"""Strengths of the block's period as quantities of claims: beside the baseline, the control and wrong lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.curves import Arm
from depthsig.comparison.recurrence import Periods, Recurrence
from depthsig.metrics import entry
from depthsig.metrics.rules import FAMILY, Member
from depthsig.replication.criteria import Claim
from depthsig.replication.evidence import Evidence, Group
from depthsig.replication.quantities import Found, key_of, notes_on, over_depth, quantity, told
from depthsig.signature.tested import TestedSpan
from depthsig.statistics.periodicity import bad_span, period_strength, wrong_sizes
from depthsig.tables.samples import Key

SHOWN = Key("contribution.relative", "attn")
"""The profile that figures show beside the strengths."""


@quantity("period")
def period(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean strength over the fixed family of profiles, over A's span, in A and in C."""
    return _against(evidence, claim, a, c, None)


@quantity("period_of")
def period_of(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The strength of one profile of the family alone."""
    return _against(evidence, claim, a, c, (claim.of[0], claim.of[1], claim.of[2]))


def _against(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...], member: Member | None) -> Found:
    group, reason = _with_spans(evidence, claim, a, c)
    if group is None:
        return Found(reason=reason)
    at = {place: n for n, place in enumerate(group.places)}
    mine, theirs = [at[p] for p in a if p in at], [at[p] for p in c if p in at]
    if not mine or not theirs:
        return Found(reason="the family's profiles were not measured in both arms on the same prompts")
    periods = Periods(group.inputs, group.pairing, group.weights)
    sides = [_one(periods, [n], theirs, member) for n in mine]
    reasons = [s.reason for s in sides if s.reason]
    if reasons:
        return Found(reason=f"not testable: {reasons[0]}")
    values = np.stack([_strength(s, "a", member) for s in sides], 1)
    # C over the spans of A, member by member of C, averaged over A's spans.
    of_c = np.stack(
        [np.mean([_strength(_one(periods, [n], [m], member), "c", member) for n in mine], 0) for m in theirs], 1
    )
    recurs = {group.places[n]: s.combined_a[0] for n, s in zip(mine, sides, strict=True)}
    of_other = [p for s in sides for p in s.combined_c]
    notes = (
        *notes_on(group, claim),
        f"p of {_ps(list(recurs.values()))}, of the other arm over the same steps {_ps(of_other)}",
    )
    return Found(
        tuple(group.places[n] for n in mine), values, of_c, notes, recurs=recurs, curves=over_depth(group, SHOWN),
        axis="relative depth", basis=group, shows=told(SHOWN),
    )  # fmt: skip


def _one(periods: Periods, mine: list[int], theirs: list[int], member: Member | None) -> Recurrence:
    rows = len(periods.weights)
    arms = [Arm(name, tuple(places), np.full((rows, len(places)), 1 / len(places))) for name, places in
            (("a", mine), ("c", theirs))]  # fmt: skip
    found = periods.against(*arms)
    if member is not None and not found.reason and member not in found.members:
        return replace(found, reason=f"{' '.join(member)} is not testable on both sides")
    return found


def _strength(found: Recurrence, side: str, member: Member | None) -> Float[ndarray, "row"]:
    if member is None:
        return found.mean(side)
    return (found.strengths_a if side == "a" else found.strengths_c)[member]


@quantity("period_beside_control")
def period_beside_control(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean strength in A less that of the re-initialised control in its own folder."""
    group, reason = _with_spans(evidence, claim, a, (), controlled=True)
    if group is None:
        return Found(reason=reason if reason.startswith("no span") else "no re-initialised control was measured")
    periods = Periods(group.inputs, group.pairing, group.weights)
    rows = len(group.weights)
    columns, places, notes, recurs = [], [], list(notes_on(group, claim)), {}
    for n, place in enumerate(group.places):
        found = periods.beside_control(Arm("a", (n,), np.ones((rows, 1))))
        if found.reason:
            notes.append(f"{evidence.networks[place].name}: {found.reason}")
            continue
        columns.append(found.mean("a") - found.mean("c"))
        places.append(place)
        recurs[place] = found.combined_a[0]
        notes.append(f"of the control {_ps(list(found.combined_c))}")
    if not columns:
        return Found(reason=notes[-1] if notes else "no re-initialised control was measured")
    return Found(
        tuple(places), np.stack(columns, 1), notes=tuple(dict.fromkeys(notes)), recurs=recurs,
        curves=over_depth(group, SHOWN), axis="relative depth", basis=group, shows=told(SHOWN),
    )  # fmt: skip


@quantity("period_own_block")
def period_own_block(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean strength over profiles of the network's own block, less the mean of wrong lengths on the same steps."""
    blocks = {n.span.block for n in evidence.networks if n.span is not None}
    if len(blocks) < 2:
        only = ", ".join(map(str, blocks)) or "none"
        return Found(reason=f"needs networks with different blocks; there are blocks of {only} only")
    group, reason = _with_spans(evidence, claim, a, ())
    if group is None:
        return Found(reason=reason)
    columns = [_own_less_wrong(group, at, _span(evidence, p)) for at, p in enumerate(group.places)]
    if any(np.isnan(column[0]) for column in columns):
        return Found(reason="its block cannot be tested on its span (three blocks of two steps or more are needed)")
    periods = Periods(group.inputs, group.pairing, group.weights)
    recurs = {p: periods._read(at, _span(evidence, p)).combined for at, p in enumerate(group.places)}
    notes = (*notes_on(group, claim), f"p of its own block {_ps(list(recurs.values()))}")
    return Found(
        group.places, np.stack(columns, 1), notes=notes, curves=over_depth(group, SHOWN), axis="relative depth",
        basis=group, shows=told(SHOWN),
    )  # fmt: skip


def _own_less_wrong(group: Group, at: int, span: TestedSpan) -> Float[ndarray, "row"]:
    n = span.block * span.count
    differences = []
    for member in FAMILY:
        key = Key(*member)
        if entry(member[0]).kind != "profile" or key not in group.inputs[at].samples:
            continue
        means, log = group.means(at, key), entry(member[0]).log
        own = period_strength(means, span.start, span.block, span.count, log)
        wrong = [
            period_strength(means, span.start, b, n // b, log)
            for b in wrong_sizes(span.block, n)
            if not bad_span(means.shape[-1], span.start, b, n // b)
        ]
        if wrong and np.isfinite(own[0]):
            differences.append(own - np.mean(wrong, 0))
    return np.mean(differences, 0) if differences else np.full(len(group.weights), np.nan)


def _span(evidence: Evidence, place: int) -> TestedSpan:
    span = evidence.networks[place].span
    assert span is not None  # others were left out
    return span


def _with_spans(
    evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...], *, controlled: bool = False
) -> tuple[Group | None, str]:
    """The signatures that hold the family's profiles, of those of A that have a span; or why there are none."""
    without = [evidence.networks[p].name for p in a if evidence.networks[p].span is None]
    if without or not a:
        return None, f"no span is declared or observed in {', '.join(without) or 'its networks'}"
    needed = [Key(*m) for m in FAMILY if entry(m[0]).kind == "profile"]
    keys = [key_of(claim)] if claim.of else needed[:1]
    group = evidence.group(claim.prompts, keys, (*a, *c), controlled=controlled)
    return group, "" if group is not None else f"{keys[0]} was not measured"


def _ps(values: list[float]) -> str:
    return "p = " + ", ".join(dict.fromkeys("untestable" if np.isnan(p) else f"{p:.2g}" for p in values))
