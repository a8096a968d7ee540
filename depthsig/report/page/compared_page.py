"""A comparison's figures and its page, from its tables alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.metrics.rules import LATE
from depthsig.report.alt_texts import curves_in_words
from depthsig.report.comparison_plot import pictured
from depthsig.report.drawable import drawable
from depthsig.report.figures.labels import with_unit
from depthsig.report.figures.models import draw_relative
from depthsig.report.gallery import Drawn
from depthsig.report.page.compared_data import compared_in_short, comparison_data
from depthsig.report.page.page_files import MADE, write_page
from depthsig.report.page.templates import embedded, number, page
from depthsig.report.style import FULL, house_style, new_figure
from depthsig.signature.compared import RECORD, Comparison, in_numbers, stated
from depthsig.signature.costs import HELD_QUANTITIES, value_in_words
from depthsig.signature.folders.kinds import PAGE
from depthsig.signature.folders.writing import redrawing, writing
from depthsig.signature.records import ComparisonRecord, as_record
from depthsig.terms import described

PANELS = 3
"""Panels side by side."""
TITLE = 108
"""Letters of titles that fit across a page."""


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
    """Every figure of the page."""
    comparison = drawable(comparison)
    with house_style():
        for one in pictured(comparison):
            if one.paged:
                figure = new_figure(*one.size)
                one.draw(figure.add_subplot())
                yield Drawn(one.name, one.group, one.title, one.caption, figure, one.alt)
        yield from _profile_figures(comparison, {m["name"]: m["role"] for m in comparison.info["models"]})


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
            one = entries[str(curve.iloc[0]["metric"])]
            draw_relative(ax, curve, one, roles, comparison.models, TITLE // columns)
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
        alt = " ".join(_curve_in_words(curve) for curve in curves)
        yield Drawn(f"profiles.{family}", "profiles", shown[0].section, caption, figure, alt)


def _curve_in_words(curve: pd.DataFrame) -> str:
    first = curve.iloc[0]
    return f"{described(first['metric'], first['part'], first['scope'])}: {curves_in_words(curve)}."


def render(comparison: Comparison, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text; every name in it is escaped."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for drawn, path in figures:
        groups.setdefault(drawn.group, []).append(embedded(drawn, path))
    claims = [_claim(comparison, c) for c in comparison.claims.to_dict("records")]
    compared = {name.split(" ")[0] for name in comparison.info["profiles"]["compared"]}
    data = comparison_data(comparison)
    return page(
        "compare.html.j2", data, places=[one["id"] for one in data["sections"]],
        info=as_record(comparison.info, ComparisonRecord),
        short=compared_in_short(comparison), claims=claims, figures=groups, late=_late_rows(comparison),
        recurrence=_recurrence_rows(comparison), held=_held_rows(comparison),
        held_said=comparison.held_in_words(), command=command(comparison.info), unit_tests=_unit_rows(comparison),
        definitions=[e for e in comparison.entries.values() if e.id in compared or e.id == LATE[0]],
    )  # fmt: skip


def _claim(comparison: Comparison, claim: dict[str, Any]) -> dict[str, Any]:
    """A claim as the page says it: its words, its numbers, and which of its unit tests it fails."""
    tests = comparison.tests_of(claim)
    failed = [one["test"] for one in tests if one["passed"] == "no"]
    told = {"fails": ", ".join(failed), "strict": tests[0]["strict"] if tests else ""}
    return {**claim, "stated": stated(claim), "measured": in_numbers(claim), **told}


def _unit_rows(comparison: Comparison) -> list[dict[str, str]]:
    rows = []
    for r in comparison.unit_tests.to_dict("records"):
        interval = "" if pd.isna(r["ci_low"]) else f" [{r['ci_low']:+.3g}, {r['ci_high']:+.3g}]"
        value = "–" if pd.isna(r["value"]) else f"{r['value']:.3g}{interval}"
        rows.append({**{n: r[n] for n in ("claim", "a", "c", "test", "passed", "strict", "note")}, "value": value})
    return rows


def _held_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a quantity that is known of any model, with a cell a model."""
    table = comparison.held_equal
    rows = table[table["level"] == "one"]
    found = []
    for name, one in HELD_QUANTITIES.items():
        values = rows[rows["quantity"] == name].drop_duplicates("a").set_index("a")
        if values["value_a"].notna().any():
            cells = [value_in_words(values["value_a"].get(model)) for model in comparison.models]
            found.append({"label": one.label, "meaning": one.meaning, "cells": cells, "note": values["note"].iloc[0]})
    return found


def _late_rows(comparison: Comparison) -> list[dict[str, str]]:
    late = comparison.late
    rows = late[(late["part"] == LATE[1]) & (late["scope"] == LATE[2])]
    rows = rows[rows["level"] == ("role" if (rows["level"] == "role").any() else "model")]
    return [
        {
            "score": r["score"], "a": r["a"], "b": r["b"], "value_a": number(r["value_a"], 3), "note": r["note"],
            "value_b": number(r["value_b"], 3), "difference": _interval(r),
        }
        for r in rows.to_dict("records")
    ]  # fmt: skip


def _recurrence_rows(comparison: Comparison) -> list[dict[str, str]]:
    return [
        {
            "a": r["a"], "c": r["c"], "about": described(r["metric"], r["part"], r["scope"]),
            "strength_a": number(r["strength_a"], 3), "strength_c": number(r["strength_c"], 3),
            "difference": _interval(r), "p_a": number(r["p_a"], 3), "p_c": number(r["p_c"], 3), "note": r["note"],
        }
        for r in comparison.recurrence.to_dict("records")
    ]  # fmt: skip


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
    if info["options"].get("strict"):
        pieces.append("--strict")
    for option in ("reworded", "random_ablation"):
        beside = info["options"].get(option, {})
        if beside:
            said = ",".join(f"{role}={'+'.join(names)}" for role, names in beside.items())
            pieces += [f"--{option.replace('_', '-')}", said]
    if info["options"].get("seed"):
        pieces += ["--seed", str(info["options"]["seed"])]
    return shlex.join(pieces)
