"""Sentences about figures, on data whose sentence is known."""

from __future__ import annotations

import made_pages
import numpy as np
import page_signatures
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from depthsig.report.alt_texts import (
    curves_in_words,
    extremes_in_words,
    matrix_in_words,
    pairs_in_words,
    paths_in_words,
    phases_in_words,
    profile_in_words,
    token_map_in_words,
    top_tokens_in_words,
)
from depthsig.report.figures.labels import draw_borders
from depthsig.report.figures.plan_strip import draw_plan
from depthsig.report.gallery import figures_for
from depthsig.report.page.compared_page import figures_for as figures_of_comparison
from depthsig.report.repeat_figures import repeat_figures
from depthsig.signature.repeated import Repeated

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


def test_extremes_pairs_and_phases_in_words() -> None:
    assert extremes_in_words(pd.Series([np.nan], index=["a"])) == "nothing is defined"
    two = ["a", "b"]
    assert pairs_in_words(pd.DataFrame([[0, 0.25], [0.25, 0]], two, two)) == "a and b are 0.25 apart"
    assert pairs_in_words(pd.DataFrame([[0, np.nan], [np.nan, 0]], two, two)) == "nothing is defined"
    rows = pd.DataFrame({"phase": [0, 1, 2] * 2, "phase_fit": [0.5, 0.1, -0.6] * 2})
    assert phases_in_words(rows) == "highest phase 0 (0.5), lowest phase 2 (-0.6)"


def test_curves_of_models_in_words() -> None:
    rows = pd.DataFrame({
        "model": ["a"] * 3 + ["b"] * 3, "depth": [0, 0.5, 1] * 2, "value": [1, 2, 3, 1, 5, 3.5],
    })  # fmt: skip
    assert curves_in_words(rows) == "farthest apart at relative depth 0.5: highest b (5), lowest a (2)"


def tokens(values: list[list[float]], **more: list[str]) -> pd.DataFrame:
    """A table of tokens, depth (index) by position."""
    rows = [(d, p, v) for d, line in enumerate(values) for p, v in enumerate(line)]
    table = pd.DataFrame(rows, columns=["index", "position", "value"]).assign(rank=1, input_token=" the")
    return table.assign(**more)


def test_token_figures_in_words() -> None:
    assert token_map_in_words(tokens([[1, 1], [1, 9]])) == (
        "largest at depth 1, position 1 (␣the) (9), 90 % of cells at most 6.6"
    )
    words = tokens([[0.5, 0.1], [0.5, 0.2], [0.5, 0.75]], token=["x", "no", "x", "no", "x", "yes"])
    says = "at position 1 the top token is no from depth 0, yes from depth 2; its probability at depth 2 is 0.75"
    assert top_tokens_in_words(words) == says
    wandering = tokens([[0.1]] * 9, token=list("abcdefghi"))
    says = "a from depth 0, b from depth 1, 4 others, g from depth 6, h from depth 7, i from depth 8"
    assert says in top_tokens_in_words(wandering)


def test_paths_in_words() -> None:
    """A token that moves by (3, 4), then by (0, 1): moves of 5 and 1 on the plane."""
    points = [(0, 0), (3, 4), (3, 5)]
    rows = [(k, 0, rank, float(v)) for k, point in enumerate(points) for rank, v in enumerate(point, 1)]
    table = pd.DataFrame(rows, columns=["index", "position", "rank", "value"])
    assert paths_in_words(table) == "the mean move on both components falls from 5 at state 1 to 1 at state 2"


@pytest.mark.parametrize("study", [made_pages.scan(), made_pages.one_span()], ids=["scan", "one span"])
def test_a_study_of_repeats_in_words(study: Repeated) -> None:
    said = {drawn.name: drawn.alt for drawn in repeat_figures(study)}
    best = "lowest span 1:3 (-0.4)" in said.get("map.x2", "")
    assert best == study.scanned and all(any(c.isdigit() for c in alt) for alt in said.values())


def test_every_figure_says_what_is_seen() -> None:
    """No alt text is only its title and caption again."""
    for drawn in [*figures_for(page_signatures.made()), *figures_of_comparison(made_pages.comparison())]:
        assert drawn.alt and drawn.alt not in (drawn.caption, f"{drawn.title}: {drawn.caption}"), drawn.name
        assert any(c.isdigit() for c in drawn.alt), drawn.alt
