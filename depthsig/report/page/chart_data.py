"""Records that the page's charts are drawn from: lines, maps and estimates of plain lists and numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from depthsig.metrics import Metric
from depthsig.report.figures.labels import layers_are_steps
from depthsig.report.scale import Scale
from depthsig.terms import NONE

DIGITS = 5
"""Significant digits of a number on the page; the tables beside it have all of them."""
PART = ["part", "scope", "agg"]
"""What tells the lines (maps, lists) of one chart apart; a page may call them something else."""


def chart(label: str, kind: str, drawn: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A chart that several lines, maps or lists can be chosen for.

    Args:
        label: of the axis or the colours. kind: ``series``, ``cells`` or ``forest``.
        drawn: as :func:`line`, :func:`cells` or :func:`estimates` make them.
        more: ``unit``, ``formula``, ``source``, ``centre``; what is on its axes; ``choices``, how the page calls
            part, scope and agg; ``lines``, what its lines are, where they have names.
    """
    return {"label": label, "unit": "", "formula": "", "source": "", "axis": "", "centre": None, **more, kind: drawn}


def line(
    x: Iterable[float], y: Any, low: Any, high: Any, scale: Mapping[str, Any], *, part: str = NONE, scope: str = NONE,
    agg: str = "mean", name: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One line with its band; lines that have a name are drawn together."""
    named = {} if name is None else {"name": name}
    return {
        **named, "part": part, "scope": scope, "agg": agg, "scale": dict(scale), "x": rounded(list(x)), "y": rounded(y),
        "low": rounded(low), "high": rounded(high),
    }  # fmt: skip


def cells(
    grid: pd.DataFrame, scale: Mapping[str, Any], *, part: str = NONE, scope: str = NONE, agg: str = "mean"
) -> dict[str, Any]:
    """A map: rows and columns are whole numbers, or places in the chart's ``names``."""
    return {
        "part": part, "scope": scope, "agg": agg, "scale": dict(scale), "rows": [int(r) for r in grid.index],
        "cols": [int(c) for c in grid.columns], "values": [rounded(row) for row in grid.to_numpy(dtype=float)],
    }  # fmt: skip


def estimates(
    rows: Sequence[Mapping[str, Any]], value: str, labels: Sequence[str], *, reference: float | None = 0.0,
    part: str = NONE, scope: str = NONE, agg: str = "mean",
) -> dict[str, Any]:  # fmt: skip
    """A list of estimates with their intervals (``ci_low``, ``ci_high``), and what they are judged against."""
    columns = [rounded([float(row[name]) for row in rows]) for name in (value, "ci_low", "ci_high")]
    every = [v for column in columns for v in column if v is not None]
    said = [
        {"label": label, "value": middle, "low": low, "high": high, "note": str(row.get("note") or ""), **_verdict(row)}
        for label, row, middle, low, high in zip(labels, rows, *columns, strict=True)
    ]
    return {
        "part": part, "scope": scope, "agg": agg, "rows": said, "reference": reference,
        "scale": own_scale([*every, *([] if reference is None else [reference])], margin=0.05),
    }  # fmt: skip


def _verdict(row: Mapping[str, Any]) -> dict[str, str]:
    """By which a mark is chosen, where there is one."""
    return {"verdict": str(row["mark"])} if "mark" in row else {}


def about(one: Metric, plan: pd.DataFrame | None = None) -> dict[str, Any]:
    """What a chart says about a metric and its axes.

    Args:
        plan: tells whether blocks and marked steps have a place on axes of layers.
    """
    said: dict[str, Any] = {
        "label": one.label, "unit": one.unit, "formula": one.formula, "source": one.source, "axis": one.axis,
        "rows": one.rows, "cols": one.cols, "centre": one.centre,
    }  # fmt: skip
    if one.rows == "layer" and plan is not None:
        said["marked"] = layers_are_steps(plan)
    return said | {"rowLabel": one.row_label, "colLabel": one.col_label} if one.figure == "heatmap" else said


def section(place: str, title: str, metrics: list[str]) -> dict[str, Any]:
    """A place on the page for charts, by their ids."""
    return {"id": place, "title": title, "metrics": metrics}


def record(
    name: str, metrics: Mapping[str, Any], sections: Sequence[Mapping[str, Any]], *,
    plan: Sequence[Mapping[str, Any]] = (), marks: Sequence[float] | None = None, mark_name: str = "Step",
) -> dict[str, Any]:  # fmt: skip
    """All that a page's scripts read.

    Args:
        plan: a record a step; empty where no plan is shown.
        marks: what can be marked on every chart, in order; None for the plan's steps.
        mark_name: what one of them is called.
    """
    marked = {} if marks is None else {"marks": rounded(list(marks)), "markName": mark_name}
    return {
        "name": name, "plan": list(plan), "sections": list(sections), "metrics": dict(metrics), "tokens": {}, **marked,
    }  # fmt: skip


def scale_of(one: Metric, values: Any) -> dict[str, Any]:
    """The scale of a metric, as the figures have it."""
    return scale_record(Scale.of(one, values))


def scale_record(scale: Scale) -> dict[str, Any]:
    """A scale as the charts take it."""
    return {"norm": scale.norm, "low": float(scale.low), "high": float(scale.high)}


def own_scale(values: Any, *, centre: float | None = None, clip: float = 100.0, margin: float = 0.0) -> dict[str, Any]:
    """A linear scale of what has no entry.

    Args:
        centre: stands in the middle, if there is one.
        clip: the percentile of distances from the centre at which the scale ends.
        margin: room on each side, as a share.

    >>> own_scale([1.0, float("nan"), -3.0], centre=0.0)
    {'norm': 'linear', 'low': -3.0, 'high': 3.0}
    """
    finite = np.asarray(values, dtype=float).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        low, high = 0.0, 1.0
    elif centre is not None:
        reach = float(np.percentile(np.abs(finite - centre), clip)) or 1.0
        low, high = centre - reach, centre + reach
    else:
        low, high = float(finite.min()), float(finite.max())
    if not high > low:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    room = margin * (high - low)
    return {"norm": "linear", "low": low - room, "high": high + room}


def place(title: str) -> str:
    """Where a section of metrics is on the page.

    >>> place("Logit lens")
    'metrics-logit-lens'
    """
    return f"metrics-{slug(title)}"


def as_script(record: Any) -> Markup:
    """JSON that can stand in a ``<script>``: nothing in it ends the element or begins another.

    >>> as_script({"token": "</script>"})
    Markup('{"token":"\\\\u003c/script\\\\u003e"}')
    """
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def slug(title: str) -> str:
    """A title as the name of a place on the page.

    >>> slug("Logit lens")
    'logit-lens'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def rounded(values: Any) -> list[float | int | None]:
    """Numbers to five significant digits; None where there is none.

    >>> rounded([1.2345678, float("nan"), 123456.7, 2.0])
    [1.2346, None, 123460, 2]
    """
    return [_short(float(value)) if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]


def _short(value: float) -> float | int:
    value = float(f"{value:.{DIGITS}g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
