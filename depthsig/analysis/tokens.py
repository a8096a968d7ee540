"""The tokens at which a batch is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from depthsig.engine.batch import Batch
from depthsig.prompts import TokenPrompt


@dataclass(frozen=True)
class Measured:
    """The counted tokens of a batch, row after row.

    Attributes:
        rows, positions: where they are in the batch [token].
        prompts: the prompt each belongs to [token], contiguous.
        targets: id of the token that follows, −1 where none does [token].
    """

    rows: Int[Tensor, "token"]
    positions: Int[Tensor, "token"]
    prompts: Int[ndarray, "token"]
    targets: Int[Tensor, "token"]

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, hidden: Tensor) -> Tensor:
        """The states [token, d] out of [row, token, d]."""
        return hidden[self.rows, self.positions]

    def part(self, start: int, stop: int) -> Measured:
        """Tokens start..stop-1."""
        s = slice(start, stop)
        return Measured(self.rows[s], self.positions[s], self.prompts[s], self.targets[s])

    def chunks(self, size: int) -> list[Measured]:
        """The tokens in pieces of at most ``size``."""
        return [self.part(i, min(i + size, len(self))) for i in range(0, len(self), size)]


def measured(batch: Batch, prompts: Sequence[TokenPrompt], keep_first: bool = False) -> Measured:
    """The tokens of ``batch`` that count; with ``keep_first``, position 0 too."""
    rows, positions, owners, targets = [], [], [], []
    for row, prompt in enumerate(prompts[r] for r in batch.rows):
        counted = list(prompt.positions)
        if keep_first and counted and counted[0] == 1:
            counted = [0, *counted]
        rows += [row] * len(counted)
        positions += counted
        owners += [prompt.index] * len(counted)
        targets += [prompt.ids[p + 1] if p + 1 < len(prompt.ids) else -1 for p in counted]
    device = batch.ids.device
    as_tensor = [torch.tensor(x, dtype=torch.long, device=device) for x in (rows, positions, targets)]
    return Measured(as_tensor[0], as_tensor[1], np.array(owners, dtype=np.int64), as_tensor[2])
