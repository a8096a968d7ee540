"""Figures of a sweep: every score against what was swept, a panel a score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depthsig.report.alt_texts import extremes_in_words
from depthsig.report.drawable import without_extremes
from depthsig.report.figures.labels import plain
from depthsig.report.figures.models import LINES, shorten
from depthsig.report.gallery import Drawn
from depthsig.report.style import COLOURS, FULL, MARKERS, house_style, new_figure
from depthsig.signature.sweeps.swept import Swept, numbered
from depthsig.terms import described

MOST_PANELS = 12
"""Scores of one figure; the page and ``sweep.csv`` have all."""
DODGE = 0.01
"""Share of an axis by which lines stand beside each other, so that no interval hides another."""
MOST_TICKS = 8
"""Of values that are no numbers, so many are named on an axis."""
ON_AXIS = {"depth": "steps of the model", "revision": "training step"}
"""What numbers on an axis are."""


def sweep_figures(found: Swept) -> Iterator[Drawn]:
    """A figure for each swept field, and one against the depth where units differ in it."""
    found = drawable_sweep(found)
    scores = found.measured().to_dict("records")
    with house_style():
        for name in found.axes() if scores else ():
            panels = [(about, found.against(name, about)) for about in scores[:MOST_PANELS]]
            title = f"Scores against the {'number of steps' if name == 'depth' else name}"
            more = f" {len(scores) - MOST_PANELS} more scores are on the page." if len(scores) > MOST_PANELS else ""
            caption = f"A line for each combination of what else was swept; bars: 95 % intervals over prompts.{more}"
            alt = " ".join(f"{titled(about)}: {_in_words(rows)}." for about, rows in panels)
            yield Drawn(f"sweep.{name}", name, title, caption, _figure_of(found, name, panels), alt)


def drawable_sweep(found: Swept) -> Swept:
    """A sweep without numbers that no axis can show."""
    return replace(found, scores=without_extremes(found.scores))


def titled(about: Mapping[str, Any]) -> str:
    """A score with what it is of."""
    agg = "" if about["agg"] == "mean" else str(about["agg"])
    return described(str(about["score"]), str(about["metric"]), str(about["part"]), str(about["scope"]), agg)


def is_numbered(found: Swept, name: str) -> bool:
    """Whether what stands on an axis are numbers."""
    return name == "depth" or (name == "revision" and numbered(list(found.units["revision"].unique())) is not None)


def _figure_of(found: Swept, name: str, panels: list[tuple[Mapping[str, Any], pd.DataFrame]]) -> Figure:
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(FULL, 1.9 * lines + 0.5, panels=True)
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax, (about, rows) in zip(axes.flat, panels, strict=False):
        draw_scores(ax, rows, numbers=is_numbered(found, name))
        ax.set_title(plain(titled(about)), fontsize=7.0)
        ax.set_xlabel(ON_AXIS.get(name, "") if is_numbered(found, name) else "")
    for ax in list(axes.flat)[len(panels) :]:
        ax.remove()
    handles = {
        label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(handles)))
    return figure


def draw_scores(ax: Axes, rows: pd.DataFrame, *, numbers: bool) -> Axes:
    """Draw one score: a line each, with bars of its intervals.

    Args:
        rows: as :meth:`Swept.against` gives them. numbers: whether what stands on the axis are numbers.
    """
    aside = DODGE * float(np.ptp(rows["x"]) or 1.0) if len(rows) else 0.0
    for place, (line, points) in enumerate(rows.groupby("line", sort=False)):
        colour, mark = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        x, y, low, high = (points[c].to_numpy(float) for c in ("x", "value", "ci_low", "ci_high"))
        beside = x + aside * (place - (rows["line"].nunique() - 1) / 2)
        ends = np.nan_to_num(np.clip([y - low, high - y], 0, None))
        style = LINES[place // len(COLOURS) % len(LINES)] if numbers else ""
        ax.errorbar(
            beside, y, yerr=ends, color=colour, marker=mark, ls=style or "none", lw=1.0, elinewidth=0.8, capsize=1.5,
            label=plain(shorten(str(line))) if line else None,
        )  # fmt: skip
    if not numbers:
        names = rows.drop_duplicates("x").set_index("x")["label"]
        shown = names if len(names) <= MOST_TICKS else names.iloc[:: math.ceil(len(names) / MOST_TICKS)]
        ax.set_xticks(list(shown.index), [plain(shorten(str(one))) for one in shown], rotation=30, ha="right")
        ax.set_xlim(names.index.min() - 0.5, names.index.max() + 0.5)
    return ax


def _in_words(rows: pd.DataFrame) -> str:
    names = [described(str(label), str(line)) for label, line in zip(rows["label"], rows["line"], strict=True)]
    return extremes_in_words(pd.Series(rows["value"].to_numpy(float), index=names))
