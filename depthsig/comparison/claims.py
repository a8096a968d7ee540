"""The three claims of "From Growing to Looping", each with a verdict by fixed rules.

A is ``looped`` and ``grown`` in turn, C the ``baseline``. Supported where the 95 % interval lies on the
claimed side of 0, contradicted where it lies on the other, as surely, else undecided.

- *late*: late_share(A) − late_share(C), of skipped layers in scope current.
- *recurrence*: strength(A) − strength(C) over A's span (:mod:`depthsig.comparison.recurrence`); to be
  supported it also needs period.combined < .05 in every signature of A. Contradicted is a C that recurs
  more with A's block than A does, whatever A's p.
- *convergence*: d(A, B) − min(d(A, C), d(B, C)), d the mean distance over all profiles. With noise the
  smaller of two distances is too small rather than too large, which works against the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.curves import Arm, Distances, between
from depthsig.comparison.recurrence import Periods, Recurrence
from depthsig.comparison.reliance import Score, of_arm
from depthsig.metrics import entry
from depthsig.metrics.rules import COMBINED, FAMILY, LATE
from depthsig.statistics.convergence import percentile_interval, verdict
from depthsig.tables.samples import Key
from depthsig.terms import NONE

ALPHA = 0.05
SEEDS = 3
"""With fewer networks an arm, an answer is about these checkpoints."""


def late_claim(a: Arm, c: Arm, scores: dict[Score, Float[ndarray, "row model"]], scope_note: str) -> dict[str, Any]:
    """Does A rely on late layers more than C?"""
    values = scores.get(LATE)
    name, *about = LATE
    if values is None:
        source = Key(entry(name).needs[0], *about)
        return _row("late", a, None, c, None, f"{source} was not measured", scope_note)
    of_a, of_c = of_arm(values, a), of_arm(values, c)
    if np.isnan(of_a[0] - of_c[0]):
        return _row("late", a, None, c, None, f"{Key(*LATE)} is undefined in a signature", scope_note)
    note = f"{name} {a.role} {of_a[0]:.3f}, {c.role} {of_c[0]:.3f} (1/3 where all steps matter alike)"
    row = _row("late", a, None, c, of_a - of_c, note, scope_note)
    against = _deciding_otherwise(row["verdict"], a, c, scores)
    if against:
        row["note"] = f"the scores disagree: {'; '.join(against)}; {row['note']}"
    return row


def _deciding_otherwise(found: str, a: Arm, c: Arm, scores: dict[Score, Float[ndarray, "row model"]]) -> list[str]:
    """Other scores of late reliance, of the same part and scope, that decide and decide otherwise, with numbers."""
    said = []
    for (name, *about), values in scores.items():
        if (name, *about) == LATE or about != list(LATE[1:]) or entry(name).unit == "step":
            continue  # scores in steps are no measure between models of different depth
        difference, low, high = percentile_interval(of_arm(values, a) - of_arm(values, c))
        if "undecided" != verdict(low, high) != found:
            said.append(f"{name} differs by {difference:+.3f} [{low:+.3f}, {high:+.3f}]")
    return said


def recurrence_claim(a: Arm, c: Arm, found: Recurrence, control: Recurrence, scope_note: str) -> dict[str, Any]:
    """Do patterns recur with the block in A, more than in C over the same steps?"""
    if found.reason:
        return _row("recurrence", a, None, c, None, f"not testable: {found.reason}", scope_note)
    of_a, of_c = found.mean("a"), found.mean("c")
    row = _row("recurrence", a, None, c, of_a - of_c, "", scope_note)
    periodic = all(p < ALPHA for p in found.combined_a)  # a NaN is no evidence
    if row["verdict"] == "supported" and not periodic:
        row["verdict"] = "undecided"
    notes = [
        f"{COMBINED} of {a.role} {_ps(found.combined_a)}, of {c.role} over the same steps {_ps(found.combined_c)}",
        f"mean strength {a.role} {of_a[0]:.3f}, {c.role} {of_c[0]:.3f}, over {len(found.members)} of {len(FAMILY)} "
        "profiles of the family",
        _control_note(control),
    ]
    if not periodic:
        notes.insert(1, f"no period of the block in {a.role} at {ALPHA:g}")
    row["note"] = "; ".join([*notes, scope_note])
    return row


def _ps(values: Sequence[float]) -> str:
    shown = dict.fromkeys("untestable" if np.isnan(p) else f"{p:.3g}" for p in values)
    return f"p = {', '.join(shown)}"


def _control_note(control: Recurrence) -> str:
    if control.reason:
        return control.reason
    value, low, high = percentile_interval(control.mean("a") - control.mean("c"))
    interval = f" [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else ""
    said = (
        f"re-initialised control: strength {control.mean('c')[0]:.3f}, {_ps(control.combined_c)}, "
        f"trained − control {value:+.3f}{interval}"
    )
    if any(p < ALPHA for p in control.combined_c):
        said += " (the control recurs too: running the same weights again makes a pattern by itself)"
    return said


def convergence_claim(a: Arm, b: Arm, c: Arm, measured: Distances, scope_note: str) -> dict[str, Any]:
    """Are A and B closer to each other than the closer of them is to C?"""
    ab, ac, bc = (between(measured.mean, one, other) for one, other in ((a, b), (a, c), (b, c)))
    profiles = [
        tuple(between(d[None], one.at_estimate(), other.at_estimate())[0] for one, other in ((a, b), (a, c), (b, c)))
        for d in measured.by_profile
    ]
    closer = sum(one < min(two, three) for one, two, three in profiles)
    note = (
        f"d({a.role}, {b.role}) {ab[0]:.3f}, d({a.role}, {c.role}) {ac[0]:.3f}, d({b.role}, {c.role}) {bc[0]:.3f}, "
        f"means over {len(profiles)} profiles, of which {closer} have {a.role} and {b.role} closest"
    )
    return _row("convergence", a, b, c, ab - np.minimum(ac, bc), note, scope_note, above=False)


def _row(
    claim: str, a: Arm, b: Arm | None, c: Arm, values: Float[ndarray, "row"] | None, note: str, scope_note: str,
    *, above: bool = True,
) -> dict[str, Any]:  # fmt: skip
    estimate, low, high = (np.nan,) * 3 if values is None else percentile_interval(values)
    said = "; ".join(filter(None, [note, scope_note]))
    return {
        "claim": claim, "a": a.role, "b": b.role if b else "", "c": c.role, "estimate": estimate, "ci_low": low,
        "ci_high": high, "verdict": verdict(low, high, above=above), "note": said,
    }  # fmt: skip


def seeds_note(arms: Sequence[Arm]) -> str:
    """What the answer generalises to."""
    counts = [len(arm.places) for arm in arms]
    if min(counts) >= SEEDS:
        return ""
    each = f"{counts[0]}" if len(set(counts)) == 1 else " to ".join(map(str, (min(counts), max(counts))))
    few = "; resampling so few seeds gives too narrow an interval" if max(counts) > 1 else ""
    return f"about these checkpoints, {each} an arm: prompts are no replicates of a training run{few}"


def judge_claims(
    arms: Sequence[Arm], measured: Distances, scores: dict[Score, Float[ndarray, "row model"]], periods: Periods,
    tick: Callable[[float], None],
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """The table of claims that the arms allow, and the strengths behind the second one."""
    by_role = {arm.role: arm for arm in arms}
    c = by_role.get("baseline")
    rows: list[dict[str, Any]] = []
    strengths: list[dict[str, Any]] = []
    candidates = [by_role[r] for r in ("looped", "grown") if r in by_role] if c is not None else []
    for a in candidates:
        assert c is not None
        rows.append(late_claim(a, c, scores, seeds_note([a, c])))
        tick(1)
    for a in candidates:
        assert c is not None
        found, control = periods.against(a, c), periods.beside_control(a)
        rows.append(recurrence_claim(a, c, found, control, seeds_note([a, c])))
        strengths += [*strength_rows(a.role, found), *strength_rows(a.role, control)]
        tick(1)
    if len(candidates) == 2 and c is not None:
        a, b = candidates
        rows.append(convergence_claim(a, b, c, measured, seeds_note([a, b, c])))
    return pd.DataFrame(rows), pd.DataFrame(strengths)


def strength_rows(role: str, found: Recurrence) -> list[dict[str, Any]]:
    """Rows of the table of strengths: the family's mean, then member by member."""
    if found.reason:
        about = {"a": role, "c": found.other, "metric": "mean", "part": NONE, "scope": NONE}
        empty = dict.fromkeys(("strength_a", "strength_c", "difference", "ci_low", "ci_high", "p_a", "p_c"), np.nan)
        return [{**about, **empty, "note": f"not testable: {found.reason}"}]
    combined = (max(found.combined_a), max(found.combined_c))
    sides = [(("mean", NONE, NONE), found.mean("a"), found.mean("c"), *combined)]
    sides += [(m, found.strengths_a[m], found.strengths_c[m], found.p_a[m], found.p_c[m]) for m in found.members]
    rows = []
    for (name, part, scope), a, c, p_a, p_c in sides:
        difference, low, high = percentile_interval(a - c)
        rows.append({
            "a": role, "c": found.other, "metric": name, "part": part, "scope": scope, "strength_a": float(a[0]),
            "strength_c": float(c[0]), "difference": difference, "ci_low": low, "ci_high": high, "p_a": p_a, "p_c": p_c,
            "note": f"mean over the family; p after Holm ({COMBINED})" if name == "mean" else "",
        })  # fmt: skip
    return rows
