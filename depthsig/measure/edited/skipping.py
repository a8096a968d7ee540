"""``skip`` and ``maintained``: parts taken away, in both scopes, and what that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from torch import Tensor

from depthsig.engine.program import Change, Program
from depthsig.engine.rows import Rows
from depthsig.engine.run import order_of, run_programs
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

CASE_OPTIONS = ("parts", "scopes", "cuts", "ablation")
"""What decides on the cases; the seed, too, where something is drawn."""


@dataclass(eq=False)
class Case:
    """One way of taking away: a part, a scope and a cut, applied to every step in turn.

    Attributes:
        edited, measured: masks, the first on the device; a prompt without this cut has neither.
    """

    part: Part
    scope: str
    cut: int
    edited: Bool[Tensor, "prompt token"]
    measured: Bool[ndarray, "prompt token"]


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
    def random(self) -> bool:
        """Whether a random direction of the same norm is taken away instead."""
        return self.work.request.ablation == "random"

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
        scopes = list(self._scopes(batch))
        for part in self.parts:
            if part == "layer" or batch.parts:
                for scope, cut, edited, measured in scopes:
                    yield Case(part, scope, cut, edited, measured)

    def _scopes(
        self, batch: EditedBatch
    ) -> Iterator[tuple[str, int, Bool[Tensor, "prompt token"], Bool[ndarray, "prompt token"]]]:
        """Every scope and cut, with where it edits and where it is measured."""
        request, counted = self.work.request, batch.counted()
        if "current" in request.scopes:
            edited = batch.edited_up_to([p.n_tokens for p in batch.here])
            yield "current", 0, batch.upload(edited), counted
        if "future" not in request.scopes:
            return
        cuts = [future_cuts(p.n_tokens, request.cuts) for p in batch.here]
        for number in range(max(map(len, cuts))):
            ends = [c[number] if number < len(c) else None for c in cuts]
            after = np.array([end if end is not None else counted.shape[1] for end in ends])
            later = np.arange(counted.shape[1]) >= after[:, None]
            yield "future", number, batch.upload(batch.edited_up_to(ends)), counted & later

    def steps_of(self, case: Case) -> list[int]:
        """The steps whose part can be taken away."""
        known = self.work.network.has_parts
        return [s for s in range(self.work.steps) if case.part == "layer" or known[s]]


class Skipping:
    """Feeds metrics of what every step's removal changes: later updates, and the output."""

    kinds: ClassVar[tuple[str, ...]] = ("skip",)
    name = "skip"
    options: ClassVar[tuple[str, ...]] = CASE_OPTIONS

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
        order = order_of(batch.clean, programs)  # so that those of a block are neighbours in tables, too
        every, programs = [every[i] for i in order], [programs[i] for i in order]
        effects = Effects(batch, every, self.effects, self.removed) if self.effects else None
        outputs = _Outputs(batch, self.outputs)
        for numbers, states in run_programs(batch.clean, programs, effects, memory=batch.budget.states):
            outputs.add([every[n] for n in numbers], states)
            batch.done(len(numbers))
        for case in todo:
            if effects is not None:
                effects.file(case, samples)
            outputs.file(case, samples)

    def removed(self, step: int) -> Sequence[int]:
        """The steps whose part is taken away in the run of a step, which is the first of them."""
        return (step,)

    def _program(self, batch: EditedBatch, case: Case, step: int) -> Program:
        name = f"{self.name} {step}.{case.part}, {case.scope} {case.cut}"
        program = Program.clean(self.work.steps)
        for one in self.removed(step):
            value = batch.means.parts[case.part][one] if self.cases.means else None
            directions = batch.directions(one, case.part) if self.cases.random else None
            change = Change(case.part, mask=case.edited, value=value, directions=directions)
            program = program.with_change(one, change, name)
        return program


class Maintaining(Skipping):
    """Feeds metrics of what the removal of a layer in one pass and in every later one changes.

    What stands in the place of a part is each step's own: its mean, or its random direction.
    """

    kinds: ClassVar[tuple[str, ...]] = ("maintained",)
    name = "maintained"

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        super().__init__(work, entries)
        plan = work.network.plan
        plan.loops_that_run([one.family for one in entries])
        self.later = [[one.step for one in plan.steps[at.step :] if one.layer == at.layer] for at in plan]

    def removed(self, step: int) -> Sequence[int]:
        return self.later[step]


def _measured_for(one: Metric, case: Case, batch: EditedBatch) -> bool:
    """Whether a metric is to be measured for a part: as asked for, or as a user's own is declared."""
    if one.own and one.always:
        return case.part in one.parts
    return case.part in batch.work.request.parts


def _itself(step: int) -> Sequence[int]:
    return (step,)


class Effects:
    """Effects on later updates as steps are computed, reduced over positions at once, on the device."""

    def __init__(
        self, batch: EditedBatch, every: Sequence[tuple[Case, int]], entries: Sequence[Metric],
        removed: Callable[[int], Sequence[int]] = _itself,
    ) -> None:  # fmt: skip
        self.batch, self.entries, self.removed = batch, entries, removed
        self.cases = list({id(case): case for case, _ in every}.values())
        number = {id(case): i for i, case in enumerate(self.cases)}
        self.number_of = np.array([number[id(case)] for case, _ in every])
        self.skipped = np.array([step for _, step in every])
        self.case_of = batch.upload(self.number_of)
        self.masks = batch.upload(np.stack([case.measured for case in self.cases]))
        steps = batch.work.steps
        shape = (len(entries), len(self.cases), len(batch.here), steps, steps)
        self.sums, self.worst = np.zeros(shape), np.full(shape, np.nan)
        self.counts = np.zeros(shape, dtype=np.int64)

    def step(
        self, step: int, rows: Rows, before: Float[Tensor, "row token d"], after: Float[Tensor, "row token d"],
        update: Float[Tensor, "row token d"],
    ) -> None:  # fmt: skip
        """Compare a block's updates with the clean ones; blocks hold whole programs."""
        clean = self.batch.update(step)
        # The steps of which something is taken away are computed, too, but show no effect on later ones.
        first = [self.skipped[number] for number in rows.numbers]
        kept = [i for i, s in enumerate(first) if s < step and step not in self.removed(s)]
        if not kept:
            return
        updates = update.unflatten(0, (len(rows.numbers), -1))
        if len(kept) < len(rows.numbers):
            updates = _chosen(updates, kept, self.batch)
        numbers = [rows.numbers[i] for i in kept]
        mask = self.masks.index_select(0, _chosen(self.case_of, numbers, self.batch))
        delta = clean.expand(len(kept), -1, -1, -1).reshape(-1, clean.shape[-1])
        offered = {"delta": delta, "delta_edited": updates.reshape(-1, clean.shape[-1])}
        for number, one in enumerate(self.entries):
            values = values_of(one, offered, len(delta)).view(mask.shape)
            defined = mask & ~values.isnan()
            worst = values.masked_fill(~defined, torch.inf if one.worst == "min" else -torch.inf)
            worst = worst.amin(-1) if one.worst == "min" else worst.amax(-1)
            total = values.masked_fill(~defined, 0.0).sum(-1, dtype=torch.float64)
            reduced = torch.stack([total, defined.sum(-1, dtype=torch.float64), worst.double()])
            self.batch.later.add(partial(self._take, number, step, numbers), reduced)

    def _take(self, number: int, step: int, programs: list[int], reduced: Float[ndarray, "3 program prompt"]) -> None:
        """What a block gave of one metric: sums, counts and extremes over positions."""
        at = number, self.number_of[programs], slice(None), self.skipped[programs], step
        self.sums[at], self.counts[at], self.worst[at] = reduced

    def file(self, case: Case, samples: Samples) -> None:
        """Give one case's values to the samples, when the batch ends."""
        self.batch.later.add(partial(self._file, case, samples))

    def _file(self, case: Case, samples: Samples) -> None:
        i = next((i for i, c in enumerate(self.cases) if c is case), None)
        if i is None:
            return
        kept = case.measured.any(-1)
        rows = np.array([p.index for p in self.batch.here])[kept]
        for number, one in enumerate(self.entries):
            if _measured_for(one, case, self.batch):
                sums, counts, worst = (x[number, i][kept] for x in (self.sums, self.counts, self.worst))
                worst = np.where(counts > 0, worst, np.nan)
                samples.add_sums(Key(one.id, case.part, case.scope), rows, sums, counts, worst, case.cut)


def _chosen(
    table: Shaped[Tensor, "place *any"], places: Sequence[int], batch: EditedBatch
) -> Shaped[Tensor, "_p *any"]:
    """Some of a table's places; neighbours are a slice, which needs nothing from the host."""
    first, last = places[0], places[-1]
    if list(places) == list(range(first, last + 1)):
        return table[first : last + 1]
    return table.index_select(0, batch.upload(np.array(places)))


@dataclass
class _Outputs:
    """Output metrics of every case, a column a step."""

    batch: EditedBatch
    entries: Sequence[Metric]
    where: dict[int, Where] = field(default_factory=dict)
    found: dict[int, list[tuple[list[int], dict[str, Tensor]]]] = field(default_factory=dict)

    def add(self, programs: list[tuple[Case, int]], states: Float[Tensor, "program prompt token d"]) -> None:
        """Read out a group's last states, case by case: each has its own measured tokens."""
        if not self.entries:
            return
        for case in {id(c): c for c, _ in programs}.values():
            if id(case) not in self.where:
                self.where[id(case)] = self.batch.where().within(case.measured)
            where, members = self.where[id(case)], [i for i, (c, _) in enumerate(programs) if c is case]
            if not len(where):
                continue
            asked = [one for one in self.entries if _measured_for(one, case, self.batch)]
            comparison = OutputComparison(self.batch.work.network, asked, self.batch.budget.rows)
            values = comparison.compare(self.batch.last(), where, [states[i] for i in members])
            self.found.setdefault(id(case), []).append(([programs[i][1] for i in members], values))

    def file(self, case: Case, samples: Samples) -> None:
        """Give one case's values to the samples, when the batch ends."""
        groups = self.found.get(id(case), [])
        steps = [step for some, _ in groups for step in some]
        for name in groups[0][1] if groups else ():
            key, where = Key(name, case.part, case.scope), self.where[id(case)]

            def add(values: ndarray, key: Key = key, where: Where = where) -> None:
                columns = np.full((len(where), self.batch.work.steps), np.nan)
                columns[:, steps] = values
                samples.add(key, columns, where.prompts, case.cut)

            self.batch.later.add(add, torch.cat([values[name] for _, values in groups], dim=1))
