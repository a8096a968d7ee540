"""Figures of a study of repeats, from its tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from depthsig.report.figures.span_map import draw_span_map, draw_times
from depthsig.report.gallery import save_figure
from depthsig.report.style import COLUMN, house_style, new_figure


def save_repeat_figures(frames: dict[str, pd.DataFrame], folder: Path, *, scanned: bool) -> list[Path]:
    """PNG and SVG of the (start, end) maps of a scan, or of a span's scores against its passes."""
    folder.mkdir(parents=True, exist_ok=True)
    with house_style():
        return [save_figure(figure, folder, name) for name, figure in _figures(frames, scanned)]


def _figures(frames: dict[str, pd.DataFrame], scanned: bool) -> Iterator[tuple[str, Figure]]:
    if not scanned:
        for value, label in (("loss", "loss of answers [nats]"), ("accuracy", "exact match")):
            figure = new_figure(COLUMN, 2.8)
            draw_times(figure.add_subplot(), frames["repeat"], value, label)
            yield f"times.{value}", figure
        return
    maps = [("", frames["ranking"])]
    maps += [(f"{task}.", rows) for task, rows in frames["repeat"].query("times > 1").groupby("task")]
    for task, table in maps:
        for (times, damping), rows in table.groupby(["times", "damping"]):
            figure = new_figure(COLUMN, 3.0)
            draw_span_map(figure.add_subplot(), rows)
            yield f"map.{task}x{times}" + ("" if damping == 1 else f".damped{damping:g}"), figure
