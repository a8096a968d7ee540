"""Sentences about figures, on data whose sentence is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from depthsig.report.alt_texts import matrix_in_words, profile_in_words
from depthsig.report.figures.labels import draw_borders
from depthsig.report.figures.plan_strip import draw_plan

PLAN = pd.DataFrame({"step": range(4), "layer": range(4), "block": [0, 0, 1, 1], "span": ["a"] * 4})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([12, 11, 10, 0], "falls from 12 at depth 0 to 0 at depth 3, fastest between 2 and 3"),
        ([0, 2, np.nan, 3], "rises from 0 at depth 0 to 3 at depth 3, fastest between 0 and 1"),
        ([1, 1, 1], "is 1 from depth 0 to 2"),
        ([1, 5, 0, 2], "goes from 1 at depth 0 to 2 at depth 3; highest at depth 1 (5), lowest at depth 2 (0)"),
        ([np.nan], "nothing is defined"),
    ],
)
def test_a_profile_in_words(values: list[float], says: str) -> None:
    table = pd.DataFrame({"index": range(len(values)), "value": values})
    assert profile_in_words(table.sample(frac=1, random_state=0), "depth") == says


def test_a_matrix_in_words() -> None:
    matrix = pd.DataFrame(np.full((10, 10), 0.4))
    matrix.iloc[0, 7] = 1.9
    says = "largest at step 0, later step 7 (1.9), 90 % of cells at most 0.4"
    assert matrix_in_words(matrix, "step", "later step") == says
    assert matrix_in_words(matrix * np.nan, "step", "later step") == "nothing is defined"


@pytest.mark.parametrize("ground", ["white", "black", "#f7f7f7", "#440154", "#fde725", "#21918c", "0.5"])
def test_borders_of_blocks_are_seen_on_every_ground(ground: str) -> None:
    figure = Figure(figsize=(2, 2), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 4), ylim=(0, 4), facecolor=ground)
    draw_borders(ax, PLAN, offset=0, rows=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    row = np.asarray(canvas.buffer_rgba())[100, :, :3].astype(float).mean(axis=1)
    assert np.abs(row[95:106] - row[70]).max() > 60


def test_the_plan_strip_has_the_two_colours_of_the_shading() -> None:
    ax = Figure().add_subplot()
    draw_plan(ax, PLAN)
    colours = [patch.get_facecolor() for patch in ax.patches]
    assert colours[0] == colours[1] != colours[2] == colours[3] and len(set(colours)) == 2
