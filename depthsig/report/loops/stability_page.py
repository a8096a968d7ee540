"""The page of a stability card: does the loop settle, pass by pass, and how often it may run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.findings.finding import plain
from depthsig.metrics import entry
from depthsig.metrics.rules import STABILITY
from depthsig.report.alt_texts import matrix_in_words, profile_in_words
from depthsig.report.drawable import without_extremes
from depthsig.report.figures.heatmap import draw_heatmap
from depthsig.report.figures.labels import whole_numbers
from depthsig.report.gallery import Drawn
from depthsig.report.page import chart_data as charts
from depthsig.report.page.glance import Answer
from depthsig.report.page.page_files import write_page
from depthsig.report.page.templates import embedded, number, page
from depthsig.report.style import COLOURS, COLUMN, house_style, new_figure
from depthsig.signature.loops.stability_card import StabilityCard, StabilityRecord, range_in_words
from depthsig.signature.records import as_record

CHARTED = tuple(STABILITY[name] for name in ("radius", "radius_all", "residual", "steps", "moves", "turns"))
"""Matrices that are drawn; ``passes.csv`` has all."""
_SUMMARY = ("loop", "quantity", "value", "95 % interval", "re-initialised", "unit", "what it says")
_COUNTS = ("iterations", "loss [nats]", "95 % interval", "loss of those that choose", "of those held out", "safe")
_REGIMES = {
    "settling": ("It settles", "pass", "all eigenvalues of a pass lie inside the unit circle, and steps get smaller"),
    "drifting": ("It drifts", "fail", "updates keep a direction, and nothing pulls them back"),
    "marginal": ("Open", "open", "neither do all differences shrink, nor do updates keep a direction"),
}


def draw(card: StabilityCard, folder: Path) -> None:
    """Figures and page into a folder that exists and has none."""
    write_page(folder, stability_figures(card), lambda saved: render(card, saved))


def stability_figures(card: StabilityCard) -> Iterator[Drawn]:
    """Loss against iterations, and a map of every measure, pass by phase."""
    card = _drawable(card)
    with house_style():
        if len(card.counts):
            figure = new_figure(COLUMN, 2.6)
            _draw_counts(figure.add_subplot(), card.counts)
            title = "Loss by iterations of the loop"
            caption = (
                "Band: 95 % bootstrap interval over prompts; shaded: counts within the band of the best, chosen on "
                "half of the prompts; dashed: the other half."
            )
            line = pd.DataFrame({"index": card.counts["count"], "value": card.counts["loss"]})
            alt = f"{title}. {profile_in_words(line, 'iterations')}."
            yield Drawn("loss", "counts", title, caption, figure, alt)
        for span, name, grid in _grids(card):
            one = entry(name)
            figure = new_figure(COLUMN, 2.4, plain=True)
            draw_heatmap(figure.add_subplot(), grid, one, pd.DataFrame())
            title = f"{one.label[:1].upper()}{one.label[1:]}, loop {span}"
            seen = f"{title}: {matrix_in_words(grid, one.row_label, one.col_label)}."
            yield Drawn(f"{name}.{span.replace(':', '-')}", "passes", title, f"{one.formula}.", figure, seen)


def render(card: StabilityCard, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text; every name in it is escaped."""
    card = _drawable(card)
    info = as_record(card.info, StabilityRecord)
    return page(
        "stability.html.j2", stability_data(card), info=info, short=stability_in_short(card),
        said=range_in_words(info.range), figures=[embedded(d, path) for d, path in figures],
        summary=(_SUMMARY, [_summary(row) for row in card.summary.to_dict("records")]),
        counts=(_COUNTS, [_count(row) for row in card.counts.to_dict("records")]),
    )  # fmt: skip


def stability_data(card: StabilityCard) -> dict[str, Any]:
    """Loss against iterations, and maps of what is measured of passes.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; what can be marked is an iteration count.
    """
    name = str((card.info.get("checkpoint") or {}).get("id") or "")
    metrics: dict[str, Any] = {}
    sections = []
    if len(card.counts):
        metrics["loss"] = _losses(card.counts)
        sections.append(charts.section("counts", "Iterations", ["loss"]))
    maps: dict[str, list[dict[str, Any]]] = {}
    for span, metric, grid in _grids(card):
        maps.setdefault(metric, []).append(
            charts.cells(grid, charts.scale_of(entry(metric), grid.to_numpy(float)), part=f"loop {span}")
        )
    metrics |= {
        metric: charts.about(entry(metric)) | {"choices": {"part": "Loop"}, "cells": cells}
        for metric, cells in maps.items()
    }
    if maps:
        sections.append(charts.section("passes", "Passes", list(maps)))
    return charts.record(name, metrics, sections, marks=card.counts["count"].astype(int), mark_name="Iterations")


def stability_in_short(card: StabilityCard) -> list[Answer]:
    """Does it settle, how often may it run, and on what that rests."""
    info = as_record(card.info, StabilityRecord)
    answers = []
    for loop in info.loops:
        rows = card.summary[card.summary["span"] == loop.span].set_index("quantity")["value"]
        word, look, why = _REGIMES.get(loop.regime, _REGIMES["marginal"])
        values = "; ".join(f"{name} {plain(float(rows[name]))}" for name in rows.index[:3])
        whose = "the loop" if len(info.loops) == 1 else f"loop {loop.span}"
        answers.append(Answer(f"Does {whose} settle?", word, look, f"{why[:1].upper()}{why[1:]}: {values}."))
    if info.range is not None:
        found = info.range
        look = {True: "pass", False: "fail", None: "open"}[found.holds]
        said = ". ".join(line[:1].upper() + line[1:] for line in range_in_words(found))
        answers.append(Answer("How often may it run?", f"{found.low} to {found.high} times", look, f"{said}."))
    trained = card.summary["control"].notna().any()
    rest = "Intervals are over prompts. " + (
        "Beside it, the same architecture with re-initialised weights." if trained
        else "No re-initialised control was measured."
    )  # fmt: skip
    return [*answers, Answer("What does it rest on?", f"{info.n} prompts", "open", rest)]


def _drawable(card: StabilityCard) -> StabilityCard:
    return replace(card, **{n: without_extremes(getattr(card, n)) for n in ("summary", "passes", "counts")})


def _grids(card: StabilityCard) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for span, of_span in card.passes.groupby("span", sort=False):
        for name in CHARTED:
            rows = of_span[of_span["metric"] == name]
            if rows["value"].notna().any():
                yield str(span), name, rows.pivot(index="iteration", columns="phase", values="value").astype(float)


def _draw_counts(ax: Any, counts: pd.DataFrame) -> None:
    counts = counts.sort_values("count")
    x = counts["count"].to_numpy(float)
    low, high = counts["ci_low"].to_numpy(float), counts["ci_high"].to_numpy(float)
    ax.fill_between(x, low, high, color=COLOURS[0], alpha=0.15, lw=0)
    ax.plot(x, counts["loss"], color=COLOURS[0], marker="o", label="all prompts")
    ax.plot(x, counts["held_out"], color=COLOURS[1], ls="--", lw=1.0, label="held out")
    safe = counts.loc[counts["safe"] == 1, "count"]
    if len(safe):
        ax.axvspan(float(safe.min()) - 0.5, float(safe.max()) + 0.5, color=COLOURS[2], alpha=0.15, lw=0, label="safe")
    ax.set_xlabel("iterations of the loop")
    ax.set_ylabel("loss [nats]")
    ax.legend(loc="best", fontsize=5.5)
    whole_numbers(ax)


def _losses(counts: pd.DataFrame) -> dict[str, Any]:
    counts = counts.sort_values("count")
    scale = charts.own_scale([*counts["loss"], *counts["ci_low"], *counts["ci_high"], *counts["held_out"]], margin=0.05)
    x = counts["count"].astype(float)
    lines = [
        charts.line(x, counts[y].astype(float), counts[low].astype(float), counts[high].astype(float), scale, name=name)
        for name, y, low, high in (
            ("all prompts", "loss", "ci_low", "ci_high"), ("held out", "held_out", "held_low", "held_high"),
        )
    ]  # fmt: skip
    return charts.chart(
        "loss", "series", lines, unit="nats", axis="iterations", xName="count", xLabel="iterations of the loop",
        formula="mean loss of the next token, with the loop run so often", lines="Prompts",
    )  # fmt: skip


def _between(low: float, high: float) -> str:
    return "–" if pd.isna(low) or pd.isna(high) else f"[{number(low)}, {number(high)}]"


def _summary(row: dict[str, Any]) -> list[str]:
    return [
        str(row["span"]), str(row["quantity"]), number(row["value"]), _between(row["ci_low"], row["ci_high"]),
        number(row["control"]), "" if row["unit"] == "-" else str(row["unit"]), str(row["says"]),
    ]  # fmt: skip


def _count(row: dict[str, Any]) -> list[str]:
    return [
        str(row["count"]), number(row["loss"]), _between(row["ci_low"], row["ci_high"]), number(row["chosen_on"]),
        number(row["held_out"]), "yes" if row["safe"] == 1 else "no",
    ]  # fmt: skip
