"""The plan: which layer runs when, and what each run belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from numpy import ndarray

from depthsig.errors import InputError
from depthsig.notebook import lines_as_html, plan_strip

COLUMNS = ("step", "layer", "iteration", "span", "block", "phase", "outer", "boundary")
MOST_SPANS, MOST_NOTES = 8, 10
"""Of a plan in words."""


@dataclass(frozen=True)
class Step:
    """One execution of one layer; ``None`` where a label does not apply.

    ``boundary``: what the model does between the previous step and this one, a norm or an injection.
    """

    step: int
    layer: int
    iteration: int
    span: str | None = None
    block: int | None = None
    phase: int | None = None
    outer: int | None = None
    boundary: str | None = None


@dataclass(frozen=True)
class SpanInfo:
    """A span of steps with its block size: ``kind`` is ``loop`` or ``grown``.

    ``executed`` is False for a loop that was declared but that the trace sees run once.
    """

    start: int
    end: int
    size: int
    kind: str
    executed: bool = True
    source: str = "trace"

    @property
    def count(self) -> int:
        """How many blocks the span holds."""
        return (self.end - self.start) // self.size

    def __str__(self) -> str:
        note = "" if self.executed or self.kind == "grown" else " (declared, not executed)"
        return f"{self.kind} {self.start}:{self.end}, {self.count} x {self.size}{note}"


@dataclass(frozen=True)
class Plan:
    """The executed steps in order, with their labels; prints as a line, and :meth:`frame` is the table."""

    steps: tuple[Step, ...]
    spans: tuple[SpanInfo, ...] = ()
    n_layers: int = 0
    order: str | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer of every step."""
        return tuple(step.layer for step in self.steps)

    def loops_that_run(self, families: Sequence[str] = ()) -> list[SpanInfo]:
        """The loops that really run.

        Args:
            families: of the metrics that need one, for the message.

        Raises:
            InputError: if there is none.
        """
        found = [span for span in self.spans if span.kind == "loop" and span.executed and span.count > 1]
        if not found:
            needing = " and ".join(dict.fromkeys(f"{family}.*" for family in families)) or "these metrics"
            raise InputError(
                f"{needing} need a loop that runs, and this plan has none ({self}); a model that loops, or an "
                "--order such as 0:4,4:8x4,8:12, has one"
            )
        return found

    def records(self) -> list[dict]:
        """One dictionary a step, as ``signature.json`` keeps them."""
        rows = [asdict(step) for step in self.steps]
        unused = [k for k in ("outer", "boundary") if all(row[k] is None for row in rows)]
        return [{k: v for k, v in row.items() if k not in unused} for row in rows]

    def frame(self) -> pd.DataFrame:
        """The steps as a table (integer columns nullable)."""
        frame = pd.DataFrame(self.records())
        for column in frame.columns.difference(["span", "boundary"]):
            frame[column] = frame[column].astype("Int64")
        return frame

    def __str__(self) -> str:
        head = f"{len(self)} steps over {self.n_layers} layers"
        spans = "; ".join(str(span) for span in self.spans[:MOST_SPANS])
        more = len(self.spans) - MOST_SPANS
        return head + (f"; {spans}" if spans else "") + (f"; and {more} more spans" if more > 0 else "")

    def __repr__(self) -> str:
        notes = "".join(f"\n  {note[:160]}" for note in self.notes[:MOST_NOTES])
        more = len(self.notes) - MOST_NOTES
        return f"Plan: {self}{notes}" + (f"\n  and {more} more notes" if more > 0 else "")

    def _repr_html_(self) -> str:
        return lines_as_html(repr(self)) + plan_strip(self.records())


def build_plan(layers: Sequence[int], n_layers: int, order: str | None = None, boundaries: Sequence[str] = ()) -> Plan:
    """Plan of an executed sequence of layers, with the loops that the sequence itself shows.

    A loop is a stretch of steps that repeats the same layers at once: the innermost one names a
    step's span, block and phase; where loops nest, ``outer`` counts the enclosing one.

    Args:
        boundaries: for every step, what happens between the previous step and it; empty for nothing.

    >>> print(build_plan([0, 1, 2, 1, 2, 3], 4))
    6 steps over 4 layers; loop 1:5, 2 x 2
    """
    seen: dict[int, int] = {}
    steps = []
    for index, layer in enumerate(layers):
        between = boundaries[index] if index < len(boundaries) else ""
        steps.append(Step(index, layer, seen.get(layer, 0), boundary=between or None))
        seen[layer] = seen.get(layer, 0) + 1
    inner = find_loops(tuple(layers))
    outer = _outer_loops(tuple(layers), inner)
    for span in outer:
        steps = _label(steps, span, nested=any(_inside(i, span) for i in inner))
    for span in inner:
        steps = _label(steps, span)
    return Plan(tuple(steps), tuple(sorted(inner + outer, key=lambda s: s.start)), n_layers, order)


def find_loops(layers: tuple[int, ...]) -> list[SpanInfo]:
    """Immediate repetitions in a sequence of layers, smallest block first, left to right."""
    found, start = [], 0
    while start < len(layers):
        span = _loop_at(layers, start)
        if span is None:
            start += 1
        else:
            found.append(span)
            start = span.end
    return found


def _loop_at(layers: tuple[int, ...], start: int) -> SpanInfo | None:
    seen = set()
    for size in range(1, (len(layers) - start) // 2 + 1):
        # A block that itself repeats a layer holds an inner loop; that one is found first.
        if layers[start + size - 1] in seen:
            return None
        seen.add(layers[start + size - 1])
        if layers[start + size] != layers[start]:
            continue
        block, count = layers[start : start + size], 1
        while layers[start + count * size : start + (count + 1) * size] == block:
            count += 1
        if count > 1:
            return SpanInfo(start, start + count * size, size, "loop")
    return None


def _outer_loops(layers: tuple[int, ...], inner: list[SpanInfo]) -> list[SpanInfo]:
    """The longest loop around loops: a repetition that holds at least one inner loop in every pass.

    Block size by block size, all starts at once: an order of thousands of steps must not take minutes.
    """
    if not inner:
        return []
    run, size_of = np.asarray(layers), np.array([i.end - i.start for i in inner])
    starts, ends = np.array([i.start for i in inner]), np.array([i.end for i in inner])
    again = _first_repeats(layers)
    best: tuple[int, int, int] | None = None
    # Two passes of one inner loop's own block are that loop again, not an outer one: a block is no shorter than one.
    for size in range(max(2, int(size_of.min())), len(layers) // 2 + 1):
        counts = 1 + _run_lengths(run[:-size] == run[size:]) // size
        at = np.flatnonzero((counts > 1) & (again[: len(counts)] < np.arange(len(counts)) + size))
        held = size_of <= size
        following = np.searchsorted(starts[held], at)
        first_end = np.append(ends[held], len(layers) + 1)[following]
        at = at[first_end <= at + counts[at] * size]
        if len(at):
            start = int(at[counts[at].argmax()])
            found = (-int(counts[start]) * size, start, size)
            best = found if best is None else min(best, found)
    return [] if best is None else [SpanInfo(best[1], best[1] - best[0], best[2], "loop")]


def _first_repeats(layers: tuple[int, ...]) -> Int[ndarray, "step"]:
    """For every step, the first later place at which a layer comes that came since that step."""
    found, following = np.full(len(layers), len(layers)), dict[int, int]()
    for index in range(len(layers) - 1, -1, -1):
        later = found[index + 1] if index + 1 < len(layers) else len(layers)
        found[index] = min(later, following.get(layers[index], len(layers)))
        following[layers[index]] = index
    return found


def _run_lengths(same: Bool[ndarray, "step"]) -> Int[ndarray, "step"]:
    """For every place, how many in a row are true from it on."""
    place = np.arange(len(same))
    end = np.where(same, len(same), place)
    return np.minimum.accumulate(end[::-1])[::-1] - place


def _inside(inner: SpanInfo, outer: SpanInfo) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _label(steps: list[Step], span: SpanInfo, nested: bool = False) -> list[Step]:
    out = list(steps)
    for index in range(span.start, span.end):
        block, phase = divmod(index - span.start, span.size)
        outer = block if nested else out[index].outer
        name = f"{span.start}:{span.end}"
        out[index] = replace(out[index], span=name, block=block, phase=phase, outer=outer)
    return out


def with_span(plan: Plan, span: SpanInfo) -> Plan:
    """The plan with one more span, whose labels win over what was there."""
    steps = _label(list(plan.steps), span)
    return replace(plan, steps=tuple(steps), spans=(*plan.spans, span))
