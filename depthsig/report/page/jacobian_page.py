"""The page of a Jacobian lens: how spread out each depth's Jacobian is, and how like that of the next pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from depthsig.report.page import chart_data as charts
from depthsig.report.page.glance import Answer
from depthsig.report.page.templates import number, page
from depthsig.signature.records import LensDepth, LensRecord

_HEAD = ("depth", "layer", "iteration", "phase", "participation", "kurtosis", "cosine to the next pass")
_NUMBERS = {
    "participation": (
        "participation ratio",
        "(Σσ²)²/Σσ⁴, σ the singular values of J",
    ),
    "kurtosis": ("excess kurtosis", "m₄/m₂² − 3 of the entries of J: 0 for normal ones"),
    "cosine_to_next_pass": ("cosine to the next pass", "⟨J, J′⟩/(‖J‖‖J′‖) with J′ of the same phase one pass later"),
}


def render(info: LensRecord) -> str:
    """The page as text; every name in it is escaped."""
    rows = [[str(v) if isinstance(v, int) else _number(v) for v in _row(d)] for d in info.depths]
    return page(
        "jacobian.html.j2", jacobian_data(info), info=info, short=jacobian_in_short(info), depths=(_HEAD, rows),
        options=[(name, value) for name, value in info.options.items() if value is not None],
    )  # fmt: skip


def jacobian_data(info: LensRecord) -> dict[str, Any]:
    """Each number of the Jacobians by depth; one that no depth has is left out.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; what can be marked is a step.
    """
    depths, none, metrics = [d.depth for d in info.depths], [np.nan] * len(info.depths), {}
    for name, (label, formula) in _NUMBERS.items():
        values = [_value(getattr(d, name)) for d in info.depths]
        if np.isfinite(values).any():
            drawn = charts.line(depths, values, none, none, charts.own_scale(values, margin=0.05))
            metrics[label] = charts.chart(label, "series", [drawn], axis="depth", formula=formula)
    plan = [{"step": d.depth, "layer": d.layer} for d in info.depths]
    name = str(info.checkpoint.id or "")
    return charts.record(name, metrics, [charts.section("depths", "Depths", list(metrics))], plan=plan)


def jacobian_in_short(info: LensRecord) -> list[Answer]:
    """Where the fewest directions are carried on, whether passes do alike, and on what that rests."""
    answers = []
    known = [d for d in info.depths if d.participation is not None]
    if known:
        least = min(known, key=lambda d: d.participation or 0.0)
        text = f"By participation of singular values, at depth {least.depth} (before layer {least.layer})."
        few = f"Some {number(least.participation or 0.0)} directions"
        answers.append(Answer("Where are the fewest directions carried on?", few, "open", text))
    cosines = [d.cosine_to_next_pass for d in info.depths if d.cosine_to_next_pass is not None]
    if cosines:
        text = f"Cosine of J with that of the same phase one pass later, from {min(cosines):.2f} to {max(cosines):.2f}."
        answers.append(Answer("Do passes carry states on alike?", f"{np.mean(cosines):.2f} on average", "open", text))
    rest = f"Each takes {info.tokens.train:,} positions together, after leading ones and without the last."
    answers.append(Answer("What does it rest on?", f"{info.n_prompts:,} prompts", "open", rest))
    return answers


def _row(depth: LensDepth) -> list[int | float | None]:
    return [depth.depth, depth.layer, depth.iteration, depth.phase,
            depth.participation, depth.kurtosis, depth.cosine_to_next_pass]  # fmt: skip


def _value(found: float | None) -> float:
    return np.nan if found is None else found


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)
