"""The page of a sweep: what became of its units, when claims set in, and every score against what was swept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depthsig.report.gallery import Drawn
from depthsig.report.page import chart_data as charts
from depthsig.report.page.glance import Answer
from depthsig.report.page.page_files import write_page
from depthsig.report.page.templates import embedded, number, page
from depthsig.report.sweep_figures import ON_AXIS, drawable_sweep, is_numbered, sweep_figures, titled
from depthsig.signature.records import as_record
from depthsig.signature.sweeps.swept import DONE, FAILED, LEFT, UNIT_FIELDS, SweepRecord, Swept
from depthsig.terms import NONE, counted

_UNITS = ("folder", *UNIT_FIELDS, "steps", "state", "why")
_ONSETS = ("checkpoint", "order", "prompts", "preset", "claim", "role", "onset", "earliest", "latest", "verdicts")
_SCORES = ("folder", "score", "value", "95 % interval", "p", "prompts")
MOST_SCORES = 500
"""Scores in the table of the page; ``sweep.csv`` has all of them."""


def draw(found: Swept, folder: Path) -> None:
    """Figures and page into a folder that exists and has none."""
    write_page(folder, sweep_figures(found), lambda saved: render(found, saved))


def render(found: Swept, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text; every name in it is escaped."""
    found = drawable_sweep(found)
    info = as_record(found.info, SweepRecord)
    data = sweep_data(found)
    units = [[u.folder, *(getattr(u, f) for f in UNIT_FIELDS), _whole(u.steps), u.state, u.why] for u in info.units]
    onset = [[str(cell) for cell in row] for row in found.onset.itertuples(index=False)]
    scores = found.scores.head(MOST_SCORES).to_dict("records")
    return page(
        "sweep.html.j2", data, info=info, short=swept_in_short(found), places=[one["id"] for one in data["sections"]],
        units=(_UNITS, units), onset=(_ONSETS, onset), scores=(_SCORES, [_score(row) for row in scores]),
        left_out=max(0, len(found.scores) - MOST_SCORES), figures=[embedded(d, path) for d, path in figures],
        titles={one["id"]: one["title"] for one in data["sections"]},
        options=[(name, value) for name, value in info.options.items() if value is not None],
    )  # fmt: skip


def sweep_data(found: Swept) -> dict[str, Any]:
    """Every score against each swept field: lines over numbers, else a list of estimates.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; nothing can be marked.
    """
    metrics: dict[str, Any] = {}
    sections = []
    for name in found.axes():
        ids: list[str] = []
        for about in found.measured().to_dict("records"):
            rows = found.against(name, about)
            made = _lines(rows, about, name) if is_numbered(found, name) else _list(rows, about)
            ids.append(f"{len(ids) + 1} by {name}")
            metrics[ids[-1]] = made
        if ids:
            title = "Against the number of steps" if name == "depth" else f"Against the {name}"
            sections.append(charts.section(f"against-{name}", title, ids))
    return charts.record(str(found.info["name"]), metrics, sections, marks=[])


def _lines(rows: pd.DataFrame, about: dict[Any, Any], name: str) -> dict[str, Any]:
    scale = charts.own_scale(rows[["value", "ci_low", "ci_high"]].to_numpy(float), margin=0.05)
    lines = [
        charts.line(r["x"], r["value"], r["ci_low"], r["ci_high"], scale, name=str(line) or "score")
        for line, r in rows.groupby("line", sort=False)
    ]
    return charts.chart(titled(about), "series", lines, axis=name, xName=name, xLabel=ON_AXIS[name], lines="units")


def _list(rows: pd.DataFrame, about: dict[Any, Any]) -> dict[str, Any]:
    there = rows[np.isfinite(rows["value"])]
    labels = [
        f"{label}, {line}" if line else str(label) for label, line in zip(there["label"], there["line"], strict=True)
    ]
    return charts.chart(
        titled(about), "forest", [charts.estimates(there.to_dict("records"), "value", labels, reference=None)]
    )  # fmt: skip


def swept_in_short(found: Swept) -> list[Answer]:
    """What became of the units, when claims set in, and on what that rests."""
    units = found.units
    counts = units["state"].value_counts()
    said = ", ".join(f"{counts[state]} {state}" for state in (DONE, FAILED, LEFT) if state in counts)
    whole = bool((units["state"] == DONE).all())
    over = f"Over {', '.join(found.swept)}." if found.swept else "One unit."
    failed = units[units["state"] == FAILED]
    first = f" The first that failed: {failed.iloc[0]['folder']}: {failed.iloc[0]['why']}" if len(failed) else ""
    answers = [Answer("Is everything measured?", said, "pass" if whole else "fail", over + first)]
    if len(found.onset):
        held = found.onset[found.onset["onset"] != NONE]
        text = f"{len(held)} of {counted(len(found.onset), 'claim')} hold from some revision on; the table has each."
        answers.append(Answer("When do claims set in?", "See below", "open", text))
    return answers


def _whole(steps: int | None) -> str:
    return "–" if steps is None else str(steps)


def _score(row: dict[Any, Any]) -> list[str]:
    interval = f"[{number(row['ci_low'])}, {number(row['ci_high'])}]" if np.isfinite(row["ci_low"]) else "–"
    prompts = "–" if pd.isna(row["n_prompts"]) else str(int(row["n_prompts"]))
    return [row["folder"], titled(row), number(row["value"]), interval, number(row["p_value"]), prompts]
