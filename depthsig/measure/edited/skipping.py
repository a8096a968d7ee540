"""``skip``: every step's part taken away, in both scopes, and what it changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from depthsig.engine.program import Change, Program
from depthsig.engine.rows import Rows
from depthsig.engine.run import run_programs
from depthsig.measure.calling import values_of
from depthsig.measure.comparing import OutputComparison
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.providers import Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.interventions import future_cuts
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples
from depthsig.terms import Part


@dataclass(eq=False)
class Case:
    """One way of taking away: a part, a scope and a cut, applied to every step in turn.

    Attributes:
        edited, measured: masks; a prompt without this cut has neither.
    """

    part: Part
    scope: str
    cut: int
    edited: Bool[Tensor, "prompt token"]
    measured: Bool[Tensor, "prompt token"]


@dataclass(frozen=True)
class Cases:
    """Which parts, scopes and cuts there are.

    Attributes:
        parts: those to take away. means: whether a mean stands in their place.
    """

    work: Work
    parts: Sequence[Part]

    @property
    def means(self) -> bool:
        """Whether a mean contribution stands in the place of what is taken away."""
        return self.work.request.ablation == "mean"

    @property
    def needs_parts(self) -> bool:
        """Whether attention and MLP contributions must be known."""
        return set(self.parts) != {"layer"}

    def shares(self, prompt: TokenPrompt) -> list[float]:
        """For every scope and cut of a prompt, the share of it that is measured."""
        request = self.work.request
        cuts = future_cuts(prompt.n_tokens, request.cuts) if "future" in request.scopes else ()
        return [1.0 - t / prompt.n_tokens for t in cuts] + [1.0] * ("current" in request.scopes)

    def of(self, batch: EditedBatch) -> Iterator[Case]:
        """Every case that a prompt of the batch has."""
        request, counted = self.work.request, batch.counted()
        positions = torch.arange(counted.shape[1], device=counted.device)
        for part in self.parts:
            if part != "layer" and not batch.parts:
                continue
            if "current" in request.scopes:
                yield Case(part, "current", 0, batch.edited_up_to([p.n_tokens for p in batch.here]), counted)
            if "future" not in request.scopes:
                continue
            cuts = [future_cuts(p.n_tokens, request.cuts) for p in batch.here]
            for number in range(max(map(len, cuts))):
                ends = [c[number] if number < len(c) else None for c in cuts]
                after = torch.tensor([e if e is not None else counted.shape[1] for e in ends], device=counted.device)
                yield Case(part, "future", number, batch.edited_up_to(ends), counted & (positions >= after[:, None]))

    def steps_of(self, case: Case) -> list[int]:
        """The steps whose part can be taken away."""
        known = self.work.network.has_parts
        return [s for s in range(self.work.steps) if case.part == "layer" or known[s]]


class Skipping:
    """Feeds metrics of what every step's removal changes: later updates, and the output."""

    kinds: ClassVar[tuple[str, ...]] = ("skip",)
    name = "skip"

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work = work
        self.effects = [one for one in entries if one.kind == "matrix"]
        self.outputs = [one for one in entries if one.kind == "profile"]
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
        """Every part, scope and cut, of every step; the future is read out after its cut only."""
        steps, shares, parts = self.work.steps, self.cases.shares(prompt), len(self.cases.parts)
        runs = parts * len(shares) * steps
        return Cost(runs, runs * (steps - 1) / 2, parts * sum(shares) * steps * bool(self.outputs))

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        todo = list(self.cases.of(batch))
        every = [(case, s) for case in todo for s in self.cases.steps_of(case)]
        if not every:
            return
        programs = [self._program(batch, case, s) for case, s in every]
        effects = Effects(batch, every, self.effects) if self.effects else None
        outputs = _Outputs(batch, self.outputs)
        for numbers, states in run_programs(batch.clean, programs, effects, memory=batch.budget.states):
            outputs.add([every[n] for n in numbers], states)
            batch.done(len(numbers))
        for case in todo:
            if effects is not None:
                effects.file(case, samples)
            outputs.file(case, samples)

    def _program(self, batch: EditedBatch, case: Case, step: int) -> Program:
        value = batch.means.parts[case.part][step] if self.cases.means else None
        change = Change(case.part, mask=case.edited, value=value)
        return batch.changed(step, change, f"skip {step}.{case.part}, {case.scope} {case.cut}")


def _measured_for(one: Metric, case: Case, batch: EditedBatch) -> bool:
    """Whether a metric is to be measured for a part: as asked for, or as a user's own is declared."""
    if one.own and one.always:
        return case.part in one.parts
    return case.part in batch.work.request.parts


class Effects:
    """Effects on later updates as steps are computed, reduced over positions at once."""

    def __init__(self, batch: EditedBatch, every: Sequence[tuple[Case, int]], entries: Sequence[Metric]) -> None:
        self.batch, self.entries = batch, entries
        device = batch.clean.batch.ids.device
        self.cases = list({id(case): case for case, _ in every}.values())
        number = {id(case): i for i, case in enumerate(self.cases)}
        self.case_of = torch.tensor([number[id(case)] for case, _ in every], device=device)
        self.masks = torch.stack([case.measured for case in self.cases])
        self.skipped = torch.tensor([step for _, step in every], device=device)
        steps = batch.work.steps
        shape = (len(entries), len(self.cases), len(batch.here), steps, steps)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.counts = torch.zeros(shape, dtype=torch.long, device=device)
        self.worst = torch.full(shape, float("nan"), dtype=torch.float64, device=device)

    def step(
        self, step: int, rows: Rows, before: Float[Tensor, "row token d"], after: Float[Tensor, "row token d"],
        update: Float[Tensor, "row token d"],
    ) -> None:  # fmt: skip
        """Compare a block's updates with the clean ones; blocks hold whole programs."""
        clean = self.batch.update(step)
        prompts, tokens, width = clean.shape
        programs = rows.programs[::prompts]
        which, skipped = self.case_of[programs], self.skipped[programs]
        later = skipped < step  # a sublayer's own step is computed, too, but is no effect on later ones
        if not bool(later.any()):
            return
        delta = clean.expand(len(programs), -1, -1, -1).reshape(-1, width)
        offered = {"delta": delta, "delta_edited": update.reshape(-1, width)}
        at = which[later], slice(None), skipped[later], step
        for number, one in enumerate(self.entries):
            values = values_of(one, offered, len(delta)).unflatten(0, (len(programs), prompts, tokens))
            mask = self.masks[which] & ~values.isnan()
            extreme = -torch.inf if one.worst != "min" else torch.inf
            worst = torch.where(mask, values, extreme)
            worst = worst.amin(-1) if one.worst == "min" else worst.amax(-1)
            self.sums[number][at] = torch.where(mask, values, 0.0).sum(-1, dtype=torch.float64)[later]
            self.counts[number][at] = mask.sum(-1)[later]
            self.worst[number][at] = worst.double()[later]

    def file(self, case: Case, samples: Samples) -> None:
        """Give one case's values to the samples."""
        i = next((i for i, c in enumerate(self.cases) if c is case), None)
        kept = (case.measured.sum(-1) > 0).cpu().numpy()
        if i is None:
            return
        rows = np.array([p.index for p in self.batch.here])[kept]
        for number, one in enumerate(self.entries):
            if not _measured_for(one, case, self.batch):
                continue
            sums, counts, worst = (x[number, i].cpu().numpy()[kept] for x in (self.sums, self.counts, self.worst))
            worst = np.where(counts > 0, worst, np.nan)
            samples.add_sums(Key(one.id, case.part, case.scope), rows, sums, counts, worst, case.cut)


@dataclass
class _Outputs:
    """Output metrics of every case, a column a step."""

    batch: EditedBatch
    entries: Sequence[Metric]
    found: dict[int, tuple[Where, dict[str, Float[ndarray, "_token step"]]]] = field(default_factory=dict)

    def add(self, programs: list[tuple[Case, int]], states: Float[Tensor, "program prompt token d"]) -> None:
        """Read out a group's last states, case by case: each has its own measured tokens."""
        if not self.entries:
            return
        for case in {id(c): c for c, _ in programs}.values():
            asked = [one for one in self.entries if _measured_for(one, case, self.batch)]
            members = [i for i, (c, _) in enumerate(programs) if c is case]
            if id(case) not in self.found:
                where = self.batch.where().within(case.measured)
                empty = {one.id: np.full((len(where), self.batch.work.steps), np.nan) for one in asked}
                self.found[id(case)] = (where, empty)
            where, columns = self.found[id(case)]
            if not len(where):
                continue
            comparison = OutputComparison(self.batch.work.network, asked, self.batch.budget.rows)
            values = comparison.compare(self.batch.last(), where, [states[i] for i in members])
            for name, value in values.items():
                columns[name][:, [programs[i][1] for i in members]] = value

    def file(self, case: Case, samples: Samples) -> None:
        """Give one case's values to the samples."""
        if id(case) not in self.found:
            return
        where, columns = self.found[id(case)]
        for name, values in columns.items():
            samples.add(Key(name, case.part, case.scope), values, where.prompts, case.cut)
