"""Final distributions of edited runs against the clean ones, a few hundred rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.analysis.tokens import Measured
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.model import Model
from depthsig.metrics.comparison import Reference

ROWS = 256
"""Rows of a readout: enough for the head's full speed."""


@dataclass
class OutputComparison:
    """Compares last states with the clean run's; two or three buffers of [rows, vocab] are all there is.

    Attributes:
        wanted: quantities of :data:`depthsig.metrics.comparison.QUANTITIES`; p is the clean
            distribution, so that ``kl_reverse`` is KL(p‖p').
        rows: rows read out at a time.
    """

    model: Model
    wanted: frozenset[str]
    rows: int = ROWS
    _buffers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def compare(
        self,
        last: Float[Tensor, "prompt token d"],
        where: Measured,
        edited: Iterable[Float[Tensor, "prompt token d"]],
    ) -> dict[str, Float[ndarray, "token edit"]]:
        """Every wanted quantity at every measured token, a column an edited run."""
        states = list(edited)
        found = {name: np.full((len(where), len(states)), np.nan) for name in self.wanted}
        if not self.wanted or not states:
            return found
        start = 0
        for chunk in where.chunks(self.rows):
            n = len(chunk)
            with undisturbed(self.model.module):
                final = self.model.readout.into(chunk.take(last), self._buffer("final"))
                reference = Reference(final, chunk.targets, self.wanted, self._buffer("probs")[:n])
                for columns, values in self._read(reference, chunk, states):
                    for name, value in values.items():
                        found[name][start : start + n, columns] = value.double().cpu().numpy()
            start += n
        return found

    def _read(
        self, reference: Reference, chunk: Measured, states: list[Float[Tensor, "prompt token d"]]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Several edits' rows in one readout where one edit has few."""
        n = len(chunk)
        together = max(1, self.rows // n)
        for first in range(0, len(states), together):
            some = states[first : first + together]
            rows = torch.cat([chunk.take(state) for state in some])
            logits = self.model.readout.into(rows, self._buffer("edited"))
            for i in range(len(some)):
                yield first + i, reference.compare(logits[i * n : (i + 1) * n])

    def _buffer(self, name: str) -> Tensor:
        if name not in self._buffers:
            shape = (self.rows, self.model.readout.vocab)
            self._buffers[name] = torch.empty(shape, dtype=torch.float32, device=self.model.device)
        return self._buffers[name]
