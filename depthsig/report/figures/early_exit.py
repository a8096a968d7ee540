"""Early exit: how good the model would be if it stopped at a depth, by plain and by tuned lens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from depthsig.report.figures.labels import shade_blocks, whole_numbers
from depthsig.report.style import COLOURS, MARKERS

LENSES = {"lens": "plain lens", "tuned": "tuned lens"}
MEASURES = {
    "top1": "top-1 agreement [fraction]",
    "kl": "KL(lens ‖ final) [nats]",
    "target_nll": "next-token loss [nats]",
}
"""What early exit is judged by, in this order, with the label of its axis."""

WIDE = 5.0
"""Ratio of largest to median value from which an axis is better logarithmic: depth 0 is off any scale."""


def early_exit_measures(profiles: pd.DataFrame) -> list[str]:
    """The measures that either lens has in a table of profiles."""
    have = set(profiles.loc[profiles["agg"] == "mean", "metric"])
    return [name for name in MEASURES if any(f"{lens}.{name}" in have for lens in LENSES)]


def draw_early_exit(axes: Sequence[Axes], profiles: pd.DataFrame, plan: pd.DataFrame) -> Sequence[Axes]:
    """Draw one measure an axes over depth: a line and 95 % band each lens.

    The dashed line of the loss is the model's own, at d = S.
    """
    for ax, name in zip(axes, early_exit_measures(profiles), strict=True):
        shade_blocks(ax, plan)
        values = []
        for number, (lens, rows) in enumerate(_lines(profiles, name)):
            colour, marker = COLOURS[number], MARKERS[number]
            x = rows["index"].to_numpy(dtype=float)
            ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.22, lw=0)
            ax.plot(x, rows["value"], color=colour, marker=marker, label=LENSES[lens], zorder=3)
            values.append(rows["value"])
        every = pd.concat(values).dropna()
        if name == "target_nll":
            ax.axhline(float(values[0].iloc[-1]), color="0.35", lw=0.8, ls="--", zorder=2)
        if name == "top1":
            ax.set_ylim(-0.02, 1.02)
        elif len(every) and every.max() > WIDE * float(every.median()):
            _logarithmic(ax, every)
        ax.set_ylabel(MEASURES[name])
        ax.set_xlabel("depth d of exit")
        whole_numbers(ax)
    if len(axes):
        axes[0].legend(loc="best")
    return axes


def _logarithmic(ax: Axes, values: pd.Series) -> None:
    if values.min() > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:  # KL is 0 at the end, where a logarithmic axis has no place for it
        ax.set_yscale("symlog", linthresh=max(float(values[values > 0].min()), 1e-4), subs=range(2, 10))


def _lines(profiles: pd.DataFrame, name: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for lens in LENSES:
        rows = profiles[(profiles["metric"] == f"{lens}.{name}") & (profiles["agg"] == "mean")]
        if len(rows):
            yield lens, rows.sort_values("index")
