"""``order.*`` and ``repeat``: steps exchanged, reversed, left out, exchanged by blocks, and run twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.engine.device import fetch
from depthsig.engine.edits import Drop, OrderEdit, Repeat, Reverse, Swap, compile_edit
from depthsig.engine.run import run_programs
from depthsig.measure.comparing import OutputComparison
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.providers import Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics import Metric
from depthsig.plan.plan import Plan, SpanInfo
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples

REVERSED = 4
"""Steps that are turned round; also the block that is left out where none is declared."""

Cell = tuple[int, ...]


@dataclass(frozen=True)
class Sweep:
    """Edits of one kind over the whole plan.

    Attributes:
        cells: the edit of every cell that is defined. shape: of all cells.
        symmetric: whether a cell's mirror image is the same edit, and the diagonal none.
    """

    cells: Mapping[Cell, OrderEdit]
    shape: tuple[int, ...]
    symmetric: bool = False


def block_span(plan: Plan) -> SpanInfo | None:
    """The span whose blocks are exchanged: the one of most steps, a declared one before others."""
    spans = [s for s in plan.spans if s.count > 1]
    return max(spans, key=lambda s: (s.source == "declared", s.end - s.start), default=None)


def _swaps(plan: Plan) -> Sweep:
    steps = len(plan)
    return Sweep({(s,): Swap(s, s + 1) for s in range(steps - 1)}, (steps,))


def _reversals(plan: Plan) -> Sweep:
    steps = len(plan)
    return Sweep({(s,): Reverse(s, s + REVERSED) for s in range(steps - REVERSED + 1)}, (steps,))


def _dropped_blocks(plan: Plan) -> Sweep:
    steps, span = len(plan), block_span(plan)
    size = span.size if span else REVERSED
    return Sweep({(s,): Drop(s, s + size) for s in range(steps - size + 1)}, (steps,))


def _block_swaps(plan: Plan) -> Sweep:
    span = block_span(plan)
    if span is None:
        return Sweep({}, (0, 0), symmetric=True)
    at = [span.start + i * span.size for i in range(span.count)]
    pairs = [(i, j) for i in range(span.count) for j in range(i + 1, span.count)]
    return Sweep({(i, j): Swap(at[i], at[j], span.size) for i, j in pairs}, (span.count, span.count), symmetric=True)


def _repeats(plan: Plan) -> Sweep:
    """Column ``end − 1`` holds the exclusive end."""
    cells: dict[Cell, OrderEdit] = {(start, end - 1): edit for (start, end), edit in repeat_edits(plan).items()}
    return Sweep(cells, (plan.n_layers, plan.n_layers))


_ORDERS: Mapping[str, Callable[[Plan], Sweep]] = {
    "swap_next": _swaps, "reverse": _reversals, "skip_block": _dropped_blocks, "swap_blocks": _block_swaps,
}  # fmt: skip
SWEEPS: Mapping[str, Callable[[Plan], Sweep]] = {
    **{".".join(("order", name)): made for name, made in _ORDERS.items()}, "repeat": _repeats,
}  # fmt: skip
"""The edits of every kind of run that changes the order of steps, by its full name."""


def repeat_edits(plan: Plan) -> dict[tuple[int, int], Repeat]:
    """The edit of every span of layers (start, end) that the plan runs once, in order and together."""
    found: dict[tuple[int, int], Repeat] = {}
    layers = plan.layers
    for first, layer in enumerate(layers):
        if layers.count(layer) != 1:
            continue
        for last in range(first, len(layers)):
            if layers[last] != layer + last - first or layers.count(layers[last]) != 1:
                break
            found[layer, layers[last] + 1] = Repeat(first, last + 1, times=2)
    return found


class Reordering:
    """Feeds metrics of the output under other orders of steps."""

    kinds: ClassVar[tuple[str, ...]] = tuple(name for name in SWEEPS if name != "repeat")
    needs_parts = False
    needs_means = False
    name = "order"
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work = work
        kinds = dict.fromkeys(one.on for one in entries)
        made = {kind: SWEEPS[kind](work.network.plan) for kind in kinds}
        self.sweeps = {kind: sweep for kind, sweep in made.items() if sweep.cells}
        self.entries = {kind: [one for one in entries if one.on == kind] for kind in self.sweeps}

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Every edit from its first step on; of a repeat, the first pass is the clean run's."""
        edits = [edit for sweep in self.sweeps.values() for edit in sweep.cells.values()]
        return Cost(len(edits), sum(self.work.steps - e.span()[0] for e in edits), len(edits))

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        for kind, sweep in self.sweeps.items():
            found = measure_sweep(batch, sweep, self.entries[kind])
            for name, values in found.items():
                samples.add(Key(name), values, batch.where().prompts)


class Repeating(Reordering):
    """Feeds metrics of the output with a span of layers run twice."""

    kinds: ClassVar[tuple[str, ...]] = ("repeat",)
    name = "repeat"


def measure_sweep(
    batch: EditedBatch, sweep: Sweep, entries: Sequence[Metric]
) -> dict[str, Float[ndarray, "_token *cell"]]:
    """By id, every metric of every edit in its cell, NaN elsewhere."""
    where, keys = batch.where(), list(sweep.cells)
    programs = [compile_edit(sweep.cells[k], batch.work.network.plan) for k in keys]
    comparison = OutputComparison(batch.work.network, entries, batch.budget.rows)
    found = {one.id: np.full((len(where), *sweep.shape), np.nan) for one in entries}
    for numbers, states in run_programs(batch.clean, programs, memory=batch.budget.states):
        values = fetch(comparison.compare(batch.last(), where, list(states)))
        for name, columns in values.items():
            for column, number in enumerate(numbers):
                np.moveaxis(found[name], 0, -1)[keys[number]] = columns[:, column]
        batch.done(len(numbers))
    if sweep.symmetric:
        own = fetch(comparison.of_itself(batch.last(), where))
        found = {name: _mirrored(values, own[name]) for name, values in found.items()}
    return found


def _mirrored(
    values: Float[ndarray, "token cell cell"], own: Float[ndarray, "token"]
) -> Float[ndarray, "token cell cell"]:
    """The upper triangle mirrored; exchanging a block with itself changes nothing."""
    out = np.fmax(values, values.swapaxes(-1, -2))
    index = np.arange(values.shape[-1])
    defined = ~np.isnan(values).all(axis=(-1, -2))
    out[..., index, index] = np.where(defined, own, np.nan)[:, None]
    return out
