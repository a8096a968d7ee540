"""Every claim, role by role: its numbers, its verdict, and what a reader should know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import depthsig.replication.held_quantities
import depthsig.replication.recurring_quantities
import depthsig.replication.run_quantities
import depthsig.replication.weight_quantities  # noqa: F401
from depthsig.comparison.claims import ALPHA
from depthsig.errors import InputError
from depthsig.metrics.rules import EARLY_EXIT_LOSS
from depthsig.replication.contrast import ArmValues, Contrast, contrast
from depthsig.replication.criteria import Claim
from depthsig.replication.depth_quantities import BY_QUANTITY, Found
from depthsig.replication.gathered import Gathered
from depthsig.replication.members import TrainedNetwork, arm
from depthsig.statistics.convergence import percentile_interval
from depthsig.statistics.resampling import MIN_PROMPTS

LEARNED = 0.9
"""A network has learned something where its loss is below this share of that of a guess, ln of the vocabulary."""
NOT_MEASURABLE = "not measurable"
NO_QUANTITY = "nothing measures it in this version"


@dataclass(frozen=True)
class JudgedClaims:
    """Verdicts with what lies behind them.

    Attributes:
        claims: rows of ``replication.csv``. networks: a row a claim, role and network.
        curves: a row a point of a figure.
    """

    claims: pd.DataFrame
    networks: pd.DataFrame
    curves: pd.DataFrame


def judge(evidence: Gathered, claims: Sequence[Claim], tick: Callable[[float], None] = lambda n: None) -> JudgedClaims:
    """Judge every claim for every role that it is about."""
    unlearned = unlearned_networks(evidence.networks)
    rows: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for claim in claims:
        for role in claim.roles:
            row, found, places = _judged(evidence, claim, role, unlearned)
            rows.append(row)
            networks += _network_rows(evidence, claim, role, found, places)
            curves += _curve_rows(evidence, claim, role, found, places)
        tick(1)
    return JudgedClaims(pd.DataFrame(rows), pd.DataFrame(networks), pd.DataFrame(curves))


def unlearned_networks(networks: Sequence[TrainedNetwork]) -> dict[int, str]:
    """Networks whose loss is no better than a guess, by place, with that said: depth is not used by them."""
    found = {}
    for place, one in enumerate(networks):
        for signature in one.signatures:
            vocabulary = signature.info["checkpoint"].get("vocabulary")
            table = signature.profiles
            rows = table[(table["metric"] == EARLY_EXIT_LOSS) & (table["agg"] == "mean")].dropna(subset="value")
            if not vocabulary or rows.empty:
                continue
            loss, guess = float(rows.sort_values("index")["value"].iloc[-1]), float(np.log(vocabulary))
            if not loss < LEARNED * guess:
                found[place] = f"{one.name} has learned nothing (loss {loss:.2f}, {guess:.2f} for a guess)"
    return found


def verdict_of(evidence: Gathered, claim: Claim, role: str, *, untrained: bool = False) -> dict[str, Any]:
    """One row of ``replication.csv``.

    Args:
        untrained: of re-initialised networks, which need not have learned anything.
    """
    return _judged(evidence, claim, role, {} if untrained else unlearned_networks(evidence.networks))[0]


Places = dict[str, tuple[int, ...]]


def _judged(
    evidence: Gathered, claim: Claim, role: str, unlearned: dict[int, str]
) -> tuple[dict[str, Any], Found, Places]:
    sides = sides_of(evidence, claim, role)
    everyone = tuple(p for places in sides.values() for p in places)
    left_out = [said for place, said in unlearned.items() if place in everyone]
    sides = {name: tuple(p for p in places if p not in unlearned) for name, places in sides.items()}
    empty = [name for name, places in sides.items() if not places]
    if empty:
        nobody = [name for name in empty if not arm(evidence.networks, name)]
        why = [f"no network has the role {nobody[0]}"] if nobody else left_out
        return _row(claim, role, None, NOT_MEASURABLE, why), Found(), {}
    names = list(sides)
    half = len(names) // (2 if isinstance(claim.against, str) else 1)
    a = tuple(p for name in names[:half] for p in sides[name])
    c = tuple(p for name in names[half:] for p in sides[name])
    measure = BY_QUANTITY.get(claim.quantity)
    try:
        found = Found(reason=NO_QUANTITY) if measure is None else measure(evidence, claim, a, c)
    except InputError as error:
        found = Found(reason=str(error))
    if found.reason:
        return _row(claim, role, None, NOT_MEASURABLE, [found.reason, *left_out]), found, {}
    if found.decided:
        return _row(claim, role, None, found.decided, [*found.notes, *left_out]), found, {}
    places = {name: tuple(p for p in there if p in found.places) for name, there in sides.items()}
    if found.of_c is not None:
        places |= {names[-1]: found.c_places}
    lacking = [name for name, there in places.items() if not there]
    if lacking:
        said = [why for p in sides[lacking[0]] for why in evidence.networks[p].reasons.values()]
        why = [f"nothing of it was measured in the role {lacking[0]}", *said, *left_out]
        return _row(claim, role, None, NOT_MEASURABLE, why), found, {}
    signs = (1, -1, -1, 1) if claim.change else (1, -1)
    arms = [
        ArmValues(_values(found, there, number == len(places) - 1 and len(places) > 1), signs[number])
        for number, there in enumerate(places.values())
    ]
    measured = contrast(arms, claim, found.n, found.strata)
    if not np.isfinite(measured.estimate):
        return _row(claim, role, None, NOT_MEASURABLE, ["the quantity is undefined in a network", *left_out]), found, {}
    notes = _notes(claim, found, measured, places, left_out)
    return _row(claim, role, measured, _decided(claim, found, measured, places), notes), found, places


def sides_of(evidence: Gathered, claim: Claim, role: str) -> Places:
    """The arms by name: A, and C where it is a role; before and after of each where a change is claimed."""
    return {one: arm(evidence.networks, one) for one in claim.arms(role)}


def _values(found: Found, places: Sequence[int], last: bool) -> np.ndarray:
    if last and found.of_c is not None:
        return found.of_c
    return found.values[:, [found.places.index(p) for p in places]]


def _decided(claim: Claim, found: Found, measured: Contrast, places: Places) -> str:
    verdict = measured.verdict(claim.above)
    if claim.also == "recurs" and verdict == "supported" and not _recurs(found, places):
        return "undecided"
    return verdict


def _recurs(found: Found, places: Places) -> bool:
    """Whether the block's period is found in every network of A; a NaN is no evidence."""
    mine = next(iter(places.values()))
    return all(found.recurs.get(p, np.nan) < ALPHA for p in mine)


def _notes(claim: Claim, found: Found, measured: Contrast, places: Places, left_out: Sequence[str]) -> list[str]:
    said = []
    if claim.also == "recurs" and not _recurs(found, places):
        said.append(f"no period of the block at {ALPHA:g}")
    if 0 < found.n < MIN_PROMPTS:
        said.append(f"{found.n} prompt{'s are' if found.n > 1 else ' is'} too few for an interval")
    counts = ", ".join(f"{len(there)} of {name}" for name, there in places.items())
    return [*said, f"networks: {counts}", *found.notes, measured.note(), *left_out]


def _row(claim: Claim, role: str, measured: Contrast | None, verdict: str, notes: Sequence[str]) -> dict[str, Any]:
    numbers = (np.nan,) * 3 if measured is None else (measured.estimate, measured.low, measured.high)
    return {
        "experiment": claim.experiment, "claim": claim.id, "criterion": claim.criterion, "role": role,
        "estimate": numbers[0], "ci_low": numbers[1], "ci_high": numbers[2], "verdict": verdict,
        "note": "; ".join(dict.fromkeys(n for n in notes if n)),
    }  # fmt: skip


def _network_rows(evidence: Gathered, claim: Claim, role: str, found: Found, places: Places) -> list[dict[str, Any]]:
    rows = []
    for number, (name, there) in enumerate(places.items()):
        values = _values(found, there, number == len(places) - 1 and len(places) > 1)
        for column, place in enumerate(there):
            value, low, high = percentile_interval(values[:, column])
            about = {"claim": claim.id, "role": role, "arm": name, "network": evidence.networks[place].name}
            rows.append({**about, "value": value, "ci_low": low, "ci_high": high})
    return rows


def _curve_rows(evidence: Gathered, claim: Claim, role: str, found: Found, places: Places) -> list[dict[str, Any]]:
    arms = {p: name for name, there in places.items() for p in there}
    return [
        {
            "claim": claim.id, "role": role, "arm": arms[curve.place], "network": evidence.networks[curve.place].name,
            "axis": found.axis, "shows": found.shows, "x": x, "value": value, "ci_low": low, "ci_high": high,
        }
        for curve in found.curves if curve.place in arms
        for x, value, low, high in zip(curve.x, curve.value, curve.low, curve.high, strict=True)
    ]  # fmt: skip
