"""Prompts as right-padded rows of token ids.

Padding goes to the right: in a causal model no real position ever sees it, so no mask and no
position ids are needed, whatever side the tokenizer pads on; the certificate ``padding`` checks
it on the actual model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from depthsig.engine.device import upload


@dataclass(frozen=True)
class Batch:
    """Rows of one forward.

    Attributes:
        ids: token ids [row, token], zeros after a prompt's end.
        lengths: real tokens of each row.
        rows: for each row, the prompt's place in the list that the batches were made from.
    """

    ids: Int[Tensor, "row token"]
    lengths: tuple[int, ...]
    rows: tuple[int, ...]

    def mask(self) -> Bool[Tensor, "row token"]:
        """True at real positions."""
        lengths = upload(np.array(self.lengths), self.ids.device)
        return torch.arange(self.ids.shape[1], device=self.ids.device) < lengths[:, None]


def make_batch(prompts: Sequence[Sequence[int]], rows: Sequence[int], device: torch.device | str) -> Batch:
    """One batch of the prompts at ``rows``."""
    lengths = tuple(len(prompts[r]) for r in rows)
    ids = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for i, r in enumerate(rows):
        ids[i, : lengths[i]] = prompts[r]
    return Batch(upload(ids, torch.device(device)), lengths, tuple(rows))


def part_of(batch: Batch, first: int, last: int) -> Batch:
    """Rows first..last-1 of a batch, without the padding that no row of them needs."""
    lengths = batch.lengths[first:last]
    return Batch(batch.ids[first:last, : max(lengths)], lengths, batch.rows[first:last])


def batches(
    prompts: Sequence[Sequence[int]],
    device: torch.device | str,
    *,
    max_tokens: int,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Prompts of similar length together, at most ``max_tokens`` padded tokens (or one prompt).

    The order of prompts decides nothing but which of equals come first, so results do not
    depend on it; ``batch_size`` caps the rows of a batch.
    """
    order = sorted((r for r in range(len(prompts)) if len(prompts[r])), key=lambda r: len(prompts[r]))
    rows: list[int] = []
    for r in order:
        full = (len(rows) + 1) * len(prompts[r]) > max_tokens or len(rows) == batch_size
        if rows and full:
            yield make_batch(prompts, rows, device)
            rows = []
        rows.append(r)
    if rows:
        yield make_batch(prompts, rows, device)
