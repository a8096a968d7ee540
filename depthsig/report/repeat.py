"""Figures of a study of repeats, from its tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from depthsig.report.figures.span_map import draw_span_map, draw_times
from depthsig.report.style import COLUMN, house_style, new_figure


def save_repeat_figures(frames: dict[str, pd.DataFrame], folder: Path, *, scanned: bool) -> list[Path]:
    """PNG and SVG of the (start, end) maps of a scan, or of a span's scores against its passes."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    with house_style():
        for name, ax in _figures(frames, scanned):
            figure: Any = ax.figure
            for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
                path = folder / f"{name}{suffix}"
                figure.savefig(path, metadata=metadata)
                saved.append(path)
    return saved


def _figures(frames: dict[str, pd.DataFrame], scanned: bool) -> Iterator[tuple[str, Axes]]:
    if not scanned:
        for value, label in (("loss", "loss of answers [nats]"), ("accuracy", "exact match")):
            yield f"times.{value}", draw_times(new_figure(COLUMN, 2.8).add_subplot(), frames["repeat"], value, label)
        return
    for (times, damping), rows in frames["ranking"].groupby(["times", "damping"]):
        suffix = f"x{times}" + ("" if damping == 1 else f".damped{damping:g}")
        yield f"map.{suffix}", draw_span_map(new_figure(COLUMN, 3.0).add_subplot(), rows)
    for (task, times, damping), rows in frames["repeat"].query("times > 1").groupby(["task", "times", "damping"]):
        suffix = f"{task}.x{times}" + ("" if damping == 1 else f".damped{damping:g}")
        yield f"map.{suffix}", draw_span_map(new_figure(COLUMN, 3.0).add_subplot(), rows)
