"""The page of a study of repeats: which span is worth it, a map of all of them, and the tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.findings.finding import plain
from depthsig.report.drawable import without_extremes
from depthsig.report.figures.span_map import LOSSES
from depthsig.report.gallery import Drawn
from depthsig.report.page import chart_data as charts
from depthsig.report.page.glance import Answer
from depthsig.report.page.page_files import write_page
from depthsig.report.page.templates import embedded, number, page
from depthsig.report.repeat_figures import repeat_figures
from depthsig.signature.records import RepeatRecord, as_record
from depthsig.signature.repeated import Repeated
from depthsig.terms import counted

MOST_ROWS = 300
"""Spans in the table of the page; ``ranking.csv`` has all of them."""
ALL = "all tasks"

_CHOICES = {"part": "Task", "scope": "Passes", "agg": "Damping"}
_RANKED = ("start", "end", "passes", "damping", "change of loss [nats]", "95 % interval", "change of accuracy")
_RUNS = ("task", "span", "passes", "damping", "loss [nats]", "95 % interval", "accuracy", "95 % interval", "prompts")
_PREDICTED = ("predictor", "meaning", "passes", "damping", "rank correlation", "95 % interval", "spans")


def draw(study: Repeated, folder: Path) -> None:
    """Figures and page into a folder that exists and has none."""
    write_page(folder, repeat_figures(study), lambda saved: render(study, saved))


def render(study: Repeated, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text; every name in it is escaped."""
    study = _drawable(study)
    runs = study.runs if not study.scanned else study.runs[study.runs["times"] == 1]
    return page(
        "repeat.html.j2", repeat_data(study), info=as_record(study.info, RepeatRecord), scanned=study.scanned,
        short=repeated_in_short(study), figures=[embedded(d, p) for d, p in figures],
        runs=(_RUNS, [_run(row) for row in runs.to_dict("records")]),
        ranking=(_RANKED, [_ranked(row) for row in study.ranking.head(MOST_ROWS).to_dict("records")]),
        left_out=max(0, len(study.ranking) - MOST_ROWS),
        prediction=(_PREDICTED, [_predicted(row) for row in study.prediction.to_dict("records")]),
    )  # fmt: skip


def repeat_data(study: Repeated) -> dict[str, Any]:
    """Maps of a scan (start by end of the span), or the lines of one span against its passes.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; what can be marked is a layer, or a number of passes.
    """
    study = _drawable(study)
    name = str((study.info.get("checkpoint") or {}).get("id") or "")
    if not study.scanned:
        metrics = {value: _times(study.runs, value, label, unit) for value, label, unit in (
            ("loss", "loss of answers", "nats"), ("accuracy", "exact match", "fraction"),
        )}  # fmt: skip
        marks = sorted(int(t) for t in study.runs["times"].unique())
        return charts.record(name, metrics, [charts.section("repeats", "Repeats", list(metrics))], marks=marks,
                             mark_name="Number of passes")  # fmt: skip
    metrics = dict(_maps(study))
    layers = int(study.runs["end"].max())
    sections = [charts.section("repeats", "Repeats", list(metrics))]
    return charts.record(name, metrics, sections, marks=range(layers), mark_name="Layer")


def repeated_in_short(study: Repeated) -> list[Answer]:
    """Is a repeat worth it, of which layers, and on what that rests."""
    rows = study.ranking.dropna(subset=["delta_loss"])
    if rows.empty:
        return [Answer("Is a repeat worth it?", "Open", "open", "Nothing was run more than once.")]
    best = rows.loc[rows["delta_loss"].idxmin()]
    low, high = best["delta_loss_low"], best["delta_loss_high"]
    known = pd.notna(low) and pd.notna(high)
    interval = f" [{plain(low)}, {plain(high)}]" if known else ""
    span = f"layers {int(best['start'])} to {int(best['end']) - 1}"
    passes = f"{span} run {int(best['times'])} times{_damped(best['damping'])}"
    change = f"changes the loss of the answers by {plain(best['delta_loss'])}{interval} nats"
    if known and low > 0:
        answer, look = "No", "fail"
    elif known and high < 0:
        answer, look = "Yes", "pass"
    else:
        answer, look = "Open", "open"
    better = int((rows["delta_loss"] < 0).sum())
    text = f"At best, {passes}, which {change}."
    if len(rows) > 1:
        text += f" {better} of {len(rows)} runs lower it."
    answers = [Answer("Is a repeat worth it?", answer, look, text)]
    rest = "Intervals are over prompts." if known else "Too few prompts for intervals."
    if len(rows) > 1:
        rest += " The best of many looks better than it is: judge it on other prompts."
    tasks = study.runs["task"].nunique()
    asked = "–" if pd.isna(best["n_prompts"]) else counted(int(best["n_prompts"]), "prompt")
    said = f"{asked} of {counted(tasks, 'task')}"
    return [*answers, Answer("What does it rest on?", said, "open", rest)]


def _drawable(study: Repeated) -> Repeated:
    return Repeated(without_extremes(study.runs), without_extremes(study.ranking), study.prediction, study.info)


def _maps(study: Repeated) -> Iterator[tuple[str, dict[str, Any]]]:
    """Change of loss over all tasks and for each; accuracy for each."""
    more = study.runs[study.runs["times"] > 1]
    by_task = list(more.groupby("task", sort=False))
    together = [(ALL, study.ranking)] if len(by_task) > 1 else []
    about: dict[str, Any] = {
        "rows": "start of the span", "cols": "last layer of the span", "rowLabel": "first layer of the span",
        "colLabel": "last layer of the span", "marked": True, "choices": _CHOICES,
    }  # fmt: skip
    for name, value, label, unit, tables in (
        ("change of loss", "delta_loss", "change of loss", "nats", [*together, *by_task]),
        ("accuracy", "accuracy", "exact match", "fraction", by_task),
    ):
        centre = 0.0 if value == "delta_loss" else None
        scale = {"norm": LOSSES.norm, "low": LOSSES.low, "high": LOSSES.high} if value == "delta_loss" else None
        drawn = [
            charts.cells(_grid(rows, value), scale or charts.own_scale(rows[value], margin=0.02), part=str(task),
                         scope=str(times), agg=_damping(damping))
            for task, table in tables
            for (times, damping), rows in table.groupby(["times", "damping"], sort=False)
            if rows[value].notna().any()
        ]  # fmt: skip
        if drawn:
            yield name, charts.chart(label, "cells", drawn, unit=unit, centre=centre, formula=_FORMULAS[value], **about)


_FORMULAS = {
    "delta_loss": "loss of the answers with the span repeated, minus that of the model as it is; below 0 it helps",
    "accuracy": "share of prompts whose answer is exact, with the span repeated",
}


def _grid(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """First layer by last layer of the span; what was not run is undefined."""
    table = pd.DataFrame({
        "row": rows["start"].astype(int), "col": rows["end"].astype(int) - 1, "value": rows[value].astype(float),
    }).drop_duplicates(["row", "col"])  # fmt: skip
    size = range(int(table["col"].max()) + 1)
    return table.pivot(index="row", columns="col", values="value").reindex(index=size, columns=size)


def _times(runs: pd.DataFrame, value: str, label: str, unit: str) -> dict[str, Any]:
    """A line a task and damping, from the model as it is on."""
    as_it_is = runs[runs["times"] == 1]
    scale = charts.own_scale([*runs[value], *runs[f"{value}_low"], *runs[f"{value}_high"]], margin=0.05)
    lines = []
    for (task, damping), rows in runs[runs["times"] > 1].groupby(["task", "damping"], sort=False):
        rows = pd.concat([as_it_is[as_it_is["task"] == task], rows]).sort_values("times")
        x, y, low, high = (rows[c].astype(float) for c in ("times", value, f"{value}_low", f"{value}_high"))
        lines.append(charts.line(x, y, low, high, scale, part=str(task), scope=_damping(float(str(damping)))))
    return charts.chart(
        label, "series", lines, unit=unit, axis="passes", xName="pass", xLabel="times the span runs",
        choices={"part": "Task", "scope": "Damping"},
    )  # fmt: skip


def _damping(damping: float) -> str:
    return "naive" if damping == 1 else f"damped {damping:g}"


def _damped(damping: float) -> str:
    return "" if damping == 1 else f", damped {damping:g}"


def _between(low: float, high: float) -> str:
    return "–" if pd.isna(low) or pd.isna(high) else f"[{number(low)}, {number(high)}]"


def _run(row: dict[str, Any]) -> list[str]:
    span = "as it is" if pd.isna(row["start"]) else f"{row['start']}:{row['end']}"
    return [
        str(row["task"]), span, str(row["times"]), _damping(row["damping"]), number(row["loss"]),
        _between(row["loss_low"], row["loss_high"]), number(row["accuracy"]),
        _between(row["accuracy_low"], row["accuracy_high"]), _whole(row["n_prompts"]),
    ]  # fmt: skip


def _ranked(row: dict[str, Any]) -> list[str]:
    return [
        str(row["start"]), str(row["end"]), str(row["times"]), _damping(row["damping"]), number(row["delta_loss"]),
        _between(row["delta_loss_low"], row["delta_loss_high"]), number(row["delta_accuracy"]),
    ]  # fmt: skip


def _predicted(row: dict[str, Any]) -> list[str]:
    return [
        str(row["predictor"]), str(row["meaning"]), _whole(row["times"]), _damping(row["damping"]),
        number(row["spearman"], 3), _between(row["ci_low"], row["ci_high"]), _whole(row["n_spans"]),
    ]  # fmt: skip


def _whole(value: Any) -> str:
    return "–" if pd.isna(value) else str(int(value))
