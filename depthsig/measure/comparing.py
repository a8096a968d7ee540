"""Metrics of an output beside the model's own: all fused quantities in one pass, and functions that have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from depthsig.checkpoint.anatomy.readout import Readout
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import sizes
from depthsig.engine.network import Network
from depthsig.engine.room.halving import in_halves
from depthsig.measure.blocks.reference import BlockReference
from depthsig.measure.calling import call, held, wide
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.comparison import Reference
from depthsig.metrics.distributions import TopTokens
from depthsig.metrics.quantities import AT_THE_END, OF_SEVERAL

Values = dict[str, "Tensor | TopTokens"]
"""By id, a value a row of each metric."""


def quantities(entries: Sequence[Metric]) -> frozenset[str]:
    """What a comparison must compute for these metrics."""
    fused = [one.fused for one in entries if one.fused]
    return frozenset(q for name in fused for q in OF_SEVERAL.get(name, (name,)))


Found = TypeVar("Found")

READ_OUT = "rows"
"""What readouts are halved by."""


@dataclass
class Desk:
    """Where a model's states are read out, ``rows`` at a time.

    On a CPU into buffers in float32 that are used again: two or three of [rows, vocab] are all there is.
    Elsewhere as the head gives them, in its own dtype.
    """

    network: Network
    rows: int
    _buffers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def whole(self) -> bool:
        """Whether rows are compared all at once."""
        return sizes(self.network.device).whole_blocks

    def read(self, name: str, readout: Readout, hidden: Float[Tensor, "row d"]) -> Float[Tensor, "row vocab"]:
        """Logits of states; those that were read under this name before are lost."""
        return readout(hidden) if self.whole else readout.into(hidden, self.space(name, len(hidden)))

    def against(
        self, final: Float[Tensor, "row vocab"], targets: Int[Tensor, "row"], entries: Sequence[Metric]
    ) -> Against:
        """The model's own readout, which is taken over."""
        return Against(final, targets, entries, self)

    def in_chunks(self, where: Where, read: Callable[[Where], Found]) -> Iterator[tuple[Where, Found]]:
        """Some tokens at a time, with what ``read`` gives for them; fewer where a card's memory runs out."""
        for chunk in where.chunks(self.rows):

            def of(first: int, last: int, chunk: Where = chunk) -> tuple[Where, Found]:
                part = chunk.part(first, last)
                return part, read(part)

            yield from in_halves(self.network.module, READ_OUT, len(chunk), 1, of)

    def space(self, name: str, rows: int) -> Float[Tensor, "row vocab"]:
        """Memory that is used again and again: fresh pages would cost more than the arithmetic."""
        if name not in self._buffers:
            shape = (self.rows, self.network.readout.vocab)
            self._buffers[name] = torch.empty(shape, dtype=torch.float32, device=self.network.device)
        return self._buffers[name][:rows]


class Against:
    """The model's own readout of some tokens, that others are compared with.

    Args:
        final: logits, which are taken over; on a CPU in float32, and changed.
        entries: all metrics that will be asked for.
        desk: where they were read out; None: alone, in a CPU's way.
    """

    def __init__(
        self, final: Float[Tensor, "row vocab"], targets: Int[Tensor, "row"], entries: Sequence[Metric],
        desk: Desk | None = None,
    ) -> None:  # fmt: skip
        self.targets, self.desk = targets, desk
        whole, plain = desk is not None and desk.whole, any(not one.fused for one in entries)
        wanted = quantities(entries)
        self.final = None if not plain else wide(final) if whole else final.clone()
        self.reference: Reference | BlockReference | None = None
        if wanted and whole:
            self.reference = BlockReference(final, targets, wanted)
        elif wanted:
            probs = None if desk is None else desk.space("probs", len(final))
            self.reference = Reference(final, targets, wanted, probs)

    def values(self, entries: Sequence[Metric], logits: Float[Tensor, "row vocab"], **more: Any) -> Values:
        """By id, a value a row of each metric; ``logits`` may be overwritten.

        Args:
            more: what else the run offers.
        """
        found = self._plain(entries, len(logits), {"logits": logits, **more})
        if self.reference is not None and (wanted := quantities(entries)):
            leave_out = self.reference.wanted - wanted
            found |= _of_entries(entries, self.reference.compare(logits, leave_out=leave_out))
        return found

    def at_the_end(self, entries: Sequence[Metric], **more: Any) -> Values:
        """The model's own output beside itself: divergences are 0 and not rounding."""
        found = self._plain(entries, len(self.targets), {"logits": self.final, **more})
        if self.reference is not None and (wanted := quantities(entries)):
            leave_out = self.reference.wanted - wanted
            if isinstance(self.reference, BlockReference):
                values = self.reference.compare_itself(leave_out)
            else:
                rows = len(self.targets)
                space = torch.empty_like(self.reference.logits) if self.desk is None else self.desk.space("lens", rows)
                values = self.reference.compare_itself(leave_out, space)
            exact = {q: v for q, v in AT_THE_END.items() if q in wanted}
            values |= {q: torch.full(self.targets.shape, v, device=self.targets.device) for q, v in exact.items()}
            if "loss" in values:
                values["loss"] = values["loss"].masked_fill(self.targets < 0, float("nan"))
            found |= _of_entries(entries, values)
        return found

    def _plain(self, entries: Sequence[Metric], rows: int, offered: dict[str, Any]) -> Values:
        """Of the metrics without a fused quantity; those of tokens may give several a row."""
        plain, found = [one for one in entries if not one.fused], Values()
        if not plain:
            return found
        offered = {**offered, "logits": wide(offered["logits"]), "final": self.final, "targets": self.targets}
        for one in plain:
            value = call(one, offered)
            found[one.id] = value if isinstance(value, TopTokens) else held(one, value, rows)
        return found


class OutputComparison:
    """Compares last states of edited runs with the clean run's, some rows at a time.

    Args:
        entries: metrics of ``logits``, ``final`` and ``targets``; final is the clean run's.
        rows: rows read out at a time.
    """

    def __init__(self, network: Network, entries: Sequence[Metric], rows: int) -> None:
        self.network, self.entries, self.desk = network, entries, Desk(network, rows)

    def compare(
        self, last: Float[Tensor, "prompt token d"], where: Where, edited: Sequence[Float[Tensor, "prompt token d"]]
    ) -> dict[str, Float[Tensor, "_token edit"]]:
        """By id, every metric at every measured token, a column an edited run, in float64 on their device."""
        if not self.entries or not len(where) or not len(edited):
            empty = torch.full((len(where), len(edited)), float("nan"), dtype=torch.float64, device=last.device)
            return {one.id: empty for one in self.entries}

        def columns(chunk: Where, against: Against) -> dict[str, Tensor]:
            found = list(self._read(against, chunk, edited))
            return {one.id: stacked(found, one.id) for one in self.entries}

        return self._in_chunks(last, where, columns)

    def of_itself(self, last: Float[Tensor, "prompt token d"], where: Where) -> dict[str, Float[Tensor, "_token"]]:
        """By id, every metric of the clean output beside itself."""

        def column(_: Where, against: Against) -> dict[str, Tensor]:
            values = against.at_the_end(self.entries)
            return {one.id: stacked([values], one.id)[:, 0] for one in self.entries}

        with undisturbed(self.network.module):
            return self._in_chunks(last, where, column)

    def _in_chunks(
        self, last: Float[Tensor, "prompt token d"], where: Where, values: Callable[[Where, Against], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """By id, what ``values`` gives for some rows at a time, beside the clean output."""

        def of(chunk: Where) -> dict[str, Tensor]:
            with undisturbed(self.network.module):
                final = self.desk.read("final", self.network.readout, chunk.take(last))
                against = self.desk.against(final, chunk.targets, self.entries)
            return values(chunk, against)

        pieces = [found for _, found in self.desk.in_chunks(where, of)]
        return {one.id: torch.cat([piece[one.id] for piece in pieces]) for one in self.entries}

    def _read(
        self, against: Against, chunk: Where, states: Sequence[Float[Tensor, "prompt token d"]]
    ) -> Iterator[Values]:
        """Several edits' rows in one readout where one edit has few."""
        n = len(chunk)
        together = max(1, self.desk.rows // n)

        def read(some: Sequence[Tensor], first: int, last: int) -> list[Values]:
            with undisturbed(self.network.module):
                rows = torch.cat([chunk.take(state) for state in some[first:last]])
                logits = self.desk.read("lens", self.network.readout, rows)
                return [against.values(self.entries, logits[i * n : (i + 1) * n]) for i in range(last - first)]

        for first in range(0, len(states), together):
            some = states[first : first + together]
            for found in in_halves(self.network.module, READ_OUT, len(some), n, partial(read, some)):
                yield from found


def _of_entries(entries: Sequence[Metric], values: dict[str, Tensor]) -> Values:
    return {
        one.id: TopTokens(*(values[q] for q in OF_SEVERAL[one.fused])) if one.fused in OF_SEVERAL else values[one.fused]
        for one in entries
        if one.fused
    }


def stacked(found: Sequence[Values], name: str) -> Float[Tensor, "row cell"]:
    """One metric's values at all depths or edits, in float64."""
    columns = [values[name] for values in found]
    return torch.stack([c.double() for c in columns if isinstance(c, Tensor)], dim=1)
