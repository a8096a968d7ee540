"""Steps in other orders: exchanged, reversed, left out, exchanged by blocks, and run twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.edited import Cost, Work
from depthsig.engine.edits import Drop, Edit, Repeat, Reverse, Swap, compile_edit
from depthsig.engine.run import run_programs
from depthsig.plan.plan import Plan, SpanInfo
from depthsig.prompts import TokenPrompt

REVERSED = 4
"""Steps that ``order.reverse`` turns round; also the block of ``order.skip_block`` where none is declared."""

Cell = tuple[int, ...]


def block_span(plan: Plan) -> SpanInfo | None:
    """The span whose blocks are exchanged: the one of most steps, a declared one before others."""
    spans = [s for s in plan.spans if s.count > 1]
    return max(spans, key=lambda s: (s.source == "declared", s.end - s.start), default=None)


def order_edits(plan: Plan, wanted: frozenset[str]) -> dict[str, dict[Cell, Edit]]:
    """By metric (without its measure): the edit of every cell that is defined."""
    steps, span = len(plan), block_span(plan)
    size = span.size if span else REVERSED
    found: dict[str, dict[Cell, Edit]] = {
        "order.swap_next": {(s,): Swap(s, s + 1) for s in range(steps - 1)},
        "order.reverse": {(s,): Reverse(s, s + REVERSED) for s in range(steps - REVERSED + 1)},
        "order.skip_block": {(s,): Drop(s, s + size) for s in range(steps - size + 1)},
        "order.swap_blocks": _block_swaps(span) if span else {},
    }
    return {name: cells for name, cells in found.items() if cells and wanted & {f"{name}.kl", f"{name}.loss"}}


def _block_swaps(span: SpanInfo) -> dict[Cell, Edit]:
    at = [span.start + i * span.size for i in range(span.count)]
    return {(i, j): Swap(at[i], at[j], span.size) for i in range(span.count) for j in range(i + 1, span.count)}


def repeat_edits(plan: Plan, spans: Sequence[tuple[int, int]] | None = None) -> dict[Cell, Edit]:
    """The edit of every span of layers (start, end) that the plan runs once, in order and together.

    Args:
        spans: only these, in layers.
    """
    found: dict[Cell, Edit] = {}
    layers = plan.layers
    for first, layer in enumerate(layers):
        if layers.count(layer) != 1:
            continue
        for last in range(first, len(layers)):
            if layers[last] != layer + last - first or layers.count(layers[last]) != 1:
                break
            cell = (layer, layers[last] + 1)
            if spans is None or cell in spans:
                found[cell] = Repeat(first, last + 1, times=2)
    return found


@dataclass
class OrderJob:
    """``order.*``: KL and loss of every edit."""

    wanted: frozenset[str]
    plan: Plan
    name: str = "order"
    needs_parts: bool = False
    needs_means: bool = False

    def cost(self, steps: int, prompt: TokenPrompt) -> Cost:
        """Every edit from its first step on."""
        edits = [e for cells in order_edits(self.plan, self.wanted).values() for e in cells.values()]
        return Cost(len(edits), sum(steps - e.span()[0] for e in edits), len(edits))  # type: ignore[attr-defined]

    def run(self, work: Work, samples: Samples, rows: list[dict[str, Any]]) -> None:
        """Measure one batch."""
        steps = len(self.plan)
        for name, cells in order_edits(self.plan, self.wanted).items():
            span = block_span(self.plan)
            shape = (span.count, span.count) if name == "order.swap_blocks" and span else (steps,)
            quantities = {m: q for m, q in (("kl", "kl_reverse"), ("loss", "loss")) if f"{name}.{m}" in self.wanted}
            found = measure_edits(work, cells, shape, frozenset(quantities.values()))
            for measure, quantity in quantities.items():
                values = found[quantity]
                if len(shape) == 2:
                    values = _symmetric(values)
                samples.add(Key(f"{name}.{measure}"), values, work.where().prompts)


@dataclass
class RepeatJob:
    """``repeat.loss`` over every span of layers."""

    plan: Plan
    n_layers: int
    name: str = "repeat"
    needs_parts: bool = False
    needs_means: bool = False

    def cost(self, steps: int, prompt: TokenPrompt) -> Cost:
        """Every span from its own first step on: the first pass over it is the clean run's."""
        edits = list(repeat_edits(self.plan).values())
        return Cost(len(edits), sum(steps - e.span()[0] for e in edits), len(edits))  # type: ignore[attr-defined]

    def run(self, work: Work, samples: Samples, rows: list[dict[str, Any]]) -> None:
        """Measure one batch; column ``end − 1`` holds the exclusive end."""
        cells: dict[Cell, Edit] = {(start, end - 1): edit for (start, end), edit in _spans(self.plan)}
        found = measure_edits(work, cells, (self.n_layers, self.n_layers), frozenset({"loss"}))
        samples.add(Key("repeat.loss"), found["loss"], work.where().prompts)


def _spans(plan: Plan) -> list[tuple[tuple[int, int], Edit]]:
    return [((cell[0], cell[1]), edit) for cell, edit in repeat_edits(plan).items()]


def measure_edits(
    work: Work, cells: dict[Cell, Edit], shape: tuple[int, ...], quantities: frozenset[str]
) -> dict[str, np.ndarray]:
    """By quantity, [token, *shape]: every edit in its cell, NaN elsewhere."""
    where, keys = work.where(), list(cells)
    programs = [compile_edit(cells[k], len(work.model.plan)) for k in keys]
    comparison = work.outputs(quantities)
    found = {q: np.full((len(where), *shape), np.nan) for q in quantities}
    for numbers, states in run_programs(work.clean, programs, memory=work.budget.states):
        values = comparison.compare(work.clean.state(len(work.model.plan)), where, list(states))
        for quantity, columns in values.items():
            for column, number in enumerate(numbers):
                np.moveaxis(found[quantity], 0, -1)[keys[number]] = columns[:, column]
        work.done(len(numbers))
    return found


def _symmetric(values: np.ndarray) -> np.ndarray:
    """The upper triangle mirrored; exchanging a block with itself changes nothing."""
    out = np.fmax(values, values.swapaxes(-1, -2))
    index = np.arange(values.shape[-1])
    defined = ~np.isnan(values).all(axis=(-1, -2))
    out[..., index, index] = np.where(defined[:, None], 0.0, np.nan)
    return out
