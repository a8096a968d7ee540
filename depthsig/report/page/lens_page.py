"""The page of a fitted lens: how much nearer it comes to the model's output than the plain one, depth by depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from depthsig.findings.finding import plain
from depthsig.metrics import entry
from depthsig.metrics.rules import FITTED
from depthsig.report.page import chart_data as charts
from depthsig.report.page import jacobian_page
from depthsig.report.page.glance import Answer
from depthsig.report.page.templates import number, page
from depthsig.signature.folders.kinds import LENS, PAGE
from depthsig.signature.reading import read_as
from depthsig.signature.records import LensRecord, as_record

SCHEMA = "depthsig-lens/1"
_HEAD = ("depth", "layer", "plain lens [nats]", "tuned lens [nats]", "gain [nats]", "map kept")


def read(folder: Path) -> dict[str, Any]:
    """The record of a fitted lens.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    return read_as(folder / LENS, (SCHEMA,), LensRecord)


def draw(record: Mapping[str, Any], folder: Path) -> None:
    """The page into a folder that exists and has none."""
    (folder / PAGE).write_text(render(record), encoding="utf-8")


def render(record: Mapping[str, Any]) -> str:
    """The page as text; every name in it is escaped."""
    info = as_record(record, LensRecord)
    if info.kind == "jacobian":
        return jacobian_page.render(info)
    rows = [
        [str(d.depth), str(d.layer), _number(d.plain), _number(d.tuned), _number(_gain(d.plain, d.tuned)), d.kept]
        for d in info.depths
    ]
    return page(
        "lens.html.j2", lens_data(record), info=info, short=lens_in_short(info), depths=(_HEAD, rows),
        options=[(name, value) for name, value in info.options.items() if value is not None],
    )  # fmt: skip


def lens_data(record: Mapping[str, Any]) -> dict[str, Any]:
    """Held-out KL(p‖q_d) in nats by depth, with the plain and the tuned lens.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; what can be marked is a step.
    """
    info = as_record(record, LensRecord)
    kl = entry(FITTED)
    values = {name: [_value(getattr(d, name)) for d in info.depths] for name in ("plain", "tuned")}
    scale = charts.scale_of(kl, [*values["plain"], *values["tuned"]])
    scale["low"] = min([scale["low"], *(v for v in values["tuned"] if v > 0)])  # good lenses lie below the entry's end
    depths, none = [d.depth for d in info.depths], [np.nan] * len(info.depths)
    lines = [charts.line(depths, y, none, none, scale, name=f"{name} lens") for name, y in values.items()]
    chart = charts.about(kl) | {"lines": "lens", "label": "held-out KL to the final output", "series": lines}
    above = np.subtract(values["plain"], values["tuned"])
    gain = charts.line(depths, above, none, none, charts.own_scale(above, margin=0.05))
    formula = "KL with the plain lens, minus KL with the tuned one; above 0 the tuned one is nearer"
    gained = charts.chart(
        "gain over the plain lens", "series", [gain], unit="nats", axis="depth", centre=0.0, formula=formula
    )
    plan = [{"step": d.depth, "layer": d.layer} for d in info.depths]
    metrics = {"held-out KL": chart, "gain": gained}
    name = str(info.checkpoint.id or "")
    return charts.record(name, metrics, [charts.section("depths", "Depths", list(metrics))], plan=plan)


def lens_in_short(info: LensRecord) -> list[Answer]:
    """Is the tuned lens worth having, where most, and on what that rests."""
    known = [d for d in info.depths if d.plain is not None and d.tuned is not None]
    tokens = info.tokens
    rest = Answer(
        "What does it rest on?", f"{tokens.judged:,} held-out tokens", "open",
        f"Fitted to {tokens.train:,}. They chose among maps as well, so the gain is a little flattering.",
    )  # fmt: skip
    if not known:
        return [Answer("Is it nearer to the model's output?", "Open", "open", "Nothing was measured."), rest]
    plain_kl, tuned_kl = (float(np.mean([getattr(d, name) or 0.0 for d in known])) for name in ("plain", "tuned"))
    better = [d for d in known if (_gain(d.plain, d.tuned) or 0.0) > 0]
    most = max(known, key=lambda d: _gain(d.plain, d.tuned) or 0.0)
    text = f"Held-out KL falls from {plain(plain_kl)} to {plain(tuned_kl)} nats on average over depths;"
    text += f" it is nearer at {len(better)} of {len(known)} depths"
    text += f", most at depth {most.depth} (by {plain(_gain(most.plain, most.tuned) or 0.0)})." if better else "."
    answer, look = ("Yes", "pass") if len(better) == len(known) else ("At some depths", "open")
    if not better:
        answer, look = "No", "fail"
    return [Answer("Is it nearer to the model's output than the plain lens?", answer, look, text), rest]


def _gain(plain_kl: float | None, tuned_kl: float | None) -> float | None:
    return None if plain_kl is None or tuned_kl is None else plain_kl - tuned_kl


def _value(kl: float | None) -> float:
    return np.nan if kl is None else kl


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)
