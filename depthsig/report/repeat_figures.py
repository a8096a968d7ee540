"""Figures of a study of repeats, from its tables."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from depthsig.report.alt_texts import extremes_in_words, profile_in_words
from depthsig.report.drawable import without_extremes
from depthsig.report.figures.span_map import draw_span_map, draw_times
from depthsig.report.gallery import Drawn
from depthsig.report.style import COLUMN, house_style, new_figure
from depthsig.signature.repeated import Repeated
from depthsig.terms import described

SECTION = "repeats"


def repeat_figures(study: Repeated) -> Iterator[Drawn]:
    """Every figure of a study."""
    study = Repeated(without_extremes(study.runs), without_extremes(study.ranking))
    with house_style():
        yield from _maps(study) if study.scanned else _lines(study.runs)


def _lines(runs: pd.DataFrame) -> Iterator[Drawn]:
    for value, label in (("loss", "loss of answers [nats]"), ("accuracy", "exact match")):
        figure = new_figure(COLUMN, 2.8)
        draw_times(figure.add_subplot(), runs, value, label)
        title = f"{label.split(' [')[0].capitalize()} by passes of the span"
        caption = "Times 1 is the model as it is; bands: 95 % bootstrap interval over prompts."
        yield Drawn(f"times.{value}", SECTION, title, caption, figure, f"{title}. {_lines_in_words(runs, value)}")


def _maps(study: Repeated) -> Iterator[Drawn]:
    maps = [("", study.ranking)]
    maps += [(str(task), rows) for task, rows in study.runs[study.runs["times"] > 1].groupby("task")]
    for task, table in maps:
        for (times, damping), rows in table.groupby(["times", "damping"]):
            if rows["delta_loss"].notna().any():
                figure = new_figure(COLUMN, 3.0)
                draw_span_map(figure.add_subplot(), rows)
                damped = "" if damping == 1 else f"damped {damping:g}"
                name = "map." + (f"{task}.x{times}" if task else f"x{times}")
                title = f"Change of loss: {described(task or 'all tasks', f'{times} passes', damped)}"
                caption = "Each span's loss when repeated minus that of the model as it is; the ring marks the best."
                spans = [f"span {a:g}:{b:g}" for a, b in zip(rows["start"], rows["end"], strict=True)]
                change = pd.Series(rows["delta_loss"].to_numpy(), index=spans)
                alt = f"{title}. {extremes_in_words(change).capitalize()}."
                suffix = "" if damping == 1 else f".damped{damping:g}"
                yield Drawn(name + suffix, SECTION, title, caption, figure, alt)


def _lines_in_words(runs: pd.DataFrame, value: str) -> str:
    """A sentence for each task and damping, from the model as it is on."""
    as_it_is, said = runs[runs["times"] == 1], []
    for (task, damping), rows in runs[runs["times"] > 1].groupby(["task", "damping"], sort=False):
        rows = pd.concat([as_it_is[as_it_is["task"] == task], rows])
        line = pd.DataFrame({"index": rows["times"], "value": rows[value]})
        named = described(str(task), "" if damping == 1 else f"damped {damping:g}")
        said.append(f"{named} {profile_in_words(line, 'times')}.")
    return " ".join(said)
