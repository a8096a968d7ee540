"""``local``: each layer sees its clean input minus one earlier step's part, and nothing propagates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.clean_run import update_of
from depthsig.engine.kernel import RowBlock, run_step
from depthsig.engine.room.halving import in_halves
from depthsig.engine.rows import Rows, blocks_of
from depthsig.errors import UnsupportedModelError
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.edited.skipping import CASE_OPTIONS, Case, Cases, Effects
from depthsig.measure.providers import Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics import Metric
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Samples


class Isolated:
    """Feeds metrics of what one earlier step's part does to a layer by itself."""

    kinds: ClassVar[tuple[str, ...]] = ("local",)
    name = "local"
    options: ClassVar[tuple[str, ...]] = CASE_OPTIONS

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.entries = work, entries
        self.cases = Cases(work, work.request.parts_of(entries))

    @property
    def needs_parts(self) -> bool:
        """Whether attention and MLP contributions must be known."""
        return self.cases.needs_parts

    @property
    def needs_means(self) -> bool:
        """Whether mean contributions must be known beforehand."""
        return self.cases.means

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Every part, scope and cut, of every pair of steps; nothing is read out."""
        runs = len(self.cases.parts) * len(self.cases.shares(prompt)) * self.work.steps
        return Cost(runs, runs * (self.work.steps - 1) / 2)

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        trace = self.work.network.trace
        if trace.reads is not None:
            names = ", ".join(one.id for one in self.entries)
            raise UnsupportedModelError(
                f"{names}: no layer can be run by itself here: {trace.why_no_chain}; ask for skip instead"
            )
        steps, todo = self.work.steps, list(self.cases.of(batch))
        # Step by step, so that the earlier ones stand together.
        every = [(case, s) for s in range(steps) for case in todo if s in self.cases.steps_of(case)]
        if not every:
            return
        effects = Effects(batch, every, self.entries)
        with undisturbed(self.work.network.module):
            for step in range(1, steps):
                earlier = [i for i, (_, s) in enumerate(every) if s < step]
                for some in blocks_of(batch.clean, earlier):
                    block = partial(self._block, batch, step, every, some, effects)
                    for _ in in_halves(self.work.network.module, "step", len(some), batch.clean.tokens, block):
                        pass
                batch.done(2 * len(earlier) / (steps - 1))
        for case in todo:
            effects.file(case, samples)

    def _block(
        self, batch: EditedBatch, step: int, every: list[tuple[Case, int]], block: Sequence[int], effects: Effects,
        first: int, last: int,
    ) -> None:  # fmt: skip
        """One step of some of a block's cases."""
        clean, numbers = batch.clean, block[first:last]
        members = [every[i] for i in numbers]
        hidden = torch.cat([self._without(batch, case, s, clean.state(step)) for case, s in members])
        prompts = clean.rows(len(members))
        layer = self.work.network.layer_at(step)
        out, update = run_step(layer, clean.calls[step], RowBlock(hidden, prompts), want_update=True)
        assert update is not None
        effects.step(step, Rows(tuple(numbers), prompts), hidden, out, update)

    def _without(
        self, batch: EditedBatch, case: Case, step: int, state: Float[Tensor, "prompt token d"]
    ) -> Float[Tensor, "prompt token d"]:
        """A later state minus what a step's part added to it, where the case edits."""
        run = batch.clean.run
        part = {"layer": None, "attn": run.attn[step], "mlp": run.mlp[step]}[case.part]
        added = update_of(run, step) if part is None else part.float()
        if self.cases.means:
            added = added - batch.means.parts[case.part][step].float()
        if self.cases.random:
            added = added.norm(dim=-1, keepdim=True) * batch.directions(step, case.part)()
        return torch.where(case.edited[..., None], (state.float() - added).to(state.dtype), state)
