"""Early exit: how good the model would be if it stopped at a depth, by plain and by tuned lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from depthsig.metrics import Metric
from depthsig.metrics.rules import EARLY_EXIT, EARLY_EXIT_LENSES, EARLY_EXIT_LOSS
from depthsig.report.figures.labels import draw_references, label_side, shade_blocks, whole_numbers
from depthsig.report.figures.profile import draw_line
from depthsig.report.scale import Scale
from depthsig.report.style import COLOURS, MARKERS


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
    axes: Sequence[Axes], profiles: pd.DataFrame, plan: pd.DataFrame, entries: Mapping[str, Metric],
    vocabulary: int | None = None,
) -> list[str]:  # fmt: skip
    """Draw one measure an axes over depth, a line and 95 % band each lens; returns the lenses' names.

    The dotted line of the loss is the model's own, at d = S; a dashed line is a uniform guess.
    """
    shown: list[int] = []
    for ax, measure in zip(axes, early_exit_measures(profiles), strict=True):
        shade_blocks(ax, plan)
        one = entries[measure.metrics[0]]
        curves = profiles[profiles["metric"].isin(measure.metrics) & (profiles["agg"] == "mean")]
        scale = Scale.of(one, curves["value"])
        for name, lens in zip(measure.metrics, measure.lenses, strict=True):
            rows = curves[curves["metric"] == name].sort_values("index")
            x = rows["index"].to_numpy(dtype=float)
            ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=COLOURS[lens], alpha=0.22, lw=0)
            y = rows["value"].to_numpy(dtype=float)
            draw_line(ax, x, y, scale, COLOURS[lens], MARKERS[lens], EARLY_EXIT_LENSES[lens])
            shown.append(lens)
            if one.id == EARLY_EXIT_LOSS:
                ax.axhline(y[-1], color=COLOURS[lens], lw=0.8, ls=":", zorder=2)
        scale.set(ax.yaxis)
        draw_references(ax, one, vocabulary)
        label_side(ax, one)
        ax.set_xlabel("depth d of exit")
        whole_numbers(ax)
    if len(axes):
        axes[0].legend(loc="best")
    return [EARLY_EXIT_LENSES[lens] for lens in dict.fromkeys(sorted(shown))]
