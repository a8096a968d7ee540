"""Edited runs of every prompt, batch by batch: the common ground of the jobs that need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from depthsig.analysis.accumulate import Samples
from depthsig.analysis.outputs import OutputComparison
from depthsig.analysis.request import Request
from depthsig.analysis.tokens import Measured, measured
from depthsig.engine.batch import Batch
from depthsig.engine.clean import update_of
from depthsig.engine.edits import Op, Program
from depthsig.engine.memory import Budget
from depthsig.engine.model import Model
from depthsig.engine.run import Clean
from depthsig.prompts import TokenPrompt


@dataclass
class Means:
    """Means over all counted tokens of all prompts.

    Attributes:
        parts: by part, [step, d]. states: [depth, d], None where not needed.
    """

    parts: dict[str, Float[Tensor, "step d"]] = field(default_factory=dict)
    states: Float[Tensor, "depth d"] | None = None


@dataclass
class Work:
    """One batch of prompts on its way through a job.

    Attributes:
        clean: the batch's clean run, with parts where they are wanted and known.
        prompts: all prompts that take part; ``clean.batch.rows`` says which are here.
        parts: whether attention and MLP may be edited on their own.
        tick: reports tokens that edited runs are done with.
    """

    model: Model
    clean: Clean
    prompts: Sequence[TokenPrompt]
    request: Request
    budget: Budget
    means: Means
    parts: bool
    tick: Callable[[float], None]
    _update: tuple[int, Tensor] | None = field(default=None, repr=False)

    @property
    def batch(self) -> Batch:
        """The prompts as padded rows."""
        return self.clean.batch

    @property
    def here(self) -> list[TokenPrompt]:
        """The batch's prompts, row by row."""
        return [self.prompts[r] for r in self.batch.rows]

    def counted(self) -> Bool[Tensor, "prompt token"]:
        """True at the measured positions."""
        mask = torch.zeros(self.batch.ids.shape, dtype=torch.bool, device=self.batch.ids.device)
        for row, prompt in enumerate(self.here):
            mask[row, list(prompt.positions)] = True
        return mask

    def where(self, mask: Bool[Tensor, "prompt token"] | None = None) -> Measured:
        """The batch's measured tokens, or those of them in ``mask``."""
        every = measured(self.batch, self.prompts)
        if mask is None:
            return every
        keep = mask[every.rows, every.positions]
        prompts = every.prompts[keep.cpu().numpy()]
        return Measured(every.rows[keep], every.positions[keep], prompts, every.targets[keep])

    def where_any(self, mask: Bool[Tensor, "prompt token"]) -> Measured:
        """The tokens in ``mask``, measured or not."""
        rows, positions = mask.nonzero(as_tuple=True)
        pairs = list(zip(rows.tolist(), positions.tolist(), strict=True))
        ids = [self.here[r].ids for r, _ in pairs]
        targets = [i[t + 1] if t + 1 < len(i) else -1 for i, (_, t) in zip(ids, pairs, strict=True)]
        owners = np.array([self.here[r].index for r, _ in pairs], dtype=np.int64)
        return Measured(rows, positions, owners, torch.tensor(targets, dtype=torch.long, device=mask.device))

    def update(self, step: int) -> Float[Tensor, "prompt token d"]:
        """The clean Δ of a step, in float32; the last one asked for is kept."""
        if self._update is None or self._update[0] != step:
            self._update = (step, update_of(self.clean.run, step))
        return self._update[1]

    def done(self, runs: float) -> None:
        """Report that many edited runs of the batch."""
        self.tick(runs * sum(self.batch.lengths))

    def outputs(self, wanted: frozenset[str]) -> OutputComparison:
        """A comparison of final distributions within the budget."""
        return OutputComparison(self.model, wanted, self.budget.rows)

    def changed(self, step: int, op: Op, name: str = "") -> Program:
        """The clean run with one step's execution replaced."""
        slots = tuple((op,) if s == step else (Op(s),) for s in range(len(self.model.plan)))
        return Program(slots, name=name)


@dataclass(frozen=True)
class Cost:
    """What a job does for one prompt: edited runs, executed steps and readouts, each of its length."""

    runs: float
    steps: float
    readouts: float


class Job(Protocol):
    """A measurement by edited runs."""

    name: str

    @property
    def needs_parts(self) -> bool:
        """Whether attention and MLP contributions must be known."""

    @property
    def needs_means(self) -> bool:
        """Whether means over all prompts must be known beforehand."""

    def cost(self, steps: int, prompt: TokenPrompt) -> Cost:
        """For one prompt."""

    def run(self, work: Work, samples: Samples, rows: list[dict[str, Any]]) -> None:
        """Measure one batch, into per-prompt samples and token-level rows."""


def edit_mask(work: Work, ends: Sequence[int | None]) -> Bool[Tensor, "prompt token"]:
    """True at positions 1..end−1 of each prompt; nowhere where the end is None."""
    mask = torch.zeros(work.batch.ids.shape, dtype=torch.bool)
    for row, end in enumerate(ends):
        if end is not None:
            mask[row, 1:end] = True
    return mask.to(work.batch.ids.device)


def nan_columns(tokens: int, steps: int) -> np.ndarray:
    """[token, step] of NaN, to be filled a column a step."""
    return np.full((tokens, steps), np.nan)
