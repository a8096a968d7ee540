"""A batch's clean run as the ground that edits stand on, and the rows of edits on their way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from depthsig.engine.batch import Batch
from depthsig.engine.calls import LayerCall
from depthsig.engine.clean_run import CleanRun
from depthsig.engine.device import Pending, upload
from depthsig.engine.memory import sizes
from depthsig.engine.network import Network
from depthsig.engine.program import Change


@dataclass(frozen=True)
class Rows:
    """Which program and which prompt of the batch each row of a block is.

    Attributes:
        numbers: the programs, each with a row for every prompt of the batch.
    """

    numbers: tuple[int, ...]
    prompts: Int[Tensor, "row"]

    @property
    def programs(self) -> Int[Tensor, "row"]:
        """The program of each row, on the device."""
        each = len(self.prompts) // max(1, len(self.numbers))
        return upload(np.repeat(np.array(self.numbers, dtype=np.int64), each), self.prompts.device)


class StepObserver(Protocol):
    """Sees every step that an edited run really computes (what it shares with the clean run it does not)."""

    def step(
        self,
        step: int,
        rows: Rows,
        before: Float[Tensor, "row token d"],
        after: Float[Tensor, "row token d"],
        update: Float[Tensor, "row token d"],
    ) -> None:
        """One step of a block of rows: states before and after it, and its update in float32."""


@dataclass
class Clean:
    """A batch's clean run, ready to be edited.

    Attributes:
        calls: every step's call, able to run any selection of the batch's prompts; empty where layers
            cannot be run by themselves.
    """

    network: Network
    batch: Batch
    run: CleanRun
    calls: list[LayerCall]
    _rows: dict[int, Int[Tensor, "row"]] = field(default_factory=dict, repr=False)
    _masks: dict[Any, Bool[Tensor, "prompt token"]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, network: Network, batch: Batch, *, parts: bool = False, later: Pending | None = None) -> Clean:
        """Run the batch as it is; ``parts`` keeps attention and MLP contributions.

        ``later`` is where it is said that a state is no number; None: at once.
        """
        return cls.from_run(network, batch, network.clean(batch.ids, parts=parts, later=later))

    @classmethod
    def from_run(cls, network: Network, batch: Batch, run: CleanRun) -> Clean:
        """A batch that has been run already."""
        return cls(network, batch, run, network.with_rows(run, batch.ids.shape[1]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Prompts, tokens, width."""
        a, b, c = self.run.outputs[-1].shape
        return a, b, c

    @property
    def tokens(self) -> int:
        """Tokens of one program's rows, padding with them."""
        return self.shape[0] * self.shape[1]

    @property
    def state_bytes(self) -> int:
        """Bytes of one program's states."""
        prompts, tokens, width = self.shape
        return prompts * tokens * width * self.run.outputs[-1].element_size()

    def rows(self, programs: int) -> Int[Tensor, "row"]:
        """The prompt of each row of a block of so many programs."""
        if programs not in self._rows:
            self._rows[programs] = torch.arange(self.shape[0], device=self.batch.ids.device).repeat(programs)
        return self._rows[programs]

    def mask_of(self, change: Change) -> Bool[Tensor, "prompt token"]:
        """Where a change acts, by default everywhere; never at position 0 unless its own mask says so."""
        if change.mask is not None:
            return change.mask.to(self.batch.ids.device)
        if change.positions not in self._masks:
            prompts, tokens, _ = self.shape
            mask = np.zeros((prompts, tokens), dtype=bool)
            mask[:, slice(1, None) if change.positions is None else [p for p in change.positions if p < tokens]] = True
            self._masks[change.positions] = upload(mask, self.batch.ids.device)
        return self._masks[change.positions]

    def state(self, depth: int) -> Float[Tensor, "prompt token d"]:
        """h_depth as it enters a step; h_S as it leaves the last."""
        return self.run.inputs[depth] if depth < len(self.run.inputs) else self.run.outputs[-1]


def blocks_of(clean: Clean, programs: Sequence[int]) -> list[Sequence[int]]:
    """Programs that go through a step together: as few blocks as fit, of about the same size.

    A small block at the end would run at a fraction of the speed.
    """
    prompts, tokens, _ = clean.shape
    most = max(1, sizes(clean.run.outputs[-1].device).step_tokens // (prompts * tokens))
    count = -(-len(programs) // most)
    edges = [round(i * len(programs) / count) for i in range(count + 1)] if count else [0]
    return [programs[a:b] for a, b in itertools.pairwise(edges)]
