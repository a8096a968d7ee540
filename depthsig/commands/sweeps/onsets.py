"""From which revision on claims hold: findings of each checkpoint, and verdicts of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.commands.sweeps.compared_roles import Combination, combination_of
from depthsig.commands.sweeps.sweep_file import AskedSweep, Unit
from depthsig.signature import Comparison, Signature
from depthsig.signature.sweeps.onset import AGAINST, HOLDS, OPEN, onset_of
from depthsig.signature.sweeps.swept import numbered
from depthsig.terms import NONE

_VERDICTS = {"supported": HOLDS, "contradicted": AGAINST, "undecided": OPEN}
"""What a comparison's verdicts are called among findings."""
_ASSURANCE = ("exact", "prompts")
"""Findings that are about the analysis, not about the model."""
_BELOW = ("loop_rests", "least_damaging", "convergence")
"""Claims of a number below its reference; the others are of one above it."""
Judgements = Mapping[tuple[str, str], tuple[str, bool]]
"""Of a claim and a role: the verdict, and whether the number lies above its reference."""


def onsets(
    sweep: AskedSweep, done: Sequence[Unit], out: Path, compared: Mapping[Combination, str],
    tick: Callable[[float], None],
) -> pd.DataFrame:  # fmt: skip
    """``onset.csv``: a row a claim and series of two revisions or more; empty where revisions are not swept.

    A revision that has no result, or at which a claim could not be judged, is an open one.
    """
    there = {unit.folder for unit in done}
    series: dict[tuple[str | None, ...], dict[str, Judgements]] = {}
    for unit in sweep.units:
        if unit.revision is not None:
            key = (unit.checkpoint, unit.order, unit.prompts, unit.preset)
            found = _findings(out / unit.folder) if unit.folder in there else {}
            series.setdefault(key, {})[unit.revision] = found
            tick(1)
    for unit in sweep.units if compared else ():
        if unit.revision is not None:
            name = compared.get(combination_of(unit))
            shared = series.setdefault((None, unit.order, unit.prompts, unit.preset), {})
            shared[unit.revision] = {} if name is None else _claims(out / name)
    rows = [row for about, found in series.items() if len(found) > 1 for row in _rows(about, found)]
    return pd.DataFrame(rows)


def _rows(about: Sequence[str | None], found: Mapping[str, Judgements]) -> Iterator[dict[str, Any]]:
    """Every claim that any revision judged."""
    steps = numbered(list(found))
    order = sorted(found, key=lambda one: steps[one]) if steps is not None else list(found)
    names = dict(zip(("checkpoint", "order", "prompts", "preset"), (one or NONE for one in about), strict=True))
    for claim, role in dict.fromkeys(key for judged in found.values() for key in judged):
        judged = [found[revision].get((claim, role)) for revision in order]
        verdicts = [OPEN if one is None else one[0] for one in judged]
        beyond = [one is not None and one[1] != (claim in _BELOW) for one in judged]
        note = " → ".join("not judged" if one is None else one[0] for one in judged)
        yield {**names, "claim": claim, "role": role, **onset_of(order, verdicts, beyond), "note": note}


def _findings(folder: Path) -> Judgements:
    """Findings that are judged against a number."""
    return {
        (one["id"], NONE): (one["verdict"], one["value"] > one["reference"])
        for one in Signature.load(folder).findings()
        if one["id"] not in _ASSURANCE and one["reference"] is not None and one["value"] is not None
    }


def _claims(folder: Path) -> Judgements:
    rows = Comparison.load(folder).claims.to_dict("records")
    return {(str(r["claim"]), str(r["a"])): (_VERDICTS[str(r["verdict"])], r["estimate"] > 0) for r in rows}
