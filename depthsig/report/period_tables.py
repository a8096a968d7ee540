"""What the page and its pictures say about periods, as plain tables and words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from depthsig.metrics.rules import FAMILY, NESTED, P_VALUE, STRENGTH
from depthsig.signature import Signature
from depthsig.signature.tested import choose_span
from depthsig.statistics.periodicity import detrended
from depthsig.terms import NONE, described

_OWN_TABLE = (STRENGTH, P_VALUE, NESTED)
_KEY = ["metric", "part", "scope", "agg"]


def general_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores that have no table of their own on the page."""
    return scores[~scores["score"].isin(_OWN_TABLE)]


def period_rows(signature: Signature) -> list[dict[str, str]]:
    """One row of text a profile or matrix whose period was tested, the control's numbers beside it."""
    if not signature.scores["score"].isin(_OWN_TABLE).any():
        return []
    own = _wide(signature.scores)
    control = _wide(signature.control.scores) if signature.control is not None else {}
    rows = []
    for key, found in own.items():
        strength, nested = found.get(STRENGTH, {}), found.get(NESTED, {})
        other = control.get(key, {}).get(STRENGTH, {})
        low, high = strength.get("ci_low", np.nan), strength.get("ci_high", np.nan)
        rows.append({
            "about": described(*(piece for piece in key if piece != "mean")),
            "strength": _number(strength.get("value")), "p": _number(strength.get("p_value")),
            "interval": f"[{_number(low)}, {_number(high)}]" if pd.notna(low) else "–",
            "control_strength": _number(other.get("value")), "control_p": _number(other.get("p_value")),
            "note": str(strength.get("note", "")).split("; re-initialised control")[0],
            "nested": "" if pd.isna(strength.get("value", np.nan)) else str(nested.get("note", "")),
        })  # fmt: skip
    return rows


def _wide(scores: pd.DataFrame) -> dict[tuple[str, ...], dict[str, dict[str, Any]]]:
    """(metric, part, scope, agg) to the row of each period score."""
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in scores[scores["score"].isin(_OWN_TABLE)].to_dict("records"):
        found.setdefault(tuple(str(row[c]) for c in _KEY), {})[str(row["score"])] = row
    return found


def _number(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"{float(value):.3g}"


@dataclass(frozen=True, eq=False)
class PeriodTable:
    """A profile's span without its trend: what :func:`draw_period` draws.

    ``rows``: step, block, phase, left (after trend and edges), phase_fit (what the phases account for).
    ``unit``: the standard deviation of ``left``, in which it is drawn.
    """

    name: str
    scale: str
    caption: str
    rows: pd.DataFrame
    unit: float


def period_tables(signature: Signature) -> Iterator[PeriodTable]:
    """The testable profiles of the fixed family, without their trends."""
    scores = signature.scores
    tested = scores[(scores["score"] == STRENGTH) & (scores["agg"] == "mean") & scores["value"].notna()]
    span = choose_span(signature.info)
    if span is None:
        return
    for metric, part, scope in FAMILY:
        score = tested[(tested["metric"] == metric) & (tested["part"] == part) & (tested["scope"] == scope)]
        if score.empty:
            continue
        entry = signature.entries[metric]
        if entry.kind != "profile":
            continue
        values = signature.profile(metric, part, scope, "mean")["value"].to_numpy(float)
        found = detrended(values, span.start, span.block, span.count, entry.log)
        if found is None:
            continue
        block, phase = np.divmod(found.steps - span.start, span.block)
        rows = pd.DataFrame({
            "step": found.steps, "block": block, "phase": phase, "left": found.left, "phase_fit": found.phase_fit,
        })  # fmt: skip
        first = score.iloc[0]
        low, high = first["ci_low"], first["ci_high"]
        interval = f" [{_number(low)}, {_number(high)}]" if pd.notna(low) else ""
        name = ".".join(piece for piece in (metric, part, scope) if piece != NONE)
        unit = float(np.sqrt(np.mean(found.left**2))) or 1.0
        caption = (
            f"What trend and edges leave of it, coloured by phase in the block ({span}); bars: what the phases account "
            f"for. A standard deviation is {_number(unit)}. Strength {_number(first['value'])}{interval}, "
            f"p = {_number(first['p_value'])}."
        )
        yield PeriodTable(name, "logarithm, " if entry.log else "", caption, rows, unit)
