"""A batch's clean run as the ground that edits stand on, and the rows of edits on their way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from depthsig.engine.batch import Batch
from depthsig.engine.calls import LayerCall
from depthsig.engine.clean_run import CleanRun
from depthsig.engine.memory import block_tokens
from depthsig.engine.network import Network


@dataclass(frozen=True)
class Rows:
    """Which program and which prompt of the batch each row of a block is."""

    programs: Int[Tensor, "row"]
    prompts: Int[Tensor, "row"]


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

    @classmethod
    def of(cls, network: Network, batch: Batch, *, parts: bool = False) -> Clean:
        """Run the batch as it is; ``parts`` keeps attention and MLP contributions."""
        return cls.from_run(network, batch, network.clean(batch.ids, parts=parts))

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
    def state_bytes(self) -> int:
        """Bytes of one program's states."""
        prompts, tokens, width = self.shape
        return prompts * tokens * width * self.run.outputs[-1].element_size()

    def state(self, depth: int) -> Float[Tensor, "prompt token d"]:
        """h_depth as it enters a step; h_S as it leaves the last."""
        return self.run.inputs[depth] if depth < len(self.run.inputs) else self.run.outputs[-1]


def blocks_of(clean: Clean, programs: Sequence[int]) -> list[Sequence[int]]:
    """Programs that go through a step together: as few blocks as fit, of about the same size.

    A small block at the end would run at a fraction of the speed.
    """
    prompts, tokens, _ = clean.shape
    most = max(1, block_tokens(clean.run.outputs[-1].device) // (prompts * tokens))
    count = -(-len(programs) // most)
    edges = [round(i * len(programs) / count) for i in range(count + 1)] if count else [0]
    return [programs[a:b] for a, b in itertools.pairwise(edges)]
