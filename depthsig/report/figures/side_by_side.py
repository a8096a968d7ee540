"""The same measures of several kinds of run, side by side: early exit by both lenses, skips kept up or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from depthsig.metrics import Metric
from depthsig.report.figure_rows import SideBySide, measures_in
from depthsig.report.figures.labels import draw_references, label_side, shade_blocks, whole_numbers
from depthsig.report.figures.profile import draw_line
from depthsig.report.scale import Scale
from depthsig.report.style import COLOURS, MARKERS


def draw_side_by_side(
    axes: Sequence[Axes], curves: pd.DataFrame, which: SideBySide, plan: pd.DataFrame, entries: Mapping[str, Metric],
    vocabulary: int | None = None,
) -> list[str]:  # fmt: skip
    """Draw one measure an axes, with a line and a 95 % band each; returns the lines' names.

    The dotted line of the loss is the model's own, at d = S; a dashed line is a uniform guess.
    """
    shown: list[int] = []
    for ax, measure in zip(axes, measures_in(curves, which), strict=True):
        shade_blocks(ax, plan, offset=which.offset)
        one = entries[measure.metrics[0]]
        scale = Scale.of(one, curves.loc[curves["metric"].isin(measure.metrics), "value"])
        for name, line in zip(measure.metrics, measure.lines, strict=True):
            rows = curves[curves["metric"] == name].sort_values("index")
            x = rows["index"].to_numpy(dtype=float)
            ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=COLOURS[line], alpha=0.22, lw=0)
            y = rows["value"].to_numpy(dtype=float)
            draw_line(ax, x, y, scale, COLOURS[line], MARKERS[line], which.lines[line])
            shown.append(line)
            if one.id == which.loss:
                ax.axhline(y[-1], color=COLOURS[line], lw=0.8, ls=":", zorder=2)
        scale.set(ax.yaxis)
        draw_references(ax, one, vocabulary)
        label_side(ax, one)
        ax.set_xlabel(which.label)
        ax.set_xlim(curves["index"].min() - 0.5, curves["index"].max() + 0.5)  # no tick at a step that there is not
        whole_numbers(ax)
    if len(axes):
        axes[0].legend(loc="best")
    return [which.lines[line] for line in dict.fromkeys(sorted(shown))]
