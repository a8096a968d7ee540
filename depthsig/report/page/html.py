"""The page of a signature. Every token, prompt and name in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.metrics import Metric
from depthsig.metrics.rules import COMBINED
from depthsig.report.gallery import PERIODICITY, PLAN, Drawn
from depthsig.report.page.chart_data import place
from depthsig.report.page.glance import glance
from depthsig.report.page.page_data import page_data
from depthsig.report.page.templates import embedded, number, page
from depthsig.report.period_tables import general_scores, period_rows
from depthsig.signature import Signature
from depthsig.signature.provenance import again
from depthsig.signature.records import SignatureRecord, as_record
from depthsig.terms import described

MOST_PICTURES = 1_300_000
"""Characters of print figures that a page holds, so that it opens at once; the folder ``figures`` has all."""


def render(signature: Signature, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text.

    Args:
        figures: drawn figures with the path of the file that the page shows, which is embedded.
    """
    data = page_data(signature)
    shown = _within_size(figures, [*data["metrics"], *data["tokens"]])
    sections: dict[str, dict[str, Any]] = {s["title"]: {**s, "figures": [], "left_out": 0} for s in data["sections"]}
    for drawn, path in figures:
        if drawn.group not in (PLAN, PERIODICITY):
            new = {"id": place(drawn.group), "title": drawn.group, "figures": [], "left_out": 0}
            section = sections.setdefault(drawn.group, new)
            if drawn.name in shown:
                section["figures"].append(embedded(drawn, path))
            else:
                section["left_out"] += 1
    findings, info = signature.findings(), as_record(signature.info, SignatureRecord)
    return page(
        "report.html.j2",
        data,
        info=info,
        findings=findings,
        short=glance(findings, info.warnings),
        steps=len(signature.plan),
        prompts=signature.prompts,
        n_prompts=len(signature.prompts),
        tokens=int(signature.prompts["n_tokens"].sum()) if len(signature.prompts) else 0,
        plan=next((embedded(d, p) for d, p in figures if d.group == PLAN), None),
        sections=list(sections.values()),
        scores=score_rows(general_scores(signature.scores), signature.entries),
        period=period_rows(signature),
        period_figures=[embedded(d, p) for d, p in figures if d.group == PERIODICITY],
        control=signature.control,
        definitions=_definitions(signature),
        again=again(signature.info),
    )


def _within_size(figures: list[tuple[Drawn, Path]], alive: list[str]) -> set[str]:
    """Names of the figures that fit onto a page: first those of which it has no chart."""
    room, shown = MOST_PICTURES, set()
    for drawn, path in sorted(figures, key=lambda one: one[0].name.startswith(tuple(alive))):
        room -= path.stat().st_size * 4 // 3
        if room >= 0:
            shown.add(drawn.name)
    return shown


def score_rows(scores: pd.DataFrame, entries: Mapping[str, Metric]) -> list[dict[str, str]]:
    """Scores as text: value, interval and what they are about; a dash where undefined."""
    rows = []
    for score in scores.itertuples():
        entry = entries.get(score.score)
        unit = f" {entry.unit}" if entry and entry.unit and pd.notna(score.value) else ""
        about = described(score.metric, score.part, score.scope)
        rows.append({
            "score": str(score.score), "about": about, "agg": str(score.agg),
            "value": "–" if score.score == COMBINED else number(score.value) + unit,  # it is a p
            "interval": f"[{number(score.ci_low)}, {number(score.ci_high)}]" if pd.notna(score.ci_low) else "–",
            "p": number(score.p_value), "n": "–" if pd.isna(score.n_prompts) else str(score.n_prompts),
            "note": str(score.note),
        })  # fmt: skip
    return rows


def _definitions(signature: Signature) -> list[Metric]:
    tables = (signature.profiles, signature.matrices, signature.tokens_table)
    used = {m for t in tables for m in t["metric"]} | set(signature.scores["score"])
    return [entry for entry in signature.entries.values() if entry.id in used]
