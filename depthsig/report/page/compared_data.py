"""What the charts of a comparison show, and its result in a few words where no claim says it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pandas as pd

from depthsig.findings.finding import listed, plain
from depthsig.metrics.rules import LATE
from depthsig.report.drawable import drawable
from depthsig.report.figures.forest import claim_label
from depthsig.report.figures.models import DISTANCES
from depthsig.report.page import chart_data as charts
from depthsig.report.page.glance import DISAGREE, Answer
from depthsig.signature import Comparison
from depthsig.terms import counted, described

EVEN = 1 / 3
"""The share of the last third of the steps, were all steps alike."""

_PROFILE = ["metric", "part", "scope"]
_WORDS = {"part": "Part", "scope": "Scope", "agg": "Between"}


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """Claims, distances, late reliance and profiles, as the page's charts take them.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; what can be marked is a relative depth.
    """
    comparison = drawable(comparison)
    metrics: dict[str, Any] = {}
    if len(comparison.claims):
        metrics["claims"] = _claims(comparison.claims)
    metrics |= _distances(comparison) | _late(comparison) | _profiles(comparison)
    profiles = [name for name in metrics if name in comparison.entries and "series" in metrics[name]]
    late = [name for name in metrics if name.startswith("late:")]
    sections = [
        charts.section("claims", "Claims", ["claims"] if "claims" in metrics else []),
        charts.section("distances", "Distances", [n for n in ("distances", "distances by profile") if n in metrics]),
        charts.section("late", "Late layers", late), charts.section("profiles", "Profiles", profiles),
    ]  # fmt: skip
    depths = sorted(comparison.profiles["depth"].dropna().unique().tolist())
    return charts.record(
        "comparison", metrics, [one for one in sections if one["metrics"]], marks=depths, mark_name="Relative depth"
    )


def compared_in_short(comparison: Comparison) -> list[Answer]:
    """Who relies most on late layers, which two are most alike, and on what all this rests."""
    info = comparison.info
    answers = [*_who_is_late(comparison), *_who_is_alike(comparison)]
    prompts = info["prompts"]
    same = "The same tokens for all" if prompts["same_tokens"] else "Paired by their text"
    warnings = len(info["warnings"])
    said = f"{same}; {len(info['profiles']['compared'])} profiles; "
    said += f"{warnings} {'warning' if warnings == 1 else 'warnings'}, below." if warnings else "no warnings."
    return [*answers, Answer("What does it rest on?", counted(prompts["n"], "prompt"), "open", said)]


def _who_is_late(comparison: Comparison) -> Iterator[Answer]:
    name, part, scope = LATE
    scores = comparison.scores.dropna(subset=["value"])
    scores = scores[(scores["part"] == part) & (scores["scope"] == scope)]
    shares = scores[scores["score"] == name].sort_values("value", ascending=False)
    if len(shares) < 2:
        return
    first, last = shares.iloc[0], shares.iloc[-1]
    others = scores[scores["score"].str.endswith(".relative")]
    tops = {s: str(rows.loc[rows["value"].idxmax(), "model"]) for s, rows in others.groupby("score", sort=False)}
    against = {s: model for s, model in tops.items() if model != first["model"]}
    text = f"The last third of {first['model']} carries {_share(first)}, that of {last['model']} {_share(last)}, the "
    text += f"least; even is {EVEN:.1%}."
    alike = _not_told_apart(comparison, str(first["model"]))
    if alike:
        text += f" {listed([str(first['model']), *alike])} are not told apart."
        yield Answer("Which relies on late layers most?", "Open", "open", text)
        return
    if against:
        text += f" By {', '.join(f'{score} it is {model}' for score, model in against.items())}."
    answer = f"{first['model']}, but the {DISAGREE}" if against else str(first["model"])
    yield Answer("Which relies on late layers most?", answer, "open", text)


def _not_told_apart(comparison: Comparison, model: str) -> list[str]:
    """Models whose late share differs from this one's by what may be nothing, or has no interval."""
    rows = comparison.late
    rows = rows[(rows["level"] == "model") & (rows["score"] == LATE[0])]
    rows = rows[(rows["part"] == LATE[1]) & (rows["scope"] == LATE[2]) & ((rows["a"] == model) | (rows["b"] == model))]
    clear = (rows["ci_low"] > 0) | (rows["ci_high"] < 0)
    return [b if a == model else a for a, b in rows[~clear][["a", "b"]].itertuples(index=False, name=None)]


def _share(score: pd.Series) -> str:
    interval = "" if pd.isna(score["ci_low"]) else f" [{score['ci_low']:.1%}, {score['ci_high']:.1%}]"
    return f"{score['value']:.1%}{interval}"


def _who_is_alike(comparison: Comparison) -> Iterator[Answer]:
    table = comparison.distance_matrix()
    pairs = sorted((float(table.loc[a, b]), a, b) for a, b in combinations(comparison.models, 2))
    (near, a, b), (far, c, d) = pairs[0], pairs[-1]
    text = f"Their profiles are {plain(near)} apart on average, where 0 is the same shape and 2 is most."
    if len(pairs) > 1:
        text += f" Farthest apart are {c} and {d}, by {plain(far)}."
        yield Answer("Which two use depth most alike?", f"{a} and {b}", "open", text)
    else:
        yield Answer("How alike do they use depth?", f"{plain(near)} apart", "open", text)


def _claims(claims: pd.DataFrame) -> dict[str, Any]:
    rows = [{**c, "note": f"{c['verdict']}. {c['note']}".strip()} for c in claims.to_dict("records")]
    one = charts.estimates(rows, "estimate", [claim_label(row) for row in rows])
    formula = "each claimed difference with its 95 % interval; convergence claims a value below 0"
    return charts.chart("difference", "forest", [one], formula=formula)


def _distances(comparison: Comparison) -> dict[str, Any]:
    rows = comparison.distances
    between = rows[rows["level"] == "model"]
    drawn = []
    for key, table in between.groupby(_PROFILE, sort=False):
        metric, part, scope = map(str, key)
        grid = comparison.distance_matrix(metric, part, scope)
        numbered = pd.DataFrame(grid.to_numpy(float))
        name = "mean of all profiles" if metric == "mean" else f"{metric} {described(part, scope)}".strip()
        if len(table):
            drawn.append(charts.cells(numbered, charts.scale_record(DISTANCES), part=name))
    found = {
        "distances": charts.chart(
            "distance of profiles (L1)", "cells", drawn, rows="model", cols="model", rowLabel="", colLabel="",
            names=comparison.models, choices={"part": "Profile"},
            formula="mean absolute difference on relative depth; 0 for equal shapes, at most 2",
        )
    }  # fmt: skip
    roles = rows[rows["level"] == "role"]
    lists = []
    for key, table in roles.groupby(["a", "b"], sort=False):
        a, b = map(str, key)
        said = [f"{r['metric']} {described(r['part'], r['scope'])}".strip() for r in table.to_dict("records")]
        lists.append(charts.estimates(table.to_dict("records"), "distance", said, part=f"{a} – {b}"))
    if lists:
        found["distances by profile"] = charts.chart(
            "distance between roles (L1)", "forest", lists, choices={"part": "Roles"},
            formula="which profiles the mean distance between roles rests on; 95 % intervals",
        )  # fmt: skip
    return found


def _late(comparison: Comparison) -> dict[str, Any]:
    """Each score of late reliance: model by model, and as paired differences."""
    found: dict[str, Any] = {}
    for score, rows in _headline_first(comparison.scores):
        lists = [
            charts.estimates(
                table.sort_values("value", ascending=False).to_dict("records"), "value",
                list(table.sort_values("value", ascending=False)["model"]),
                reference=EVEN if score == LATE[0] else None, part=str(key[0]), scope=str(key[1]),
            )
            for key, table in rows.groupby(["part", "scope"], sort=False)
        ]  # fmt: skip
        found[f"late: {score}"] = charts.chart(f"{score} of each model", "forest", lists)
    for score, rows in _headline_first(comparison.late):
        lists = [
            charts.estimates(
                table.to_dict("records"), "difference", [f"{r['a']} − {r['b']}" for r in table.to_dict("records")],
                part=str(key[0]), scope=str(key[1]), agg=f"{key[2]}s",
            )
            for key, table in rows.groupby(["part", "scope", "level"], sort=False)
        ]  # fmt: skip
        label = f"paired difference of {score}"
        found[f"late: {score}, differences"] = charts.chart(label, "forest", lists, choices=_WORDS)
    return found


def _headline_first(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    rows = [(str(score), part) for score, part in table.groupby("score", sort=False)]
    return sorted(rows, key=lambda one: one[0] != LATE[0])


def _profiles(comparison: Comparison) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric, rows in comparison.profiles.groupby("metric", sort=False):
        entry = comparison.entries[str(metric)]
        drawn = []
        for key, curves in rows.groupby(["part", "scope"], sort=False):
            part, scope = map(str, key)
            scale = charts.own_scale([*curves["value"], *curves["ci_low"], *curves["ci_high"]], margin=0.05)
            for model, curve in curves.groupby("model", sort=False):
                curve = curve.sort_values("depth")
                x, y, low, high = (curve[c] for c in ("depth", "value", "ci_low", "ci_high"))
                drawn.append(charts.line(x, y, low, high, scale, part=part, scope=scope, name=str(model)))
        found[str(metric)] = charts.chart(
            f"{entry.label}, mean |value| = 1", "series", drawn, formula=entry.formula, source=entry.source,
            axis="relative depth", xName="relative depth", xLabel="relative depth", whole=False, lines="model",
            centre=entry.centre,
        )  # fmt: skip
    return found
