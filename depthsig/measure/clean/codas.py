"""``coda`` and ``exits``: states from inside a loop, as if they were what it gives out, run through what follows it."""

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
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.measure.calling import wide
from depthsig.measure.clean.exits import Exits
from depthsig.measure.clean.passes import executed_loops, replaced
from depthsig.measure.comparing import Desk, stacked
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.plan.plan import Plan, SpanInfo
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


def left_loop(plan: Plan, asked: Sequence[Metric] = ()) -> SpanInfo:
    """The loop that the model leaves last; of nested ones the outermost.

    Args:
        asked: the metrics that need one, for the message.

    Raises:
        InputError: if none runs.
    """
    return max(executed_loops(plan, asked), key=lambda span: (span.end, -span.start))


class Codas:
    """The lens through the steps after the loop (nothing where it is the end of the model), and exits after passes.

    A state that both ask for goes through those steps once.
    """

    kinds: ClassVar[tuple[str, ...]] = ("coda", "exits")
    by_batch: ClassVar[bool] = True
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.network = work, work.network
        self.entries = [one for one in entries if one.on == "coda"]
        self.desk = Desk(work.network, readout_rows(work.network, work.request.bytes))
        self.span = left_loop(work.network.plan, entries)
        exits = [one for one in entries if one.on == "exits"]
        self.exits = Exits(work, exits, self.span) if exits else None

    @property
    def depths(self) -> range:
        """Those that the lens reads."""
        ends = self.span.end == self.work.steps
        return range(0 if ends or not self.entries else self.span.end)

    def cost(self, prompt: TokenPrompt) -> Cost:
        """The steps after the loop for every depth before its end, and for every pass but the last."""
        after, lens = self.work.steps - self.span.end, len(self.depths)
        passes = self.span.count if self.exits is not None else 0
        # Where nothing happens between steps, the ends of passes are among the depths.
        shared = lens and self.network.is_chain
        runs = (lens + (0 if shared else max(0, passes - 1))) * bool(after)
        return Cost(runs, runs * after, lens + bool(lens) + passes)

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        states = [batch.clean.state(d) for d in self.depths]
        passes = [] if self.exits is None else self.exits.states(batch)
        finals = after_loop(batch.clean, self.span, [*states, *passes])
        if states:
            self._lens(batch, finals[: len(states)], samples)
        if self.exits is not None:
            self.exits.observe(batch, [*finals[len(states) :], batch.run.outputs[-1]], samples, tokens)

    def _lens(self, batch: CleanBatch, finals: Sequence[Float[Tensor, "prompt token d"]], samples: Samples) -> None:
        """Every depth before the end of the loop beside the model itself."""
        clean = batch.clean
        for where in batch.counted.chunks(self.desk.rows):
            with undisturbed(self.network.module):
                end = where.take(clean.run.outputs[-1])
                final = self.desk.read("final", self.network.readout, end)
                against = self.desk.against(final, where.targets, self.entries)
                found = []
                for d, state in enumerate(finals):
                    logits = self.desk.read("lens", self.network.readout, where.take(state))
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


def after_loop(
    clean: Clean, span: SpanInfo, states: Sequence[Float[Tensor, "prompt token d"]]
) -> list[Float[Tensor, "prompt token d"]]:
    """h_S of runs whose loop gives out these states: each different one goes through the steps after it once."""
    steps = len(clean.network.plan)
    if span.end == steps:
        return list(states)
    different = list({id(state): state for state in states}.values())
    programs = [replaced(clean, span.end - 1, state, "output", steps) for state in different]
    finals: dict[int, Tensor] = {}
    for numbers, found in run_programs(clean, programs):
        finals.update({id(different[n]): h.clone() for n, h in zip(numbers, found, strict=True)})
    return [finals[id(state)] for state in states]
