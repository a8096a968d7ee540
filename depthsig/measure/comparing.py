"""Metrics of an output beside the model's own: all fused quantities in one pass, and functions that have none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import READOUT_ROWS
from depthsig.engine.network import Network
from depthsig.measure.calling import call, held
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.comparison import AT_THE_END, OF_SEVERAL, Reference
from depthsig.metrics.distributions import TopTokens


def quantities(entries: Sequence[Metric]) -> frozenset[str]:
    """What :class:`~depthsig.metrics.comparison.Reference` must compute for these metrics."""
    fused = [one.fused for one in entries if one.fused]
    return frozenset(q for name in fused for q in OF_SEVERAL.get(name, (name,)))


class Against:
    """The model's own readout of some tokens, that others are compared with.

    Args:
        final: float32 logits, which are taken over (and changed).
        entries: all metrics that will be asked for.
        probs: memory for the probabilities, where there is some.
    """

    def __init__(
        self, final: Float[Tensor, "row vocab"], targets: Int[Tensor, "row"], entries: Sequence[Metric],
        probs: Float[Tensor, "row vocab"] | None = None,
    ) -> None:  # fmt: skip
        self.targets = targets
        plain = [one for one in entries if not one.fused]
        self.final = final.clone() if plain else None
        wanted = quantities(entries)
        self.reference = Reference(final, targets, wanted, probs) if wanted else None

    def values(
        self, entries: Sequence[Metric], logits: Float[Tensor, "row vocab"], **more: Any
    ) -> dict[str, Tensor | TopTokens]:
        """By id, a value a row of each metric; ``logits`` are overwritten.

        Args:
            more: what else the run offers.
        """
        offered = {"logits": logits, "final": self.final, "targets": self.targets, **more}
        found = self._plain(entries, offered, len(logits))
        if self.reference is not None and (wanted := quantities(entries)):
            leave_out = self.reference.wanted - wanted
            found |= _of_entries(entries, self.reference.compare(logits, leave_out=leave_out))
        return found

    def at_the_end(
        self, entries: Sequence[Metric], space: Float[Tensor, "row vocab"], **more: Any
    ) -> dict[str, Tensor | TopTokens]:
        """The model's own output beside itself: divergences are 0 and not rounding.

        Args:
            space: memory that is overwritten.
        """
        offered = {"logits": self.final, "final": self.final, "targets": self.targets, **more}
        found = self._plain(entries, offered, len(self.targets))
        if self.reference is not None and (wanted := quantities(entries)):
            exact = frozenset(AT_THE_END) | (self.reference.wanted - wanted)
            values = self.reference.compare(space.copy_(self.reference.logits), leave_out=exact)
            values |= {q: self.reference.nll.new_full((len(space),), v) for q, v in AT_THE_END.items() if q in wanted}
            if "loss" in values:
                values["loss"] = values["loss"].masked_fill(self.targets < 0, float("nan"))
            found |= _of_entries(entries, values)
        return found

    @staticmethod
    def _plain(entries: Sequence[Metric], offered: dict[str, Any], rows: int) -> dict[str, Tensor | TopTokens]:
        """Of the metrics without a fused quantity; those of tokens may give several a row."""
        found: dict[str, Tensor | TopTokens] = {}
        for one in entries:
            if not one.fused:
                value = call(one, offered)
                found[one.id] = value if isinstance(value, TopTokens) else held(one, value, rows)
        return found


@dataclass
class OutputComparison:
    """Compares last states of edited runs with the clean run's, a few hundred rows at a time.

    Two or three buffers of [rows, vocab] are all there is.

    Attributes:
        entries: metrics of ``logits``, ``final`` and ``targets``; final is the clean run's.
        rows: rows read out at a time.
    """

    network: Network
    entries: Sequence[Metric]
    rows: int = READOUT_ROWS
    _buffers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def compare(
        self,
        last: Float[Tensor, "prompt token d"],
        where: Where,
        edited: Iterable[Float[Tensor, "prompt token d"]],
    ) -> dict[str, Float[ndarray, "_token edit"]]:
        """By id, every metric at every measured token, a column an edited run."""
        states = list(edited)
        found = {one.id: np.full((len(where), len(states)), np.nan) for one in self.entries}
        if not self.entries or not states:
            return found
        for start, chunk, against in self._chunks(last, where):
            for column, values in self._read(against, chunk, states):
                for name, value in values.items():
                    assert isinstance(value, Tensor)
                    found[name][start : start + len(chunk), column] = value.double().cpu().numpy()
        return found

    def of_itself(self, last: Float[Tensor, "prompt token d"], where: Where) -> dict[str, Float[ndarray, "_token"]]:
        """By id, every metric of the clean output beside itself."""
        found = {one.id: np.full(len(where), np.nan) for one in self.entries}
        for start, chunk, against in self._chunks(last, where):
            with undisturbed(self.network.module):
                values = against.at_the_end(self.entries, self._buffer("edited")[: len(chunk)])
            for name, value in values.items():
                assert isinstance(value, Tensor)
                found[name][start : start + len(chunk)] = value.double().cpu().numpy()
        return found

    def _chunks(self, last: Float[Tensor, "prompt token d"], where: Where) -> Iterator[tuple[int, Where, Against]]:
        start = 0
        for chunk in where.chunks(self.rows):
            with undisturbed(self.network.module):
                final = self.network.readout.into(chunk.take(last), self._buffer("final"))
                against = Against(final, chunk.targets, self.entries, self._buffer("probs")[: len(chunk)])
            yield start, chunk, against
            start += len(chunk)

    def _read(
        self, against: Against, chunk: Where, states: list[Float[Tensor, "prompt token d"]]
    ) -> Iterator[tuple[int, dict[str, Tensor | TopTokens]]]:
        """Several edits' rows in one readout where one edit has few."""
        n = len(chunk)
        together = max(1, self.rows // n)
        for first in range(0, len(states), together):
            some = states[first : first + together]
            with undisturbed(self.network.module):
                rows = torch.cat([chunk.take(state) for state in some])
                logits = self.network.readout.into(rows, self._buffer("edited"))
                for i in range(len(some)):
                    yield first + i, against.values(self.entries, logits[i * n : (i + 1) * n])

    def _buffer(self, name: str) -> Float[Tensor, "row vocab"]:
        if name not in self._buffers:
            shape = (self.rows, self.network.readout.vocab)
            self._buffers[name] = torch.empty(shape, dtype=torch.float32, device=self.network.device)
        return self._buffers[name]


def _of_entries(entries: Sequence[Metric], values: dict[str, Tensor]) -> dict[str, Tensor | TopTokens]:
    return {
        one.id: TopTokens(*(values[q] for q in OF_SEVERAL[one.fused])) if one.fused in OF_SEVERAL else values[one.fused]
        for one in entries
        if one.fused
    }


def stacked(found: Sequence[dict[str, Tensor | TopTokens]], name: str) -> Float[Tensor, "row cell"]:
    """One metric's values at all depths or edits, in float64."""
    columns = [values[name] for values in found]
    return torch.stack([c for c in columns if isinstance(c, Tensor)], dim=1).double()
