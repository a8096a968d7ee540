"""From which revision on claims hold: findings of each checkpoint, and verdicts of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.commands.sweeps.compared_roles import Combination
from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.signature import Comparison, Signature
from depthsig.signature.sweeps.onset import AGAINST, HOLDS, OPEN, onset_of
from depthsig.signature.sweeps.swept import numbered
from depthsig.terms import NONE

_VERDICTS = {"supported": HOLDS, "contradicted": AGAINST, "undecided": OPEN}
"""What a comparison's verdicts are called among findings."""
_ASSURANCE = ("exact", "prompts")
"""Findings that are about the analysis, not about the model."""
Judged = tuple[str, bool]
"""A verdict, and whether the number lies above its reference."""


def onsets(
    done: Sequence[Unit], out: Path, compared: Mapping[Combination, str], tick: Callable[[float], None]
) -> pd.DataFrame:
    """``onset.csv``: a row a claim and series of two revisions or more; empty where revisions are not swept."""
    rows: list[dict[str, Any]] = []
    series: dict[tuple[str | None, ...], dict[str, Unit]] = {}
    for unit in done:
        if unit.revision is not None:
            key = (unit.checkpoint, unit.order, unit.prompts, unit.preset)
            series.setdefault(key, {})[unit.revision] = unit
    for (checkpoint, *rest), units in series.items():
        if len(units) > 1:
            found = {revision: _findings(out / unit.folder) for revision, unit in units.items()}
            tick(len(units))
            rows += _rows([checkpoint, *rest], found)
    between: dict[tuple[str | None, ...], dict[str, Mapping[tuple[str, str], Judged]]] = {}
    for (revision, *rest), name in compared.items():
        if revision is not None:
            between.setdefault(tuple(rest), {})[revision] = _claims(out / name)
    for shared, claims in between.items():
        if len(claims) > 1:
            rows += _rows([None, *shared], claims)
    return pd.DataFrame(rows)


def _rows(
    about: Sequence[str | None], found: Mapping[str, Mapping[tuple[str, str], Judged]]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Every claim that each revision judged."""
    steps = numbered(list(found))
    order = sorted(found, key=lambda one: steps[one]) if steps is not None else list(found)
    names = dict(zip(("checkpoint", "order", "prompts", "preset"), (one or NONE for one in about), strict=True))
    for claim, role in found[order[0]]:
        judged = [found[revision].get((claim, role)) for revision in order]
        known = [one for one in judged if one is not None]
        if len(known) < len(order):
            continue
        claimed = _claimed_side(known)
        said = onset_of(order, [verdict for verdict, _ in known], [above == claimed for _, above in known])
        note = " → ".join(verdict for verdict, _ in known)
        yield {**names, "claim": claim, "role": role, **said, "note": note}


def _claimed_side(judged: Sequence[Judged]) -> bool:
    """Whether a claim is of numbers above its reference: what holds lies on its side, what does not on the other."""
    held = [above for verdict, above in judged if verdict == HOLDS]
    failed = [not above for verdict, above in judged if verdict == AGAINST]
    return next(iter([*held, *failed]), True)


def _findings(folder: Path) -> dict[tuple[str, str], Judged]:
    """Findings that are judged against a number."""
    return {
        (one["id"], NONE): (one["verdict"], one["value"] > one["reference"])
        for one in Signature.load(folder).findings()
        if one["id"] not in _ASSURANCE and one["reference"] is not None and one["value"] is not None
    }


def _claims(folder: Path) -> dict[tuple[str, str], Judged]:
    rows = Comparison.load(folder).claims.to_dict("records")
    return {(str(r["claim"]), str(r["a"])): (_VERDICTS[str(r["verdict"])], r["estimate"] > 0) for r in rows}
