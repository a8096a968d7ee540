"""Which of a signature's spans a period is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TestedSpan:
    """The span whose period is tested, in steps; ``layer`` is where it starts in layers, if grown."""

    start: int
    block: int
    count: int
    kind: str
    layer: int | None
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.start}:{self.start + self.block * self.count}, {self.count} x {self.block}"


def choose_span(info: dict[str, Any]) -> TestedSpan | None:
    """The span to test, from a signature's record; None where nothing is declared or observed.

    Spans that allow a test (3 blocks of 2 or more steps) come first, then declared before observed
    ones, then longer ones.
    """
    spans = [*info["spans"].get("executed", ()), *info["spans"].get("labelled", ())]
    if not spans:
        return None
    ordered = sorted(
        spans, key=lambda s: (s["size"] < 2 or s["count"] < 3, s["source"] == "trace", s["start"] - s["end"])
    )
    best, *rest = ordered
    layer = int(info["plan"][best["start"]]["layer"]) if best["kind"] == "grown" else None
    others = tuple(f"{s['kind']} {s['start']}:{s['end']}, {s['count']} x {s['size']}" for s in rest)
    return TestedSpan(best["start"], best["size"], best["count"], best["kind"], layer, others)
