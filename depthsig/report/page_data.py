"""What the page's charts show, as one compact record: the numbers of the tables, on the scales of the figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from depthsig.metrics import Metric
from depthsig.report.drawable import drawable
from depthsig.report.scale import Scale
from depthsig.signature import Signature

DIGITS = 5
"""Significant digits of a number on the page; the tables beside it have all of them."""
RANKS = 3
"""Predicted tokens of one place that the page knows; ``tokens.parquet`` has all of them."""
TOKEN_FIGURES = ("top_tokens", "token_map")
PART = ["part", "scope", "agg"]


def page_data(signature: Signature) -> dict[str, Any]:
    """Plan, sections, metrics and tokens of a signature, of plain lists and numbers; None where undefined.

    Returns:
        ``plan``: a record a step. ``sections``: title, place on the page, and ids of metrics in the registry's order.
        ``metrics``: by id, the entry, and either ``series`` (x, y, low, high) or ``cells`` (rows, cols, values [row,
        col]), each with its part, scope, agg and scale. ``tokens``: by id, words, and for each prompt its positions
        and depths with the words and values at each.
    """
    signature = drawable(signature)
    metrics: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    for one in signature.entries.values():
        if one.figure == "profile":
            _add(metrics, one, "series", _series(signature.profiles, one))
        elif one.figure == "heatmap":
            _add(metrics, one, "cells", _cells(signature.matrices, one))
        elif one.figure in TOKEN_FIGURES:
            _add_tokens(tokens, one, signature.tokens_table)
    sections: dict[str, dict[str, Any]] = {}
    for name in (*metrics, *tokens):
        title = signature.entries[name].section
        section: dict[str, Any] = {"id": f"metrics-{slug(title)}", "title": title, "metrics": []}
        section = sections.setdefault(title, section)
        if name in metrics:
            section["metrics"].append(name)
    return {
        "name": str(signature.info.get("checkpoint", {}).get("name", "")), "plan": _plan(signature.plan),
        "sections": list(sections.values()), "metrics": metrics, "tokens": tokens,
    }  # fmt: skip


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


def _plan(plan: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["step", "layer", "iteration", "block", "phase"]
    return [
        {c: None if pd.isna(step[c]) else int(step[c]) for c in columns if c in step}
        for step in plan.to_dict("records")
    ]


def _add(metrics: dict[str, Any], one: Metric, kind: str, drawn: list[dict[str, Any]]) -> None:
    if not drawn:
        return
    about: dict[str, Any] = {
        "label": one.label, "unit": one.unit, "formula": one.formula, "source": one.source, "axis": one.axis,
        "rows": one.rows, "cols": one.cols, "centre": one.centre,
    }  # fmt: skip
    if kind == "cells":
        about |= {"rowLabel": one.row_label, "colLabel": one.col_label}
    metrics[one.id] = {**about, kind: drawn}


def _series(profiles: pd.DataFrame, one: Metric) -> list[dict[str, Any]]:
    drawn = []
    rows = profiles[profiles["metric"] == one.id]
    for _, together in rows.groupby("agg", sort=False):  # as the print figure: all parts and scopes on one scale
        scale = _scale(one, together["value"])
        for key, line in together.groupby(PART, sort=False):
            line = line.sort_values("index")
            drawn.append({
                **dict(zip(PART, map(str, key), strict=True)), "scale": scale, "x": [int(i) for i in line["index"]],
                "y": rounded(line["value"]), "low": rounded(line["ci_low"]), "high": rounded(line["ci_high"]),
            })  # fmt: skip
    return drawn


def _cells(matrices: pd.DataFrame, one: Metric) -> list[dict[str, Any]]:
    drawn = []
    rows = matrices[matrices["metric"] == one.id]
    for key, cells in rows.groupby(PART, sort=False):
        grid = cells.pivot(index="row", columns="col", values="value")
        drawn.append({
            **dict(zip(PART, map(str, key), strict=True)), "scale": _scale(one, grid.to_numpy(dtype=float)),
            "rows": [int(r) for r in grid.index], "cols": [int(c) for c in grid.columns],
            "values": [rounded(row) for row in grid.to_numpy(dtype=float)],
        })  # fmt: skip
    return drawn


def _scale(one: Metric, values: Any) -> dict[str, Any]:
    scale = Scale.of(one, values)
    return {"norm": scale.norm, "low": float(scale.low), "high": float(scale.high)}


def _add_tokens(tokens: dict[str, Any], one: Metric, table: pd.DataFrame) -> None:
    rows = table[table["metric"] == one.id]
    if rows.empty:
        return
    words: dict[str, int] = {}
    prompts = [
        _prompt(str(scope), int(str(prompt)), part, words, ranked=one.figure == "top_tokens")
        for (scope, prompt), part in rows.groupby(["scope", "prompt"], sort=False)
    ]
    tokens[one.id] = {
        "label": one.label, "unit": one.unit, "formula": one.formula, "axis": one.axis,
        "section": f"metrics-{slug(one.section)}", "scale": _scale(one, rows["value"]), "prompts": prompts,
        "words": list(words),
    }  # fmt: skip


def _prompt(scope: str, prompt: int, rows: pd.DataFrame, words: dict[str, int], *, ranked: bool) -> dict[str, Any]:
    """One prompt's text: at each depth and position, words (numbers of the list ``words``) with their values."""
    positions = sorted(rows["position"].dropna().astype(int).unique().tolist())
    depths = sorted(rows["index"].dropna().astype(int).unique().tolist())
    place: Mapping[int, int] = {p: i for i, p in enumerate(positions)}
    line: Mapping[int, int] = {d: i for i, d in enumerate(depths)}
    cells: list[list[list[Any]]] = [[[] for _ in positions] for _ in depths]
    read = [""] * len(positions)
    if ranked:
        rows = rows[rows["rank"].astype("Float64").fillna(1) <= RANKS].sort_values("rank")
    values = rounded(rows["value"])
    found = zip(rows["index"], rows["position"], rows["token"], rows["input_token"], values, strict=True)
    for index, position, token, given, value in found:
        if pd.isna(index) or pd.isna(position):
            continue
        at = place[int(position)]
        read[at] = _text(given)
        cells[line[int(index)]][at] += [words.setdefault(_text(token), len(words)) if ranked else -1, value]
    return {"prompt": prompt, "scope": scope, "positions": positions, "depths": depths, "read": read, "cells": cells}


def _text(token: Any) -> str:
    return "" if pd.isna(token) else str(token)
