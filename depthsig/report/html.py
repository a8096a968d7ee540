"""report.html: one self-contained page. Every token, prompt and name in it is escaped."""

from __future__ import annotations

import base64
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from depthsig.metrics.registry import all_metrics
from depthsig.report.figures import Drawn
from depthsig.report.period import general_scores, period_rows
from depthsig.signature import Signature

GROUPS = {
    "lens": "Logit lens", "tuned": "Tuned lens", "residual": "Residual stream", "contribution": "Contributions",
    "weights": "Weights", "skip": "Layer skip", "local": "Local effects", "order": "Order edits", "repeat": "Repeats",
    "erasure": "Erasure", "attribution": "Attribution", "loop": "Loop dynamics", "period": "Periodicity",
}  # fmt: skip


def render(signature: Signature, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text.

    Args:
        figures: drawn figures with the path of their SVG; the PNG beside it is embedded.
    """
    sections = [
        {"id": group, "title": GROUPS.get(group, group), "figures": [embedded(d, p) for d, p in items]}
        for group, items in groupby((f for f in figures if f[0].group != "plan"), key=lambda f: f[0].group)
    ]
    merged: dict[str, dict[str, Any]] = {}
    for section in sections:
        merged.setdefault(section["id"], {**section, "figures": []})["figures"] += section["figures"]
    plan = next((embedded(d, p) for d, p in figures if d.group == "plan"), None)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            info=signature.info,
            steps=len(signature.plan),
            prompts=signature.prompts,
            n_prompts=len(signature.prompts),
            tokens=int(signature.prompts["n_tokens"].sum()) if len(signature.prompts) else 0,
            plan=plan,
            sections=list(merged.values()),
            scores=score_rows(general_scores(signature.scores)),
            period=period_rows(signature),
            control=signature.control,
            definitions=_definitions(signature),
            command=command(signature.info),
        )
    )


def environment() -> jinja2.Environment:
    """Where the pages' templates are; whatever they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("depthsig.report", "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def embedded(drawn: Drawn, svg: Path) -> dict[str, Any]:
    """A figure as the templates show it, its PNG within."""
    data = base64.b64encode(svg.with_suffix(".png").read_bytes()).decode()
    wide = drawn.figure.get_size_inches()[0] > 5
    return {"name": drawn.name, "title": drawn.title, "caption": drawn.caption, "wide": wide,
            "source": f"data:image/png;base64,{data}"}  # fmt: skip


def score_rows(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Scores as text: value, interval and what they are about; a dash where undefined."""
    rows = []
    for score in scores.itertuples():
        entry = all_metrics().get(score.score)
        unit = f" {entry.unit}" if entry and entry.unit and pd.notna(score.value) else ""
        about = ", ".join(str(x) for x in (score.metric, score.part, score.scope) if x)
        rows.append({
            "score": str(score.score), "about": about, "agg": str(score.agg),
            "value": _number(score.value) + unit,
            "interval": f"[{_number(score.ci_low)}, {_number(score.ci_high)}]" if pd.notna(score.ci_low) else "–",
            "p": _number(score.p_value), "n": "–" if pd.isna(score.n_prompts) else str(score.n_prompts),
            "note": str(score.note),
        })  # fmt: skip
    return rows


def _number(value: Any) -> str:
    return "–" if pd.isna(value) else f"{float(value):.4g}"


def _definitions(signature: Signature) -> list[Any]:
    tables = (signature.profiles, signature.matrices, signature.tokens_table)
    used = {m for t in tables for m in t["metric"]} | set(signature.scores["score"])
    return [entry for entry in all_metrics().values() if entry.id in used]


def command(info: dict[str, Any]) -> str:
    """The command line that makes this result again."""
    options, pieces = info.get("options", {}), ["depthsig analyze", str(info["checkpoint"]["id"])]
    names = {"n": "-n", "max_tokens": "--max-tokens", "batch_size": "--batch-size", "keep_first": "--keep-first",
             "chat_template": "--chat-template"}  # fmt: skip
    for name, value in options.items():
        if name == "control" and value is False:
            pieces.append("--no-control")
        if value is None or value is False:
            continue
        option = names.get(name, f"--{name}")
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        pieces.append(option if value is True else f"{option} {shown}")
    return " ".join(pieces)
