"""Figures of a study of repeats, from its tables."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from depthsig.report.drawable import without_extremes
from depthsig.report.figures.span_map import draw_span_map, draw_times
from depthsig.report.gallery import Drawn
from depthsig.report.style import COLUMN, house_style, new_figure
from depthsig.signature.repeated import Repeated


def repeat_figures(study: Repeated) -> Iterator[Drawn]:
    """Every figure of a study."""
    study = Repeated(without_extremes(study.runs), without_extremes(study.ranking))
    with house_style():
        for name, figure in _figures(study):
            yield Drawn(name, "repeats", name, "", figure)


def _figures(study: Repeated) -> Iterator[tuple[str, Figure]]:
    if not study.scanned:
        for value, label in (("loss", "loss of answers [nats]"), ("accuracy", "exact match")):
            figure = new_figure(COLUMN, 2.8)
            draw_times(figure.add_subplot(), study.runs, value, label)
            yield f"times.{value}", figure
        return
    maps = [("", study.ranking)]
    maps += [(f"{task}.", rows) for task, rows in study.runs[study.runs["times"] > 1].groupby("task")]
    for task, table in maps:
        for (times, damping), rows in table.groupby(["times", "damping"]):
            if rows["delta_loss"].notna().any():
                figure = new_figure(COLUMN, 3.0)
                draw_span_map(figure.add_subplot(), rows)
                yield f"map.{task}x{times}" + ("" if damping == 1 else f".damped{damping:g}"), figure
