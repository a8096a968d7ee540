"""Which figures a signature has: every metric drawn as its entry says, in the registry's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depthsig.errors import InputError, near, shown
from depthsig.findings import beside_early_exit
from depthsig.metrics import Metric
from depthsig.metrics.rules import PERIOD
from depthsig.report import alt_texts
from depthsig.report.alt_texts import matrix_in_words, profile_in_words
from depthsig.report.drawable import drawable
from depthsig.report.figure_rows import (
    EARLY_EXITS,
    EXITS_FIGURE,
    KEPT_UP,
    KEPT_UP_FIGURE,
    PLAN_FIGURE,
    SideBySide,
    curves_in,
    dotted,
    measures_in,
)
from depthsig.report.figures.heatmap import draw_heatmap
from depthsig.report.figures.labels import in_words
from depthsig.report.figures.phases import LEGEND, draw_period
from depthsig.report.figures.plan_strip import draw_plan
from depthsig.report.figures.profile import draw_profile
from depthsig.report.figures.side_by_side import draw_side_by_side
from depthsig.report.figures.token_map import Marks, draw_token_map, exit_marks
from depthsig.report.figures.top_tokens import draw_top_tokens, words_as_they_are
from depthsig.report.figures.trajectories import draw_trajectories
from depthsig.report.period_tables import period_tables
from depthsig.report.scale import Scale
from depthsig.report.style import COLUMN, FULL, MARKERS, house_style, new_figure
from depthsig.signature import Signature
from depthsig.terms import NONE, described

TOKEN_MAPS = 4
"""Token metrics are drawn for the first prompts; the table has all of them."""

PLAN, PERIODICITY = "(plan)", "(periods)"
"""Groups that are no section of metrics, which may bear any name."""


@dataclass(frozen=True)
class Drawn:
    """A finished figure with its file name, heading and caption; ``group`` is its section.

    ``alt`` says what is seen, for those who cannot see it; empty where the caption has to do.
    """

    name: str
    group: str
    title: str
    caption: str
    figure: Figure
    alt: str = ""


def figures_for(signature: Signature) -> Iterator[Drawn]:
    """Every figure that the signature's tables allow, in the registry's order."""
    signature = drawable(signature)
    with house_style():
        figure = new_figure(FULL, 0.95)
        draw_plan(figure.add_subplot(), signature.plan)
        caption = "One cell a step, with its layer; two colours alternate from block to block (or iteration)."
        alt = f"The plan: {len(signature.plan)} steps in order, each with its layer, coloured by block."
        yield Drawn(PLAN_FIGURE, PLAN, "Plan", caption, figure, alt)
        for one in signature.entries.values():
            yield from _figures_of(signature, one)
        yield from _early_exit(signature)
        yield from _kept_up(signature)
        for table in period_tables(signature):
            figure = new_figure(plain=True, above=LEGEND)
            draw_period(figure.add_subplot(), table)
            title = f"{table.name} without its trend"
            alt = f"{title}: {alt_texts.phases_in_words(table.rows)}. {table.caption}"
            yield Drawn(f"{PERIOD}.{table.name}", PERIODICITY, title, table.caption, figure, alt)


def _figures_of(signature: Signature, one: Metric) -> Iterator[Drawn]:
    if one.figure == "profile":
        yield from _profiles(signature, one)
    elif one.figure == "heatmap":
        yield from _matrices(signature, one)
    elif one.figure:
        yield from _tokens(signature, one)


def _profiles(signature: Signature, one: Metric) -> Iterator[Drawn]:
    rows = signature.profiles[signature.profiles["metric"] == one.id]
    for agg, table in rows.groupby("agg", sort=False):
        figure = new_figure(plain=True)
        draw_profile(figure.add_subplot(), table, one, signature.plan, vocabulary(signature))
        name, said = one.id + _suffix(agg), _said(signature, agg, bool(table["ci_low"].notna().any()))
        said += "; dashed: a uniform guess" if one.by_chance(vocabulary(signature)) is not None else ""
        caption = f"{one.id}: {one.formula}; {said}{_beyond(one, table)}."
        yield Drawn(name, one.section, _title(one, agg), caption, figure, _profile_alt(one, table))


def _matrices(signature: Signature, one: Metric) -> Iterator[Drawn]:
    rows = signature.matrices[signature.matrices["metric"] == one.id]
    for (part, scope, agg), _ in rows.groupby(["part", "scope", "agg"], sort=False):
        figure = new_figure(COLUMN, 2.8, plain=True)
        matrix = signature.matrix(one.id, part=part, scope=scope, agg=agg)
        draw_heatmap(figure.add_subplot(), matrix, one, signature.plan)
        name, said = dotted(one.id, part, scope) + _suffix(agg), _said(signature, agg)
        if matrix.isna().any(axis=None):
            said += "; hatched: undefined"
        seen = matrix_in_words(matrix, one.row_label, one.col_label)
        alt = f"{described(one.label, part, scope)}: {seen}."
        caption = f"{one.id}: {one.formula}; {said}."
        yield Drawn(name, one.section, _title(one, agg, part, scope), caption, figure, alt)


def _tokens(signature: Signature, one: Metric) -> Iterator[Drawn]:
    rows = signature.tokens_table[signature.tokens_table["metric"] == one.id]
    for (scope, prompt), table in list(rows.groupby(["scope", "prompt"], sort=False))[:TOKEN_MAPS]:
        figure = new_figure(*_SIZES[one.figure], plain=one.figure == "top_tokens")
        marks = exit_marks(signature.tokens_table, one, int(str(prompt)))
        _draw_tokens(figure.add_subplot(), table, one, signature.plan, marks)
        place = f"prompt {prompt}" + (f", steps {scope}" if scope != NONE else "")
        title = _title(one, "mean", place)
        name = dotted(one.id, scope, str(prompt))
        caption = f"{one.id}: {one.formula}; {place}, its last positions{_MARKED if marks else ''}."
        alt = f"{title}: {_tokens_in_words(one, table)}."
        yield Drawn(name, one.section, title, caption, figure, alt)


_MARKED = "; marks: where each exit leaves a token, what is above is not run"

_SIZES: Mapping[str, tuple[float, float]] = {
    "top_tokens": (FULL, 4.2), "token_map": (FULL, 3.6), "trajectories": (COLUMN, 2.8), "heatmap": (COLUMN, 2.6),
    "profile": (COLUMN, 2.6),
}  # fmt: skip


def _tokens_in_words(one: Metric, rows: pd.DataFrame) -> str:
    if one.figure == "top_tokens":
        return alt_texts.top_tokens_in_words(rows)
    if one.figure == "trajectories":
        return alt_texts.paths_in_words(rows)
    return alt_texts.token_map_in_words(rows, "pass" if one.axis == "iteration" else "depth")


def _draw_tokens(ax: Axes, rows: pd.DataFrame, one: Metric, plan: pd.DataFrame, marks: Marks) -> Axes:
    if one.figure == "top_tokens":
        return draw_top_tokens(ax, rows)
    if one.figure == "trajectories":
        return draw_trajectories(ax, rows)
    return draw_token_map(ax, rows, one, plan, marks)


def _early_exit(signature: Signature) -> Iterator[Drawn]:
    for _, _, curves in curves_in(signature.profiles, EARLY_EXITS):
        figure, lenses = _drawn_together(signature, EARLY_EXITS, curves)
        caption = (
            f"How good the model would be if it stopped at a depth and was read out there, by {' and '.join(lenses)}; "
            f"{_said(signature, 'mean', True)}; dotted: the loss of the whole model"
            f"{'; dashed: a uniform guess' if vocabulary(signature) else ''}. {beside_early_exit(signature)}"
        )
        section = signature.entries[curves["metric"].iloc[0]].section
        alt = alt_texts.side_by_side_in_words(curves, EARLY_EXITS, signature.entries)
        yield Drawn(EXITS_FIGURE, section, "Early exit", caption, figure, alt)


def _kept_up(signature: Signature) -> Iterator[Drawn]:
    """Skips in one pass beside maintained ones."""
    for part, scope, curves in curves_in(signature.profiles, KEPT_UP):
        figure, lines = _drawn_together(signature, KEPT_UP, curves)
        caption = (
            f"What is lost without a step's {part}, scope {scope}, {lines[0]} of its loop {lines[1]}: where the lines "
            f"meet, taking it from later passes, too, does no further harm; {_said(signature, 'mean', True)}."
        )
        section = signature.entries[measures_in(curves, KEPT_UP)[0].metrics[-1]].section
        alt = alt_texts.side_by_side_in_words(curves, KEPT_UP, signature.entries)
        title = f"One pass and every later one, {described(part, scope)}"
        yield Drawn(dotted(KEPT_UP_FIGURE, part, scope), section, title, caption, figure, alt)


def _drawn_together(signature: Signature, which: SideBySide, curves: pd.DataFrame) -> tuple[Figure, list[str]]:
    """A figure with an axes a measure, and the names of its lines."""
    number = len(measures_in(curves, which))
    figure = new_figure(FULL if number > 1 else COLUMN, 2.4)
    axes = [figure.add_subplot(1, number, i + 1) for i in range(number)]
    return figure, draw_side_by_side(axes, curves, which, signature.plan, signature.entries, vocabulary(signature))


def vocabulary(signature: Signature) -> int | None:
    """How many tokens there are to guess among, where that was recorded."""
    found: int | None = signature.info["checkpoint"].get("vocabulary")
    return found


def _suffix(agg: str) -> str:
    return "" if agg == "mean" else f".{agg}"


def _title(one: Metric, agg: str, *more: str) -> str:
    """A heading in words."""
    return in_words(one, *more, "" if agg == "mean" else "worst case")


def _said(signature: Signature, agg: str, interval: bool = False) -> str:
    """What a figure's values are; of an interval only where one is drawn."""
    number = len(signature.prompts)
    over = f"over {number} prompts" if number > 1 else "of one prompt" if number else "over prompts"
    if agg != "mean":
        return f"worst case over positions {over.replace('over', 'and')}"
    return f"mean {over}" + (", band: 95 % bootstrap interval" if interval else "")


def _beyond(one: Metric, table: pd.DataFrame) -> str:
    """What the hollow triangles of a profile mean, where there are any."""
    ends = Scale.of(one, table["value"]).ends(table["value"].to_numpy(dtype=float))
    if ends == "neither":
        return ""
    where = {"max": "above the scale", "min": "below the scale", "both": "above (up) or below (down) the scale"}[ends]
    marks = MARKERS[: len(table[["part", "scope"]].drop_duplicates())]
    solid = ", solid ones are the marks of a line" if {"^", "v"} & set(marks) else ""
    return f"; hollow triangles: values {where}, drawn at its end{solid}"


def _profile_alt(one: Metric, table: pd.DataFrame) -> str:
    """A sentence for each line of a profile."""
    said = [
        f"{described(one.label, str(part), str(scope))} {profile_in_words(rows, one.axis)}."
        for (part, scope), rows in table.groupby(["part", "scope"], sort=False)
    ]
    return " ".join(said)


def plot_metric(signature: Signature, metric: str, ax: Axes | None = None, **choice: Any) -> Axes:
    """Draw one metric of a signature on ``ax`` (or a new figure) and return the axes.

    Args:
        choice: ``part``, ``scope``, ``agg`` where there are several; ``prompt`` for token metrics.

    Raises:
        InputError: for a metric that there is not, or that is a single number.
    """
    one = signature.entries.get(metric)
    if one is None:
        raise InputError(
            f"unknown metric {shown(metric)}{near(metric, signature.entries)}; `depthsig metrics` lists them"
        )
    if not one.figure:
        raise InputError(f"{metric!r} has no figure; look at `signature.scores`, or `.tokens` for a metric of tokens")
    signature = drawable(signature)
    with house_style():
        ax = new_figure(*_SIZES[one.figure]).add_subplot() if ax is None else ax
        if one.figure == "profile":
            return draw_profile(ax, _lines(signature, metric, choice), one, signature.plan, vocabulary(signature))
        if one.figure == "heatmap":
            return draw_heatmap(ax, signature.matrix(metric, **choice), one, signature.plan)
        prompt = choice.get("prompt", signature.tokens(metric)["prompt"].iloc[0])
        rows, marks = signature.tokens(metric, prompt), exit_marks(signature.tokens_table, one, prompt)
        rows = rows[rows["scope"] == choice.get("scope", rows["scope"].iloc[0])]
        words_as_they_are(_draw_tokens(ax, rows, one, signature.plan, marks))
        return ax


def _lines(signature: Signature, metric: str, choice: dict[str, Any]) -> pd.DataFrame:
    """The profile that was chosen, or every part and scope of the first aggregation."""
    rows = signature.profile(metric, **choice)
    if choice:
        return rows
    every = signature.profiles
    return every[(every["metric"] == metric) & (every["agg"] == rows["agg"].iloc[0])]
