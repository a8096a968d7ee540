"""What the page's charts show, as one compact record: the numbers of the tables, on the scales of the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from depthsig.errors import visible
from depthsig.metrics import Metric
from depthsig.report.drawable import drawable
from depthsig.report.figures.token_map import exit_marks
from depthsig.report.page.chart_data import PART, about, cells, place, rounded, scale_of, section
from depthsig.report.page.chart_data import line as one_line
from depthsig.signature import Signature

RANKS = 3
"""Predicted tokens of one place that the page knows; ``tokens.parquet`` has all of them."""
TOKEN_FIGURES = ("top_tokens", "token_map")


def page_data(signature: Signature) -> dict[str, Any]:
    """Plan, sections, metrics and tokens of a signature, of plain lists and numbers; None where undefined.

    Returns:
        ``plan``: a record a step. ``sections``: title, place on the page, and ids of metrics in the registry's order.
        ``metrics``: by id, the entry, and either ``series`` (x, y, low, high) or ``cells`` (rows, cols, values [row,
        col]), each with its part, scope, agg and scale. ``tokens``: by id, words, and for each prompt its positions
        and depths with the words and values at each, and the exits from a loop by name and position.
    """
    signature = drawable(signature)
    plan = signature.plan
    metrics: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    vocabulary = signature.info.get("checkpoint", {}).get("vocabulary")
    for one in signature.entries.values():
        if one.figure == "profile":
            _add(metrics, one, plan, "series", _series(signature.profiles, one))
            if one.id in metrics:
                metrics[one.id]["chance"] = one.by_chance(vocabulary)
        elif one.figure == "heatmap":
            _add(metrics, one, plan, "cells", _cells(signature.matrices, one))
        elif one.figure in TOKEN_FIGURES:
            _add_tokens(tokens, one, signature.tokens_table)
    sections: dict[str, dict[str, Any]] = {}
    for name in (*metrics, *tokens):
        title = signature.entries[name].section
        into = sections.setdefault(title, section(place(title), title, []))
        if name in metrics:
            into["metrics"].append(name)
    return {
        "name": str(signature.info.get("checkpoint", {}).get("name", "")), "plan": _plan(plan),
        "sections": list(sections.values()), "metrics": metrics, "tokens": tokens,
    }  # fmt: skip


def _plan(plan: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["step", "layer", "iteration", "block", "phase"]
    return [
        {c: None if pd.isna(step[c]) else int(step[c]) for c in columns if c in step}
        for step in plan.to_dict("records")
    ]


def _add(
    metrics: dict[str, Any], one: Metric, plan: pd.DataFrame, kind: str, drawn: list[dict[str, Any]]
) -> None:  # fmt: skip
    if not drawn:
        return
    metrics[one.id] = {**about(one, plan), kind: drawn}


def _series(profiles: pd.DataFrame, one: Metric) -> list[dict[str, Any]]:
    drawn = []
    rows = profiles[profiles["metric"] == one.id]
    for _, together in rows.groupby("agg", sort=False):  # as the print figure: all parts and scopes on one scale
        scale = scale_of(one, together["value"])
        for key, line in together.groupby(PART, sort=False):
            line = line.sort_values("index")
            part, scope, agg = map(str, key)
            bounds = (line["ci_low"], line["ci_high"])
            drawn.append(one_line(line["index"], line["value"], *bounds, scale, part=part, scope=scope, agg=agg))
    return drawn


def _cells(matrices: pd.DataFrame, one: Metric) -> list[dict[str, Any]]:
    drawn = []
    rows = matrices[matrices["metric"] == one.id]
    for key, table in rows.groupby(PART, sort=False):
        grid = table.pivot(index="row", columns="col", values="value")
        part, scope, agg = map(str, key)
        drawn.append(cells(grid, scale_of(one, grid.to_numpy(dtype=float)), part=part, scope=scope, agg=agg))
    return drawn


def _add_tokens(tokens: dict[str, Any], one: Metric, table: pd.DataFrame) -> None:
    rows = table[table["metric"] == one.id]
    if rows.empty:
        return
    words: dict[str, int] = {}
    prompts = [
        {
            **_prompt(str(scope), int(str(prompt)), part, words, ranked=one.figure == "top_tokens"),
            "marks": exit_marks(table, one, int(str(prompt))),
        }
        for (scope, prompt), part in rows.groupby(["scope", "prompt"], sort=False)
    ]
    tokens[one.id] = {
        "label": one.label, "unit": one.unit, "formula": one.formula, "axis": one.axis,
        "section": place(one.section), "scale": scale_of(one, rows["value"]), "centre": one.centre,
        "prompts": prompts, "words": list(words),
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
    return "" if pd.isna(token) else visible(str(token))
