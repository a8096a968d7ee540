"""Final distributions of edited runs against the clean ones, a few hundred rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import READOUT_ROWS
from depthsig.engine.network import Network
from depthsig.measure.comparing import Against
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.distributions import TopTokens


@dataclass
class OutputComparison:
    """Compares last states with the clean run's; two or three buffers of [rows, vocab] are all there is.

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
