"""The tokens at which a batch is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray
from torch import Tensor

from depthsig.engine.batch import Batch
from depthsig.engine.device import upload
from depthsig.prompts import TokenPrompt


@dataclass(frozen=True)
class Where:
    """Some tokens of a batch, row after row.

    Attributes:
        rows, positions: where they are in the batch.
        prompts: the prompt each belongs to, contiguous.
        index: on the batch's device, their places when its rows stand one after another.
        targets: on the device, the id of the token that follows, −1 where none does.
    """

    rows: Int[ndarray, "token"]
    positions: Int[ndarray, "token"]
    prompts: Int[ndarray, "token"]
    index: Int[Tensor, "token"]
    targets: Int[Tensor, "token"]

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, hidden: Shaped[Tensor, "row position *d"]) -> Shaped[Tensor, "token *d"]:
        """The states of these tokens out of a batch's."""
        index = self.index if hidden.device == self.index.device else self.index.to(hidden.device)
        return hidden.flatten(0, 1).index_select(0, index)

    def part(self, start: int, stop: int) -> Where:
        """Tokens start..stop-1."""
        if start == 0 and stop >= len(self):
            return self
        s = slice(start, stop)
        return Where(self.rows[s], self.positions[s], self.prompts[s], self.index[s], self.targets[s])

    def chunks(self, size: int) -> list[Where]:
        """The tokens in pieces of at most ``size``."""
        return [self.part(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def within(self, mask: Bool[ndarray, "row token"]) -> Where:
        """Those of them in ``mask``."""
        keep = mask[self.rows, self.positions]
        if keep.all():
            return self
        kept = upload(np.flatnonzero(keep), self.index.device)
        return Where(
            self.rows[keep], self.positions[keep], self.prompts[keep], self.index.index_select(0, kept),
            self.targets.index_select(0, kept),
        )  # fmt: skip


def measured(batch: Batch, prompts: Sequence[TokenPrompt], keep_first: bool = False) -> Where:
    """The tokens of ``batch`` that count; with ``keep_first``, position 0 too."""
    return tokens_at(batch, prompts, lambda prompt: counted(prompt, keep_first))


def counted(prompt: TokenPrompt, keep_first: bool = False) -> Sequence[int]:
    """A prompt's measured positions; with ``keep_first``, position 0 too where the next one counts."""
    first = keep_first and prompt.positions and prompt.positions[0] == 1
    return (0, *prompt.positions) if first else prompt.positions


def tokens_at(batch: Batch, prompts: Sequence[TokenPrompt], which: Callable[[TokenPrompt], Sequence[int]]) -> Where:
    """The tokens of ``batch`` at the positions that ``which`` gives for each of its prompts."""
    rows, positions, owners, targets = [], [], [], []
    for row, prompt in enumerate(prompts[r] for r in batch.rows):
        here = list(which(prompt))
        rows += [row] * len(here)
        positions += here
        owners += [prompt.index] * len(here)
        targets += [prompt.ids[p + 1] if p + 1 < len(prompt.ids) else -1 for p in here]
    at, behind = np.array([rows, positions], dtype=np.int64), np.array(targets, dtype=np.int64)
    ahead = upload(np.stack([at[0] * batch.ids.shape[1] + at[1], behind]), batch.ids.device)
    return Where(at[0], at[1], np.array(owners, dtype=np.int64), ahead[0], ahead[1])
