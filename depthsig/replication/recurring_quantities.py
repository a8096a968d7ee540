"""Strengths of the block's period as quantities of claims: beside the baseline, the control and wrong lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.recurrence import Periods, Reading
from depthsig.metrics import entry
from depthsig.metrics.rules import FAMILY, MOVES, Member
from depthsig.replication.criteria import Claim
from depthsig.replication.depth_quantities import Found, key_of, notes_on, over_depth, quantity, told
from depthsig.replication.gathered import Gathered, Group
from depthsig.replication.members import arm
from depthsig.signature.tested import TestedSpan
from depthsig.statistics.periodicity import period_strength, wrong_strengths
from depthsig.tables.samples import Key
from depthsig.terms import NONE

BESIDE = Key(MOVES, "attn")
"""The profile that figures show beside the strengths."""


@quantity("period")
def period(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean strength over the fixed family of profiles, over A's span, in A and in C."""
    return _against(evidence, claim, a, c, None)


@quantity("period_of")
def period_of(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The strength of one profile of the family alone."""
    return _against(evidence, claim, a, c, (claim.of[0], claim.of[1], claim.of[2]))


def _against(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...], member: Member | None) -> Found:
    group, reason = _with_spans(evidence, claim, a, c)
    if group is None:
        return Found(reason=reason)
    at = {place: n for n, place in enumerate(group.places)}
    mine, theirs = [p for p in a if p in at], [p for p in c if p in at]
    if not mine or not theirs:
        return Found(reason="the family's profiles were not measured in both arms on the same prompts")
    periods = Periods(group.inputs, group.pairing, group.weights)
    spans = {p: _span(evidence, p) for p in mine}
    end = max(s.start + s.block * s.count for s in spans.values())
    short = [evidence.networks[p].name for p in theirs if evidence.networks[p].steps < end]
    if short:
        return Found(reason=f"{', '.join(short)} has fewer steps than the span's end, {end}")
    own = {p: periods.read(at[p], spans[p]) for p in mine}
    other = {p: [periods.read(at[p], span) for span in dict.fromkeys(spans.values())] for p in theirs}
    members, said = _members([*own.values(), *(r for readings in other.values() for r in readings)], member)
    if not members:
        return Found(reason=said)
    values = np.stack([_mean(r, members) for r in own.values()], 1)
    # C over the spans of A, averaged over those.
    of_c = np.stack([np.mean([_mean(r, members) for r in readings], 0) for readings in other.values()], 1)
    recurs = {p: r.combined for p, r in own.items()}
    of_other = [r.combined for readings in other.values() for r in readings]
    notes = (
        *notes_on(group, claim), said,
        f"of its block {_ps(list(recurs.values()))}, of the other arm over the same steps {_ps(of_other)}",
    )  # fmt: skip
    return Found(
        tuple(mine), values, of_c, tuple(theirs), notes, recurs=recurs, curves=over_depth(group, BESIDE),
        axis="relative depth", basis=group, shows=told(BESIDE),
    )  # fmt: skip


def _members(readings: Sequence[Reading], member: Member | None) -> tuple[tuple[Member, ...], str]:
    """The profiles that are testable everywhere, and what is to be said of them; or why there are none."""
    asked = FAMILY if member is None else (member,)
    members = tuple(m for m in asked if all(m in reading.strengths for reading in readings))
    if members:
        said = f"over the {len(members)} of {len(asked)} profiles that are testable everywhere"
        return members, said if len(members) < len(asked) else ""
    why = "; ".join(dict.fromkeys(reason for reading in readings for reason in reading.reasons))
    what = "no profile of the family" if member is None else f"{' '.join(p for p in member if p != NONE)}"
    return (), f"{what} is {'not ' * (member is not None)}testable in every network" + (f" ({why})" if why else "")


def _mean(reading: Reading, members: Sequence[Member]) -> Float[ndarray, "row"]:
    return np.mean([reading.strengths[m] for m in members], axis=0)


@quantity("period_beside_control")
def period_beside_control(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean strength in A less that of the re-initialised control in its own folder."""
    group, reason = _with_spans(evidence, claim, a, (), controlled=True)
    if group is None:
        return Found(reason=reason if reason.startswith("no span") else "no re-initialised control was measured")
    periods = Periods(group.inputs, group.pairing, group.weights)
    columns, places, notes, recurs = [], [], list(notes_on(group, claim)), {}
    for at, place in enumerate(group.places):
        span = _span(evidence, place)
        own, control = periods.read(at, span), periods.read_control(at, span)
        members, said = _members([own, control], None)
        notes.append(f"{evidence.networks[place].name}: {said}" if said else "")
        if not members:
            continue
        columns.append(_mean(own, members) - _mean(control, members))
        places.append(place)
        recurs[place] = own.combined
        notes.append(f"of the control {_ps([control.combined])}")
    notes = [note for note in notes if note]
    if not columns:
        return Found(reason=notes[-1])
    return Found(
        tuple(places), np.stack(columns, 1), notes=tuple(dict.fromkeys(notes)), recurs=recurs,
        curves=over_depth(group, BESIDE), axis="relative depth", basis=group, shows=told(BESIDE),
    )  # fmt: skip


@quantity("period_own_block")
def period_own_block(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean strength over profiles of the network's own block, less the mean of wrong lengths on the same steps."""
    asked = {p for role in claim.roles for p in arm(evidence.networks, role)}
    blocks = {s.block for p in asked if (s := evidence.networks[p].span) is not None}
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
    recurs = {p: periods.read(at, _span(evidence, p)).combined for at, p in enumerate(group.places)}
    notes = (*notes_on(group, claim), f"of its own block {_ps(list(recurs.values()))}")
    return Found(
        group.places, np.stack(columns, 1), notes=notes, recurs=recurs, curves=over_depth(group, BESIDE),
        axis="relative depth", basis=group, shows=told(BESIDE),
    )  # fmt: skip


def _own_less_wrong(group: Group, at: int, span: TestedSpan) -> Float[ndarray, "row"]:
    differences = []
    for member in FAMILY:
        key = Key(*member)
        if entry(member[0]).kind != "profile" or key not in group.inputs[at].samples:
            continue
        where = (group.means(at, key), span.start, span.block, span.count, entry(member[0]).log)
        own, wrong = period_strength(*where), list(wrong_strengths(*where).values())
        if wrong and np.isfinite(own[0]):
            differences.append(own - np.mean(wrong, 0))
    return np.mean(differences, 0) if differences else np.full(len(group.weights), np.nan)


def _span(evidence: Gathered, place: int) -> TestedSpan:
    span = evidence.networks[place].span
    assert span is not None  # others were left out
    return span


def _with_spans(
    evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...], *, controlled: bool = False
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
