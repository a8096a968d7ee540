"""Truncated runs: k different steps of which the last goes on to the end, and the last k on the embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.engine.program import Change, Op, Program
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.errors import DepthsigWarning
from depthsig.measure.comparing import OutputComparison
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.providers import Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics import Metric
from depthsig.metrics.entries.runs import RUN_TRUNCATED
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples

REPEAT, SUFFIX = RUN_TRUNCATED


class TruncatedRuns:
    """Feeds metrics of the output of truncated runs, k = 1 .. S; at k = S they are the model itself."""

    kinds: ClassVar[tuple[str, ...]] = RUN_TRUNCATED
    needs_parts = False
    needs_means = False
    name = "truncation"
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work = work
        self.by_kind = {kind: found for kind in self.kinds if (found := [one for one in entries if one.on == kind])}

    @property
    def runs(self) -> int:
        """How many k are run: none where layers read what steps that would be missing left."""
        return 0 if self.work.network.trace.reads is not None else self.work.steps - 1

    def cost(self, prompt: TokenPrompt) -> Cost:
        """S−k steps after the first k, and the last k; both start from what the clean run knows."""
        runs = len(self.by_kind) * self.runs
        return Cost(runs, runs * self.work.steps / 2, runs)

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        for kind, entries in self.by_kind.items():
            self._measure(kind, entries, batch, samples)

    def say_what_is_missing(self) -> None:
        """Warn where nothing but the whole model can be run."""
        if not self.runs and self.work.steps > 1:
            why = self.work.network.trace.why_no_chain
            warnings.warn(
                f"repeated steps and suffixes are left empty below the whole model: {why}",
                DepthsigWarning,
                stacklevel=3,
            )

    def _measure(self, kind: str, entries: Sequence[Metric], batch: EditedBatch, samples: Samples) -> None:
        where, steps = batch.where(), self.work.steps
        make = repeated if kind == REPEAT else suffix
        programs = [make(batch.clean, k) for k in range(1, self.runs + 1)]
        comparison = OutputComparison(self.work.network, entries, batch.budget.rows)
        columns: dict[int, dict[str, Tensor]] = {steps: comparison.of_itself(batch.last(), where)}
        for numbers, states in run_programs(batch.clean, programs, memory=batch.budget.states):
            values = comparison.compare(batch.last(), where, list(states))
            for place, number in enumerate(numbers):
                columns[number + 1] = {name: found[:, place] for name, found in values.items()}
            batch.done(len(numbers))
        there = sorted(columns)
        for one in entries:
            found = torch.stack([columns[k][one.id].double() for k in there], dim=1)
            batch.later.add(partial(self._add, samples, Key(one.id), where.prompts, there), found)

    def _add(
        self, samples: Samples, key: Key, prompts: ndarray, there: Sequence[int], found: Float[ndarray, "token k"]
    ) -> None:
        values = np.full((len(prompts), self.work.steps), np.nan)
        values[:, [k - 1 for k in there]] = found
        samples.add(key, values, prompts)


def repeated(clean: Clean, k: int) -> Program:
    """The first k steps, then the k-th in the place of every later one.

    What a model does between its passes (a norm, an injection) stays in its place.
    """
    steps = len(clean.network.plan)
    return Program(tuple((Op(min(s, k - 1)),) for s in range(steps)), name=f"repeat step {k - 1} to the end")


def suffix(clean: Clean, k: int) -> Program:
    """The last k steps on h_0, at every position; the steps before them are answered from the clean run."""
    start = clean.state(0)
    everywhere = torch.ones(start.shape[:2], dtype=torch.bool, device=start.device)
    steps = len(clean.network.plan)
    change = Change("input", mask=everywhere, value=start)
    return Program.clean(steps).with_change(steps - k, change, f"the last {k} steps")
