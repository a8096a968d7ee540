"""Writes the metric reference from the entries while mkdocs builds, and brings in pages that lie elsewhere."""

from __future__ import annotations

from typing import Any

MARK = "<!-- metrics -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page asks for it."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """One section a metric: label, unit, formula, axes, kind of run, what its function asks for, source."""
    from depthsig.metrics import all_metrics  # lazily: mkdocs also loads this file where no page asks

    return "\n\n".join(section(entry) for entry in all_metrics().values())


def section(entry: Any) -> str:
    """The section of one metric."""
    axes = " × ".join(entry.cells) or "none"
    lines = {
        "what": f"{entry.label}{f' [{entry.unit}]' if entry.unit else ''}",
        "definition": f"`{entry.formula}`",
        "kind": f"{entry.kind}, axes: {axes}",
        "run": f"{entry.on}: {entry.run.says}" if entry.measured else f"made of other entries ({entry.on})",
        "needs": ", ".join(f"`{name}`" for name in (*entry.needs, *entry.asks())) or "nothing",
        "asked for by": ", ".join(f"`--metrics {group}`" for group in entry.groups) or f"`--metrics {entry.id}`",
        "source": entry.source or "depthsig",
    }
    return f"### `{entry.id}`\n\n" + "\n".join(f"- **{key}**: {text}" for key, text in lines.items())
