"""Early exit: how good the model would be if it stopped at a depth, by plain and by tuned lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from depthsig.metrics import Metric
from depthsig.metrics.rules import EARLY_EXIT, EARLY_EXIT_LENSES, EARLY_EXIT_LOSS
from depthsig.report.figures.labels import label_side, powers_of_ten, shade_blocks, whole_numbers
from depthsig.report.style import COLOURS, MARKERS

WIDE = 5.0
"""Ratio of largest to median value from which an axis is better logarithmic: depth 0 is off any scale."""


@dataclass(frozen=True)
class Measure:
    """What early exit is judged by: the metrics of the lenses that have it, with the lens's place."""

    metrics: tuple[str, ...]
    lenses: tuple[int, ...]


def early_exit_measures(profiles: pd.DataFrame) -> list[Measure]:
    """The measures that any lens has in a table of profiles."""
    have = set(profiles.loc[profiles["agg"] == "mean", "metric"])
    found = []
    for names in EARLY_EXIT:
        there = [(name, place) for place, name in enumerate(names) if name in have]
        if there:
            found.append(Measure(*(tuple(column) for column in zip(*there, strict=True))))
    return found


def draw_early_exit(
    axes: Sequence[Axes], profiles: pd.DataFrame, plan: pd.DataFrame, entries: Mapping[str, Metric]
) -> list[str]:
    """Draw one measure an axes over depth, a line and 95 % band each lens; returns the lenses' names.

    The dashed line of the loss is the model's own, at d = S.
    """
    shown: list[int] = []
    for ax, measure in zip(axes, early_exit_measures(profiles), strict=True):
        shade_blocks(ax, plan)
        values = []
        for name, lens in zip(measure.metrics, measure.lenses, strict=True):
            rows = profiles[(profiles["metric"] == name) & (profiles["agg"] == "mean")].sort_values("index")
            x = rows["index"].to_numpy(dtype=float)
            ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=COLOURS[lens], alpha=0.22, lw=0)
            ax.plot(
                x, rows["value"], color=COLOURS[lens], marker=MARKERS[lens], label=EARLY_EXIT_LENSES[lens], zorder=3
            )
            values.append(rows["value"])
            shown.append(lens)
        one = entries[measure.metrics[0]]
        every = pd.concat(values).dropna()
        if one.id == EARLY_EXIT_LOSS:
            ax.axhline(float(values[0].iloc[-1]), color="0.35", lw=0.8, ls="--", zorder=2)
        if one.limits == (0, 1):
            ax.set_ylim(-0.02, 1.02)
        elif len(every) and every.max() > WIDE * float(every.median()):
            _logarithmic(ax, every)
        label_side(ax, one)
        ax.set_xlabel("depth d of exit")
        whole_numbers(ax)
    if len(axes):
        axes[0].legend(loc="best")
    return [EARLY_EXIT_LENSES[lens] for lens in dict.fromkeys(sorted(shown))]


def _logarithmic(ax: Axes, values: pd.Series) -> None:
    if values.min() > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:  # KL is 0 at the end, where a logarithmic axis has no place for it
        ax.set_yscale("symlog", linthresh=max(float(values[values > 0].min()), 1e-4), subs=range(2, 10))
        powers_of_ten(ax.yaxis, between=False)
