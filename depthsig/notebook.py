"""Small pictures for notebooks: a plan as a strip, numbers as a line, rows as a table. HTML alone, all text escaped."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

# Okabe & Ito 2008, lightened, so that a layer's number is readable on every one.
_BLOCKS = ("#8ec3e6", "#f2b98a", "#86d0b5", "#e6bcd3", "#f3cf80", "#bfe0f5")
_NO_BLOCK = "#dddddd"
_LINE = "#0072B2"

STRIP_STEPS = 256
"""Steps of a strip: what more there are is said in words."""
MOST_POINTS = 256
"""Points of a line: of a longer one, every k-th is drawn."""


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this (an IPython terminal is none)."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return running is not None and hasattr(running, "kernel")


def plan_strip(steps: Sequence[Mapping[str, Any]]) -> str:
    """One cell a step with its layer's number, coloured by block.

    Args:
        steps: with ``layer``, ``block`` and ``step``, as ``signature.json`` keeps them.
    """
    drawn = steps[:STRIP_STEPS]
    cells = "".join(_cell(place, step) for place, step in enumerate(drawn))
    label = f"{len(steps)} steps; in the cells their layers, colours tell blocks apart"
    more = f"<p>and {len(steps) - len(drawn)} more steps</p>" if len(steps) > len(drawn) else ""
    width = 22 * len(drawn)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} 22" style="width:100%;max-width:{width}px">'
        f"<title>{label}</title>{cells}</svg>{more}"
    )


def _cell(place: int, step: Mapping[str, Any]) -> str:
    block = step.get("block")
    colour = _NO_BLOCK if _absent(block) else _BLOCKS[int(block) % len(_BLOCKS)]  # type: ignore[arg-type]
    said = [f"{name} {step[name]}" for name in ("step", "layer", "iteration", "block") if not _absent(step.get(name))]
    return (
        f'<rect x="{22 * place}" y="0" width="21" height="22" fill="{colour}"><title>{escape(", ".join(said))}</title>'
        f'</rect><text x="{22 * place + 10.5}" y="15" font-size="10" text-anchor="middle" fill="#111" '
        f'style="pointer-events:none">{escape(str(step.get("layer", "")))}</text>'
    )


def _absent(value: Any) -> bool:
    return not isinstance(value, (int, float)) or math.isnan(value)


def sparkline(values: Sequence[float], label: str) -> str:
    """A line of numbers, from the lowest to the highest; what is undefined interrupts it."""
    every = max(1, math.ceil(len(values) / MOST_POINTS))
    shown = [float(value) for value in values][::every]
    there = [value for value in shown if math.isfinite(value)]
    low, high = (min(there), max(there)) if there else (0.0, 0.0)
    scale = high - low if 0 < high - low < math.inf else 1.0
    across = 116 / max(1, len(shown) - 1)
    pieces: list[list[str]] = [[]]
    for place, value in enumerate(shown):
        if math.isfinite(value):
            pieces[-1].append(f"{2 + across * place:.1f},{22 - 20 * (value - low) / scale:.1f}")
        elif pieces[-1]:
            pieces.append([])
    lines = "".join(
        f'<polyline points="{" ".join(points * 2 if len(points) == 1 else points)}" fill="none" stroke="{_LINE}" '
        'stroke-width="1.5" stroke-linecap="round"/>'
        for points in pieces
        if points
    )
    said = escape(f"{label}: {low:.3g} to {high:.3g}" if there else f"{label}: undefined", quote=True)
    return f'<svg role="img" aria-label="{said}" width="120" height="24" viewBox="0 0 120 24">{lines}</svg>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows of text under a head."""
    lines = [("th", head), *(("td", row) for row in rows)]
    inside = "".join(f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in row)}</tr>" for tag, row in lines)
    return f"<table>{inside}</table>"


def lines_as_html(text: str) -> str:
    """What ``print`` shows: the first line strong, each on its own."""
    first, *others = text.split("\n")
    rest = "".join(f"<br>{escape(line.strip())}" for line in others)
    return f"<p><b>{escape(first)}</b>{rest}</p>"
