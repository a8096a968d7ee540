"""``coda``: every state before the end of a loop, as if it were what the loop gives out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import readout_rows
from depthsig.engine.run import run_programs
from depthsig.measure.calling import wide
from depthsig.measure.clean.passes import executed_loops, replaced
from depthsig.measure.comparing import Desk, stacked
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


class Codas:
    """The lens through the steps after the loop; nothing where the loop is the end of the model."""

    kinds: ClassVar[tuple[str, ...]] = ("coda",)
    by_batch: ClassVar[bool] = True
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.network, self.entries = work, work.network, entries
        self.desk = Desk(work.network, readout_rows(work.network, work.request.bytes))
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
        for where in where_all.chunks(self.desk.rows):
            with undisturbed(self.network.module):
                end = where.take(clean.run.outputs[-1])
                final = self.desk.read("final", self.network.readout, end)
                against = self.desk.against(final, where.targets, self.entries)
                found = []
                for d in depths:
                    logits = self.desk.read("lens", self.network.readout, where.take(finals[d]))
                    found.append(against.values(self.entries, logits, h=wide(where.take(clean.state(d)))))
                found.append(against.at_the_end(self.entries, h=wide(end)))
            for one in self.entries:
                batch.later.add(partial(self._add, Key(one.id), where, samples), stacked(found, one.id))

    def _add(self, key: Key, where: Where, samples: Samples, values: Float[ndarray, "token depth"]) -> None:
        profile = np.full((len(where), self.work.steps + 1), np.nan)
        profile[:, : values.shape[1]] = values
        samples.add(key, profile, where.prompts)

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Nothing takes all prompts together."""
