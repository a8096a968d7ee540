"""``coda``: every state before the end of a loop, as if it were what the loop gives out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import READOUT_ROWS
from depthsig.engine.run import run_programs
from depthsig.measure.calling import wide
from depthsig.measure.clean.passes import executed_loops, replaced
from depthsig.measure.comparing import Against, stacked
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics import Metric
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


class Codas:
    """The lens through the steps after the loop; nothing where the loop is the end of the model."""

    kinds: ClassVar[tuple[str, ...]] = ("coda",)
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.network, self.entries = work, work.network, entries
        self.span = max(executed_loops(work.network.plan, entries), key=lambda span: span.end)

    def cost(self, prompt: TokenPrompt) -> Cost:
        """The steps after the loop for every depth before its end."""
        after = self.work.steps - self.span.end
        return Cost(self.span.end, self.span.end * after, self.span.end + 1) if after else Cost()

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        if self.span.end == self.work.steps:
            return
        clean, where_all = batch.clean, batch.counted
        depths = list(range(self.span.end))
        programs = [replaced(clean, self.span.end - 1, clean.state(d), "output", self.work.steps) for d in depths]
        finals: dict[int, Tensor] = {}
        for numbers, states in run_programs(clean, programs):
            finals.update({n: s.clone() for n, s in zip(numbers, states, strict=True)})
        for where in where_all.chunks(READOUT_ROWS):
            with undisturbed(self.network.module):
                own = self.network.readout(where.take(clean.run.outputs[-1])).float()
                against = Against(own, where.targets, self.entries, torch.empty_like(own))
                found = []
                for d in depths:
                    logits = self.network.readout(where.take(finals[d])).float()
                    found.append(against.values(self.entries, logits, h=wide(where.take(clean.state(d)))))
                end = wide(where.take(clean.run.outputs[-1]))
                found.append(against.at_the_end(self.entries, torch.empty_like(own), h=end))
            for one in self.entries:
                profile = np.full((len(where), self.work.steps + 1), np.nan)
                profile[:, : len(found)] = stacked(found, one.id).cpu().numpy()
                samples.add(Key(one.id), profile, where.prompts)

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Nothing takes all prompts together."""
