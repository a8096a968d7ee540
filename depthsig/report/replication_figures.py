"""Figures of a replication: all claims on one axis, and what lies behind each experiment's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from depthsig.errors import InputError, near, shown
from depthsig.report.alt_texts import curves_in_words
from depthsig.report.drawable import without_extremes
from depthsig.report.figures.forest import VERDICT_COLOURS
from depthsig.report.figures.labels import LONGEST_LABEL, plain, powers_of_ten, whole_numbers
from depthsig.report.figures.models import LINES, shorten
from depthsig.report.gallery import Drawn
from depthsig.report.style import COLOURS, FULL, MARKERS, house_style, new_figure
from depthsig.signature.replications.replication import OUTCOMES, TABLES, Replication

ALL_CLAIMS = "claims"
MOST_CURVES = 12
"""With more networks a legend names roles alone."""
AXIS_END = 100.0
"""Half-widths at which the axis of all claims ends: what lies beyond is drawn at its end."""
FAR_APART = 30.0
"""Positive values of one panel that differ by more than this factor get a logarithmic axis."""

ROLES_DRAWN = {
    "looped": (COLOURS[0], "o"), "grown": (COLOURS[1], "s"), "midas": (COLOURS[1], "s"), "lidas": (COLOURS[3], "D"),
    "baseline": (COLOURS[2], "^"),
}  # fmt: skip
"""Colour and mark of each role, whatever its time: before is drawn lighter."""
_OTHER = ("0.45", "X")
_LOOKS = {"supported": ("o", True), "contradicted": ("X", True), "undecided": ("o", False)}
"""The mark of each verdict, and whether it is filled: colour alone tells nothing."""
_TICKS = (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100)


def replication_figures(found: Replication) -> Iterator[Drawn]:
    """Every figure of the page: all claims, then one an experiment that has curves."""
    found = drawable_replication(found)
    with house_style():
        if len(found.replication):
            yield _claims_drawn(found)
        for experiment in found.info["experiments"]:
            panels = panels_of(found, experiment["id"])
            if panels:
                figure = _figure_of(found, panels)
                title = f"{experiment['id']}. {experiment['title']}"
                caption = "A line a network, coloured by its role; bands: 95 % bootstrap interval over prompts."
                alt = " ".join(f"{_titled(p)}: {p.shows}, {_in_words(p)}." for p in panels)
                yield Drawn(experiment["id"], experiment["id"], title, caption, figure, alt)


def drawable_replication(found: Replication) -> Replication:
    """A replication without numbers that no axis can show."""
    return replace(found, **{name: without_extremes(getattr(found, name)) for name in TABLES})


def standardised(found: Replication) -> pd.DataFrame:
    """Every estimate in half-widths of its interval, positive where the paper claims it to be.

    Different quantities then share an axis: an interval is two wide, and a claim is supported where it lies above 0.

    Returns:
        The rows of ``replication`` with ``value``, ``low``, ``high`` and ``label``; NaN where there is no interval.
    """
    claims = {c["id"]: c for c in found.info["claims"]}
    table = found.replication
    half = ((table["ci_high"] - table["ci_low"]) / 2).where(lambda width: width > 0)
    side = np.array([1.0 if claims[c].get("above", True) else -1.0 for c in table["claim"]])
    ends = pd.DataFrame({"a": side * table["ci_low"] / half, "b": side * table["ci_high"] / half})
    # An interval that ends at 1e300 times its width has no place on any axis.
    values = {"value": side * table["estimate"] / half, "low": ends.min(axis=1), "high": ends.max(axis=1)}
    labels = [f"{claim}, {role}" for claim, role in zip(table["claim"], table["role"], strict=True)]
    return table.assign(**values, label=labels)


def draw_verdicts(ax: Axes, found: Replication) -> Axes:
    """Draw every claim and role as a point with its interval in half-widths, and its verdict beside it."""
    table = standardised(found)
    beside = blended_transform_factory(ax.transAxes, ax.transData)
    starts = [i for i, e in enumerate(table["experiment"]) if i == 0 or e != table["experiment"].iloc[i - 1]]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(table)], strict=True)):
        if number % 2:
            ax.axhspan(start - 0.5, end - 0.5, color="0.96", lw=0, zorder=0)
    for place, row in enumerate(table.to_dict("records")):
        colour = VERDICT_COLOURS.get(row["verdict"], "0.45")
        if np.isfinite(row["value"]):
            mark, filled = _LOOKS.get(row["verdict"], ("o", False))
            low, value, high = np.clip([row["low"], row["value"], row["high"]], -AXIS_END, AXIS_END)
            ax.plot([low, high], [place, place], color=colour, lw=1.6, solid_capstyle="butt", zorder=2)
            ax.plot(value, place, mark, color=colour, mfc=colour if filled else "white", ms=4.2, mew=1.1, zorder=3)
        said = row["verdict"] if np.isfinite(row["value"]) or not np.isfinite(row["estimate"]) else "no interval"
        bold = "bold" if row["verdict"] in ("supported", "contradicted") else "normal"
        ax.text(1.02, place, said, transform=beside, ha="left", va="center", color=colour, fontsize=7, weight=bold)
    ax.axvline(0, color="0.3", lw=0.8, zorder=1)
    ax.set_yticks(range(len(table)), [plain(label) for label in table["label"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.6)
    reach = float(np.nanmax(np.abs(table[["low", "high"]].to_numpy(float)), initial=3.0))
    reach = min(AXIS_END, reach) * 1.1
    ax.set_xlim(-reach, reach)
    ax.set_xticks([t for t in _TICKS if abs(t) <= reach], [f"{t:g}" for t in _TICKS if abs(t) <= reach])
    ax.minorticks_off()
    ax.set_xlabel("estimate in half-widths of its 95 % interval; right of 0: as the paper claims")
    return ax


def _claims_drawn(found: Replication) -> Drawn:
    figure = new_figure(FULL, 0.6 + 0.185 * len(found.replication))
    draw_verdicts(figure.add_subplot(), found)
    caption = (
        "Every claim, role by role. An estimate over half the width of its interval, turned so that the paper's "
        "direction lies to the right: intervals clear of 0 decide. Filled: decided, a cross contradicts; hollow: not."
    )
    return Drawn(ALL_CLAIMS, ALL_CLAIMS, "All claims", caption, figure, verdicts_in_words(found.replication))


def verdicts_in_words(table: pd.DataFrame) -> str:
    """Which claims got which verdict.

    >>> rows = {"claim": ["E1.a", "E1.a"], "role": ["looped", "grown"], "verdict": ["supported", "undecided"]}
    >>> verdicts_in_words(pd.DataFrame(rows))
    '1 supported: E1.a looped. 1 undecided: E1.a grown.'
    """
    said = []
    for verdict in OUTCOMES:
        rows = table[table["verdict"] == verdict]
        names = ", ".join(f"{c} {r}" for c, r in zip(rows["claim"], rows["role"], strict=True))
        said += [f"{len(rows)} {verdict}: {names}."] if len(rows) else []
    return " ".join(said)


@dataclass(frozen=True, eq=False)
class Panel:
    """Curves that claims share.

    Attributes:
        rows: ``network``, ``x``, ``value`` and its interval, each network once.
    """

    claims: tuple[str, ...]
    axis: str
    shows: str
    rows: pd.DataFrame


def panels_of(found: Replication, experiment: str) -> list[Panel]:
    """An experiment's curves, those of several claims together where they are the same."""
    panels: list[Panel] = []
    curves = found.curves.dropna(subset=["x"])
    for claim in (c["id"] for c in found.info["claims"] if c["experiment"] == experiment):
        for (axis, shows), rows in curves[curves["claim"] == claim].groupby(["axis", "shows"], sort=False):
            one = Panel((claim,), str(axis), str(shows), rows.drop_duplicates(["network", "x"]))
            at = next((i for i, other in enumerate(panels) if _go_together(one, other)), None)
            if at is None:
                panels.append(one)
            else:
                merged = pd.concat([panels[at].rows, one.rows]).drop_duplicates(["network", "x"])
                panels[at] = replace(panels[at], claims=(*panels[at].claims, claim), rows=merged)
    return panels


def _go_together(one: Panel, other: Panel) -> bool:
    """Whether two panels show the same, and agree on every network that is in both."""
    if (one.axis, one.shows) != (other.axis, other.shows):
        return False
    both = one.rows.merge(other.rows, on=["network", "x"], suffixes=("", "_other"))
    return bool(np.allclose(both["value"], both["value_other"], rtol=1e-6, equal_nan=True))


def _figure_of(found: Replication, panels: list[Panel]) -> Figure:
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    names = list(dict.fromkeys(name for panel in panels for name in panel.rows["network"]))
    entries = len(names) if len(names) <= MOST_CURVES else len({_role(found, name) for name in names})
    figure = new_figure(FULL, 2.15 * lines + 0.16 * math.ceil(entries / 3) + 0.1, panels=True)
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        draw_panel(ax, panel, found)
    for ax in list(axes.flat)[len(panels) :]:
        ax.remove()
    handles = {
        label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(handles)))
    return figure


def draw_panel(ax: Axes, panel: Panel, found: Replication) -> Axes:
    """Draw one line a network with its band, in its role's colour."""
    looks = looks_of(found)
    many = panel.rows["network"].nunique() > MOST_CURVES
    for name, curve in panel.rows.groupby("network", sort=False):
        curve = curve.sort_values("x")
        x, y, low, high = (curve[c].to_numpy(float) for c in ("x", "value", "ci_low", "ci_high"))
        look, role = looks[str(name)], _role(found, str(name))
        label = role if many else f"{name} ({role})" if role else str(name)
        ax.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
        mark = look["marker"] if len(x) <= 12 else ""
        style = {"color": look["color"], "ls": look["ls"], "alpha": look["alpha"], "marker": mark}
        ax.plot(x, y, lw=1.0, label=shorten(label), **style)
    values = panel.rows["value"].to_numpy(float)
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() / values.min() > FAR_APART:
        ax.set_yscale("log")
        powers_of_ten(ax.yaxis, between=values.max() / values.min() < 10 * FAR_APART)
    if panel.axis == "relative depth":
        ax.set_xlim(0, 1)
    else:
        whole_numbers(ax)
    ax.set_title(plain(fill(_titled(panel), 52)), fontsize=7.5)
    ax.set_xlabel(plain(panel.axis))
    side = ax.set_ylabel(plain(panel.shows[: 2 * LONGEST_LABEL]))
    side.set_fontsize(float(side.get_fontsize()) * min(1.0, LONGEST_LABEL / max(1, len(panel.shows))))
    return ax


def looks_of(found: Replication) -> dict[str, dict[str, Any]]:
    """Colour and mark of every network by its role, its line by its place within it."""
    looks: dict[str, dict[str, Any]] = {}
    count: dict[str, int] = {}
    for network in found.info["networks"]:
        kind, _, time = str(network["role"]).partition("-")
        colour, mark = ROLES_DRAWN.get(kind, _OTHER)
        number = count[kind] = count.get(kind, -1) + 1
        faint = 0.5 if time == "before" else 1.0
        looks[network["name"]] = {"color": colour, "marker": mark, "ls": LINES[number % len(LINES)], "alpha": faint}
    other = {"color": _OTHER[0], "marker": MARKERS[-1], "ls": "-", "alpha": 1.0}
    return {**{str(name): other for name in found.curves["network"].unique()}, **looks}


def _role(found: Replication, name: str) -> str:
    return next((str(n["role"]) for n in found.info["networks"] if n["name"] == name), "")


def _titled(panel: Panel) -> str:
    return ", ".join(panel.claims)


def _in_words(panel: Panel) -> str:
    rows = panel.rows.rename(columns={"network": "model", "x": "depth"})
    return f"over {panel.axis}, {curves_in_words(rows, panel.axis)}"


def plot_replication(found: Replication, name: str, ax: Axes | None = None) -> Axes:
    """Draw one figure on ``ax`` (or a new figure) and return the axes, the first of several.

    Raises:
        InputError: for a name of no figure, and for several panels on one axes.
    """
    panels = _panels_named(found, name)
    found = drawable_replication(found)
    with house_style():
        if name == ALL_CLAIMS:
            return draw_verdicts(_claims_axes(found) if ax is None else ax, found)
        if ax is None:
            return _figure_of(found, panels).axes[0]
        if len(panels) > 1:
            said = ", ".join(panel.claims[0] for panel in panels)
            raise InputError(f"{name} has {len(panels)} panels, and there is one axes; draw one of {said}")
        return draw_panel(ax, panels[0], found)


def _claims_axes(found: Replication) -> Axes:
    return new_figure(FULL, 0.6 + 0.185 * len(found.replication)).add_subplot()


def replication_rows(found: Replication, name: str) -> pd.DataFrame:
    """What the figure of this name shows, as a table.

    Raises:
        InputError: for a name of no figure; the message lists those that there are.
    """
    panels = _panels_named(found, name)
    return standardised(found) if name == ALL_CLAIMS else pd.concat([p.rows for p in panels], ignore_index=True)


def _panels_named(found: Replication, name: str) -> list[Panel]:
    """The panels of an experiment, or the one of a claim; none of all claims."""
    found = drawable_replication(found)
    every = {e["id"]: panels_of(found, e["id"]) for e in found.info["experiments"]}
    names: dict[str, list[Panel]] = {ALL_CLAIMS: [], **{e: panels for e, panels in every.items() if panels}}
    names |= {claim: [panel] for panels in every.values() for panel in panels for claim in panel.claims}
    if name not in names:
        raise InputError(f"no figure {shown(name)}{near(name, names)}; there are {', '.join(names)}")
    return names[name]
