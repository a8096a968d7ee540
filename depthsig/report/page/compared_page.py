"""A comparison's figures and its page, from its tables alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.metrics.rules import LATE
from depthsig.report.drawable import drawable
from depthsig.report.figures.forest import draw_by_profile, draw_claims, draw_late, draw_reliance
from depthsig.report.figures.labels import with_unit
from depthsig.report.figures.models import draw_distances, draw_relative, draw_tree
from depthsig.report.gallery import Drawn
from depthsig.report.page.compared_data import compared_in_short, comparison_data
from depthsig.report.page.page_files import MADE, write_page
from depthsig.report.page.templates import embedded, page
from depthsig.report.style import FULL, house_style, new_figure
from depthsig.signature.compared import RECORD, Comparison, in_numbers, stated
from depthsig.signature.folders.kinds import PAGE
from depthsig.signature.folders.writing import redrawing, writing
from depthsig.signature.records import ComparisonRecord, as_record
from depthsig.terms import described

PANELS = 3
"""Panels side by side."""
MOST_PAIRS = 28
"""More paired differences than this are in the table only, those with roles first."""


def save(comparison: Comparison, directory: str | Path) -> Path:
    """Write a comparison's folder with figures and page, whole or not at all; returns the page's path.

    Raises:
        InputError: if the folder is no comparison of ours, or cannot be written.
    """
    with writing(directory, RECORD) as partial:
        comparison.write(partial)
        draw(comparison, partial)
    return Path(directory) / PAGE


def build(directory: str | Path) -> Path:
    """Figures and page of a saved comparison again; returns the page's path."""
    folder = Path(directory)
    comparison = Comparison.load(folder)
    with redrawing(folder, leave=MADE) as partial:
        draw(comparison, partial)
    return folder / PAGE


def draw(comparison: Comparison, folder: Path) -> None:
    """Figures and page into a folder that exists and has none."""
    write_page(folder, figures_for(comparison), lambda saved: render(comparison, saved))


def figures_for(comparison: Comparison) -> Iterator[Drawn]:
    """Every figure that the comparison allows."""
    comparison = drawable(comparison)
    roles = {m["name"]: m["role"] for m in comparison.info["models"]}
    size = len(comparison.models)
    with house_style():
        if len(comparison.claims):
            figure = new_figure(FULL, 0.75 + 0.3 * len(comparison.claims))
            draw_claims(figure.add_subplot(), comparison.claims)
            yield Drawn("claims", "claims", "Claims", "Each claimed difference with its 95 % interval.", figure)
        distances = comparison.distance_matrix()
        figure = new_figure(FULL, 0.6 + 0.24 * size)
        draw_tree(figure.add_subplot(), distances, roles)
        caption = "Average linkage of the mean distance; models that fork close to their names use depth alike."
        yield Drawn("tree", "distances", "Tree of models", caption, figure)
        figure = new_figure(FULL * 0.8, 1.6 + 0.33 * size)
        draw_distances(figure.add_subplot(), distances, roles)
        caption = f"Mean L1 distance over {len(comparison.info['profiles']['compared'])} profiles."
        yield Drawn("distances", "distances", "Distances", caption, figure)
        between = comparison.distances[comparison.distances["level"] == "role"]
        if between["b"].nunique() > 1 or between["a"].nunique() > 1:
            profiles = len(between[["metric", "part", "scope"]].drop_duplicates())
            figure = new_figure(FULL, 0.9 + 0.19 * profiles)
            draw_by_profile(figure.add_subplot(), between)
            caption = "Which profiles the mean distance between roles rests on."
            yield Drawn("distances.roles", "distances", "Distances by profile", caption, figure)
        yield from _late_figures(comparison, roles)
        yield from _profile_figures(comparison, roles)


def _late_figures(comparison: Comparison, roles: dict[str, str]) -> Iterator[Drawn]:
    headline = dict(zip(("score", "part", "scope"), LATE, strict=True))
    scores = _only(comparison.scores, headline).dropna(subset=["value"])
    if scores.empty:
        return
    figure = new_figure(FULL, 0.6 + 0.2 * len(scores))
    draw_reliance(figure.add_subplot(), scores, roles)
    caption = "Share of what skipping layers changes that lies in the last third of the steps; 1/3 if all matter alike."
    yield Drawn("late.models", "late", "Who relies on late layers", caption, figure)
    late = _only(comparison.late, headline).dropna(subset=["difference"])
    late = pd.concat([late[late["level"] == "role"], late[late["level"] == "model"]]).head(MOST_PAIRS)
    if late.empty:
        return
    figure = new_figure(FULL, 0.6 + 0.17 * len(late))
    draw_late(figure.add_subplot(), late)
    caption = "Paired differences: roles first (over their seeds), then models (over prompts)."
    yield Drawn("late.differences", "late", "Differences of late reliance", caption, figure)


def _only(frame: pd.DataFrame, values: dict[str, str]) -> pd.DataFrame:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def _profile_figures(comparison: Comparison, roles: dict[str, str]) -> Iterator[Drawn]:
    entries = comparison.entries
    table = comparison.profiles.assign(family=[entries[m].family for m in comparison.profiles["metric"]])
    for family, rows in table.groupby("family", sort=False):
        curves = [curve for _, curve in rows.groupby(["metric", "part", "scope"], sort=False)]
        lines = math.ceil(len(curves) / PANELS)
        columns = min(PANELS, len(curves))
        legend = math.ceil(len(comparison.models) / 3)
        figure = new_figure(FULL, 1.45 * lines + 0.45 + 0.16 * legend, panels=True)
        axes = figure.subplots(lines, columns, squeeze=False)
        for ax, curve in zip(axes.flat, curves, strict=False):
            draw_relative(ax, curve, entries[str(curve.iloc[0]["metric"])], roles, comparison.models)
        for ax in list(axes.flat)[len(curves) :]:
            ax.remove()
        for ax in list(axes.flat)[max(0, len(curves) - columns) : len(curves)]:
            ax.set_xlabel("relative depth")
        for row in axes:
            row[0].set_ylabel("mean |value| = 1")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
        shown = [entries[name] for name in dict.fromkeys(rows["metric"])]
        named = "; ".join(f"{one.id}: {with_unit(one)}" for one in shown)
        caption = f"Profiles on relative depth, scaled to unit mean absolute value; bands over prompts. {named}."
        yield Drawn(f"profiles.{family}", "profiles", shown[0].section, caption, figure)


def render(comparison: Comparison, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text; every name in it is escaped."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for drawn, path in figures:
        groups.setdefault(drawn.group, []).append(embedded(drawn, path))
    claims = [{**c, "stated": stated(c), "measured": in_numbers(c)} for c in comparison.claims.to_dict("records")]
    compared = {name.split(" ")[0] for name in comparison.info["profiles"]["compared"]}
    data = comparison_data(comparison)
    return page(
        "compare.html.j2", data, places=[one["id"] for one in data["sections"]],
        info=as_record(comparison.info, ComparisonRecord),
        short=compared_in_short(comparison), claims=claims, figures=groups, late=_late_rows(comparison),
        recurrence=_recurrence_rows(comparison), command=command(comparison.info),
        definitions=[e for e in comparison.entries.values() if e.id in compared or e.id == LATE[0]],
    )  # fmt: skip


def _late_rows(comparison: Comparison) -> list[dict[str, str]]:
    late = comparison.late
    rows = late[(late["part"] == LATE[1]) & (late["scope"] == LATE[2])]
    rows = rows[rows["level"] == ("role" if (rows["level"] == "role").any() else "model")]
    return [
        {
            "score": r["score"], "a": r["a"], "b": r["b"], "value_a": _number(r["value_a"]), "note": r["note"],
            "value_b": _number(r["value_b"]), "difference": _interval(r),
        }
        for r in rows.to_dict("records")
    ]  # fmt: skip


def _recurrence_rows(comparison: Comparison) -> list[dict[str, str]]:
    return [
        {
            "a": r["a"], "c": r["c"], "about": described(r["metric"], r["part"], r["scope"]),
            "strength_a": _number(r["strength_a"]), "strength_c": _number(r["strength_c"]), "difference": _interval(r),
            "p_a": _number(r["p_a"]), "p_c": _number(r["p_c"]), "note": r["note"],
        }
        for r in comparison.recurrence.to_dict("records")
    ]  # fmt: skip


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3g}"


def _interval(row: dict[str, Any]) -> str:
    if pd.isna(row["difference"]):
        return "–"
    interval = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:+.3g}, {row['ci_high']:+.3g}]"
    return f"{row['difference']:+.3g}{interval}"


def command(info: dict[str, Any]) -> str:
    """The command line that makes this result again; signatures that came as objects have no folder."""
    paths = {m["name"]: m.get("path") or f"<{m['name']}>" for m in info["models"]}
    pieces = ["depthsig", "compare", *paths.values()]
    if info["roles"]:
        said = ",".join(f"{role}={'+'.join(paths.get(n, n) for n in names)}" for role, names in info["roles"].items())
        pieces += ["--roles", said]
    if info["options"].get("seed"):
        pieces += ["--seed", str(info["options"]["seed"])]
    return shlex.join(pieces)
