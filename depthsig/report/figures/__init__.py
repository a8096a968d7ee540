"""Figures: each draws a table on given axes; which there are follows from the tables at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from depthsig.errors import InputError
from depthsig.metrics.registry import Metric, all_metrics
from depthsig.report.figures.early_exit import LENSES, draw_early_exit, early_exit_measures
from depthsig.report.figures.heatmap import draw_heatmap
from depthsig.report.figures.lens_tokens import draw_lens_tokens
from depthsig.report.figures.period import draw_period
from depthsig.report.figures.plan_strip import draw_plan
from depthsig.report.figures.profile import draw_profile
from depthsig.report.figures.token_map import draw_token_map
from depthsig.report.figures.trajectories import draw_trajectories
from depthsig.report.period import period_tables
from depthsig.report.style import COLUMN, FULL, house_style, new_figure
from depthsig.signature import Signature


@dataclass(frozen=True)
class Drawn:
    """A finished figure with its file name, heading and caption; ``group`` is its section."""

    name: str
    group: str
    title: str
    caption: str
    figure: Figure


def figures_for(signature: Signature) -> Iterator[Drawn]:
    """Every figure that the signature's tables allow, in the registry's order."""
    with house_style():
        figure = new_figure(FULL, 0.95)
        draw_plan(figure.add_subplot(), signature.plan)
        caption = "One cell a step, with its layer; colours tell blocks (or iterations) apart."
        yield Drawn("plan", "plan", "Plan", caption, figure)
        for entry in all_metrics().values():
            yield from _figures_of(signature, entry)
        yield from _early_exit(signature)
        for table in period_tables(signature):
            figure = new_figure()
            draw_period(figure.add_subplot(), table)
            yield Drawn(f"period.{table.name}", "period", f"{table.name} without its trend", table.caption, figure)


def _figures_of(signature: Signature, entry: Metric) -> Iterator[Drawn]:
    group = entry.id.split(".")[0]
    if entry.kind == "profile" and entry.id in set(signature.profiles["metric"]):
        rows = signature.profiles[signature.profiles["metric"] == entry.id]
        for agg, table in rows.groupby("agg", sort=False):
            figure = new_figure()
            draw_profile(figure.add_subplot(), table, entry, signature.plan)
            suffix, said = _agg(str(agg))
            caption = f"{entry.formula}; {said}."
            yield Drawn(entry.id + suffix, group, f"{entry.id}{suffix}", caption, figure)
    if entry.kind == "matrix" and entry.id in set(signature.matrices["metric"]):
        yield from _matrices(signature, entry, group)
    if entry.kind == "token" and entry.id in ("erasure.effect", "attribution.ig"):
        yield from _token_maps(signature, entry, group)
    if entry.id in TOKENS and entry.id in set(signature.tokens_table["metric"]):
        for prompt, rows in signature.tokens(entry.id).groupby("prompt"):
            figure = new_figure(FULL, 4.2)
            draw_lens_tokens(figure.add_subplot(), rows)
            caption = f"The likeliest next token at every depth and position of prompt {prompt} (its last positions)."
            title = f"Top tokens, prompt {prompt}" + (", tuned lens" if group == "tuned" else "")
            yield Drawn(f"{entry.id}.{prompt}", group, title, caption, figure)
    if entry.id == "loop.pca" and entry.id in set(signature.tokens_table["metric"]):
        for (scope, prompt), rows in signature.tokens(entry.id).groupby(["scope", "prompt"]):
            figure = new_figure(COLUMN, 2.8)
            draw_trajectories(figure.add_subplot(), rows)
            name = ".".join(p for p in ("loop.pca", str(scope).replace(":", "-"), str(prompt)) if p)
            caption = f"{entry.formula}; prompt {prompt}, its last tokens."
            yield Drawn(
                name, group, f"Passes of prompt {prompt}" + (f", steps {scope}" if scope else ""), caption, figure
            )


def _early_exit(signature: Signature) -> Iterator[Drawn]:
    measures = early_exit_measures(signature.profiles)
    if not measures:
        return
    figure = new_figure(FULL if len(measures) > 1 else COLUMN, 2.4)
    draw_early_exit(
        [figure.add_subplot(1, len(measures), i + 1) for i in range(len(measures))], signature.profiles, signature.plan
    )
    have = [name for lens, name in LENSES.items() if signature.profiles["metric"].str.startswith(f"{lens}.").any()]
    caption = (
        f"How good the model would be if it stopped at a depth and was read out there, by {' and '.join(have)}; "
        "mean over prompts, band: 95 % bootstrap interval; dashed: the loss of the whole model."
    )
    group = "lens" if "plain lens" in have else "tuned"
    yield Drawn("early_exit", group, "Early exit", caption, figure)


TOKENS = ("lens.tokens", "tuned.tokens")
TOKEN_MAPS = 4
"""Token maps are drawn for the first prompts; the table has all of them."""


def _token_maps(signature: Signature, entry: Metric, group: str) -> Iterator[Drawn]:
    rows = signature.tokens_table[signature.tokens_table["metric"] == entry.id]
    for prompt, table in list(rows.groupby("prompt"))[:TOKEN_MAPS]:
        figure = new_figure(FULL, 3.6)
        draw_token_map(figure.add_subplot(), table, entry, signature.plan)
        yield Drawn(f"{entry.id}.{prompt}", group, f"{entry.id}, prompt {prompt}", f"{entry.formula}.", figure)


def _matrices(signature: Signature, entry: Metric, group: str) -> Iterator[Drawn]:
    rows = signature.matrices[signature.matrices["metric"] == entry.id]
    for (part, scope, agg), _ in rows.groupby(["part", "scope", "agg"], sort=False):
        figure = new_figure(COLUMN, 2.8)
        matrix = signature.matrix(entry.id, part=part, scope=scope, agg=agg)
        draw_heatmap(figure.add_subplot(), matrix, entry, signature.plan)
        suffix, said = _agg(str(agg))
        title = ".".join(p for p in (entry.id, part, scope) if p) + suffix
        name = title.replace(":", "-")  # the span of a loop is no name for a file everywhere
        yield Drawn(name, group, title, f"{entry.formula}; {said}.", figure)


def _agg(agg: str) -> tuple[str, str]:
    if agg == "mean":
        return "", "mean over prompts, band: 95 % bootstrap interval where there is one"
    return f".{agg}", "worst case over positions and prompts"


def plot_metric(signature: Signature, metric: str, ax: Any = None, **choice: Any) -> Any:
    """Draw one metric of a signature on ``ax`` (or a new figure) and return the axes.

    Args:
        choice: ``part``, ``scope``, ``agg`` where there are several; ``prompt`` for token metrics.
    """
    entries = all_metrics()
    if metric not in entries:
        raise InputError(f"unknown metric {metric!r}; `depthsig metrics` lists them")
    entry = entries[metric]
    with house_style():
        if ax is None:
            wide = entry.kind == "token" and metric != "loop.pca"
            ax = new_figure(FULL if wide else COLUMN, 4.2 if wide else 2.6).add_subplot()
        if entry.kind == "profile":
            rows = signature.profile(metric, **choice)
            if not choice:
                rows = signature.profiles[
                    (signature.profiles["metric"] == metric) & (signature.profiles["agg"] == rows["agg"].iloc[0])
                ]
            return draw_profile(ax, rows, entry, signature.plan)
        if entry.kind == "matrix":
            return draw_heatmap(ax, signature.matrix(metric, **choice), entry, signature.plan)
        if entry.kind == "token":
            rows = signature.tokens(metric)
            prompt = choice.get("prompt", rows["prompt"].iloc[0])
            rows = rows[rows["prompt"] == prompt]
            if metric in TOKENS:
                return draw_lens_tokens(ax, rows)
            if metric == "loop.pca":
                return draw_trajectories(ax, rows[rows["scope"] == choice.get("scope", rows["scope"].iloc[0])])
            return draw_token_map(ax, rows, entry, signature.plan)
    raise InputError(f"{metric!r} is a single number; look at `signature.scores`")


def save_figures(figures: Iterable[Drawn], directory: Path) -> list[tuple[Drawn, Path]]:
    """Write every figure as PNG and SVG into ``directory``; returns them with their SVG's path."""
    directory.mkdir(parents=True, exist_ok=True)
    saved = []
    for drawn in figures:
        with house_style():
            drawn.figure.savefig(directory / f"{drawn.name}.png", metadata={"Software": None})
            path = directory / f"{drawn.name}.svg"
            drawn.figure.savefig(path, metadata={"Date": None})
        saved.append((drawn, path))
    return saved
