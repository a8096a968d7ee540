"""One batch of prompts on its way through the edited runs of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from torch import Tensor

from depthsig.engine.clean_run import update_of
from depthsig.engine.device import Pending, upload
from depthsig.engine.memory import Budget
from depthsig.engine.program import Change, Program
from depthsig.engine.rows import Clean
from depthsig.measure.edited.directions import random_directions
from depthsig.measure.providers import Provider, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.where import Where, measured, tokens_at
from depthsig.metrics import Metric
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Samples
from depthsig.terms import Part


@dataclass
class Means:
    """Means over all counted tokens of all prompts.

    Attributes:
        parts: by part. states: of every depth; None where not needed.
    """

    parts: dict[str, Float[Tensor, "step d"]] = field(default_factory=dict)
    states: Float[Tensor, "depth d"] | None = None


@dataclass
class EditedBatch:
    """A batch whose clean run is the ground of edited ones.

    Attributes:
        clean: with parts where they are wanted and known.
        parts: whether attention and MLP may be edited on their own.
        tick: reports tokens that edited runs are done with.
        later: what stays on the device until the batch ends.
    """

    work: Work
    clean: Clean
    budget: Budget
    means: Means
    parts: bool
    tick: Callable[[float], None]
    later: Pending
    _update: tuple[int, Tensor] | None = field(default=None, repr=False)

    @property
    def here(self) -> list[TokenPrompt]:
        """The batch's prompts, row by row."""
        return [self.work.counted[r] for r in self.clean.batch.rows]

    def counted(self) -> Bool[ndarray, "prompt token"]:
        """True at the measured positions."""
        mask = np.zeros(tuple(self.clean.batch.ids.shape), dtype=bool)
        for row, prompt in enumerate(self.here):
            mask[row, list(prompt.positions)] = True
        return mask

    def edited_up_to(self, ends: Sequence[int | None]) -> Bool[ndarray, "prompt token"]:
        """True at positions 1..end−1 of each prompt; nowhere where the end is None."""
        mask = np.zeros(tuple(self.clean.batch.ids.shape), dtype=bool)
        for row, end in enumerate(ends):
            if end is not None:
                mask[row, 1:end] = True
        return mask

    def upload(self, array: Shaped[ndarray, "*any"]) -> Shaped[Tensor, "*any"]:
        """An array beside the batch."""
        return upload(array, self.clean.batch.ids.device)

    def where(self) -> Where:
        """The batch's measured tokens."""
        return measured(self.clean.batch, self.work.counted)

    def tokens_at(self, which: Callable[[TokenPrompt], Sequence[int]]) -> Where:
        """Tokens of the batch, measured or not."""
        return tokens_at(self.clean.batch, self.work.counted, which)

    def update(self, step: int) -> Float[Tensor, "prompt token d"]:
        """The clean Δ of a step, in float32; the last one asked for is kept."""
        if self._update is None or self._update[0] != step:
            self._update = (step, update_of(self.clean.run, step))
        return self._update[1]

    def last(self) -> Float[Tensor, "prompt token d"]:
        """The clean h_S."""
        return self.clean.state(self.work.steps)

    def changed(self, step: int, change: Change, name: str = "") -> Program:
        """The clean run with one execution changed; of the final state, with step = S."""
        return Program.clean(self.work.steps).with_change(step, change, name)

    def directions(self, step: int, part: Part) -> Callable[[], Float[Tensor, "prompt token d"]]:
        """Random unit vectors for the prompts' tokens at a step's part, made when they are asked for."""
        _, tokens, width = self.clean.shape
        seed, here = self.work.request.seed, self.here
        return lambda: self.upload(random_directions(here, tokens, width, step=step, part=part, seed=seed))

    def done(self, runs: float) -> None:
        """Report that many edited runs of the batch."""
        self.tick(runs * sum(self.clean.batch.lengths))


class EditedProvider(Provider, Protocol):
    """Provides for what edited runs give, batch by batch; the pieces can be kept."""

    name: str
    """What its pieces of work are called."""
    options: ClassVar[tuple[str, ...]]
    """The options of the request that its values depend on, beside the metrics, the prompts and the memory."""

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None: ...

    @property
    def needs_means(self) -> bool:
        """Whether means over all prompts must be known beforehand."""

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch, into per-prompt samples and token-level rows."""
