"""Layer-skip sensitivity: every step's part taken away, in both scopes, and what it changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.edited import Cost, Work, edit_mask, nan_columns
from depthsig.analysis.request import Request
from depthsig.analysis.tokens import Measured
from depthsig.engine.edits import Change, Op, Program
from depthsig.engine.run import Rows, run_programs
from depthsig.metrics.skip import EPSILON, future_cuts
from depthsig.prompts import TokenPrompt

OUTPUTS = {"skip.output_l2": "l2", "skip.kl": "kl_reverse", "skip.loss": "loss", "skip.top1": "top1"}
"""Which quantity of a comparison each output metric is; p is the reference."""


@dataclass
class Case:
    """One way of skipping: a part, a scope and a cut, applied to every step in turn.

    Attributes:
        edited, measured: masks [prompt, token]; a prompt without this cut has neither.
    """

    part: str
    scope: str
    cut: int
    edited: Bool[Tensor, "prompt token"]
    measured: Bool[Tensor, "prompt token"]

    def key(self, metric: str) -> Key:
        """What its values are filed under."""
        return Key(metric, self.part, self.scope)


def cases(work: Work) -> Iterator[Case]:
    """Every part and scope asked for, and every cut that a prompt of the batch has."""
    request, counted = work.request, work.counted()
    positions = torch.arange(counted.shape[1], device=counted.device)
    for part in request.parts:
        if part != "layer" and not work.parts:
            continue
        if "current" in request.scopes:
            yield Case(part, "current", 0, edit_mask(work, [p.n_tokens for p in work.here]), counted)
        if "future" not in request.scopes:
            continue
        cuts = [future_cuts(p.n_tokens, request.cuts) for p in work.here]
        for number in range(max(map(len, cuts))):
            ends = [c[number] if number < len(c) else None for c in cuts]
            after = torch.tensor([e if e is not None else counted.shape[1] for e in ends], device=counted.device)
            yield Case(part, "future", number, edit_mask(work, ends), counted & (positions >= after[:, None]))


def has_part(work: Work, step: int, part: str) -> bool:
    """Whether a step's part can be taken away."""
    return part == "layer" or work.model.anatomy.layers[work.model.plan[step].layer].has_parts


@dataclass
class SkipJob:
    """``skip.*`` and what the scores need of them."""

    wanted: frozenset[str]
    request: Request
    name: str = "skip"

    @property
    def needs_parts(self) -> bool:
        """Whether attention and MLP contributions must be known."""
        return self.request.parts != ("layer",)

    @property
    def needs_means(self) -> bool:
        """Whether mean contributions must be known beforehand."""
        return self.request.ablation == "mean"

    def cost(self, steps: int, prompt: TokenPrompt) -> Cost:
        """Every part, scope and cut, of every step; the future is read out after its cut only."""
        cuts = future_cuts(prompt.n_tokens, self.request.cuts) if "future" in self.request.scopes else ()
        shares = [1.0 - t / prompt.n_tokens for t in cuts] + [1.0] * ("current" in self.request.scopes)
        runs = len(self.request.parts) * len(shares) * steps
        readouts = len(self.request.parts) * sum(shares) * steps * bool(self.wanted & OUTPUTS.keys())
        return Cost(runs, runs * (steps - 1) / 2, readouts)

    def run(self, work: Work, samples: Samples, rows: list[dict[str, Any]]) -> None:
        """Measure one batch."""
        steps = len(work.model.plan)
        todo = list(cases(work))
        every = [(case, s) for case in todo for s in range(steps) if has_part(work, s, case.part)]
        programs = [_skipping(work, case, s) for case, s in every]
        effects = SkipEffects(work, every, steps) if "skip.effect" in self.wanted else None
        wanted = frozenset(OUTPUTS[m] for m in self.wanted if m in OUTPUTS)
        outputs = _Outputs(work, wanted, steps)
        for numbers, states in run_programs(work.clean, programs, effects, memory=work.budget.states):
            outputs.add([every[n] for n in numbers], states)
            work.done(len(numbers))
        for case in todo:
            if effects is not None:
                effects.file(case, samples)
            outputs.file(case, samples, self.wanted)


def _skipping(work: Work, case: Case, step: int) -> Program:
    value = work.means.parts[case.part][step] if work.request.ablation == "mean" else None
    change = Change(case.part, mask=case.edited, value=value)
    return work.changed(step, Op(step, (change,)), f"skip {step}.{case.part}, {case.scope} {case.cut}")


class SkipEffects:
    """Effects on later updates as steps are computed: relative changes of Δ, reduced over positions at once."""

    def __init__(self, work: Work, every: list[tuple[Case, int]], steps: int, metric: str = "skip.effect") -> None:
        self.work, self.metric = work, metric
        device = work.batch.ids.device
        self.cases = list({id(case): case for case, _ in every}.values())
        number = {id(case): i for i, case in enumerate(self.cases)}
        self.case_of = torch.tensor([number[id(case)] for case, _ in every], device=device)
        self.masks = torch.stack([case.measured for case in self.cases])
        self.skipped = torch.tensor([step for _, step in every], device=device)
        shape = (len(self.cases), len(work.here), steps, steps)
        self.sums = torch.full(shape, float("nan"), dtype=torch.float64, device=device)
        self.worst = self.sums.clone()

    def step(self, step: int, rows: Rows, before: Tensor, after: Tensor, update: Tensor) -> None:
        """Compare a block's updates with the clean ones; blocks hold whole programs."""
        clean = self.work.update(step)
        prompts = clean.shape[0]
        programs = rows.programs[::prompts]
        gaps = update.unflatten(0, (-1, prompts)) - clean
        change = torch.linalg.vector_norm(gaps, dim=-1)
        change /= torch.linalg.vector_norm(clean, dim=-1).clamp_min(EPSILON)
        which, skipped = self.case_of[programs], self.skipped[programs]
        mask = self.masks[which]
        later = skipped < step  # a sublayer's own step is computed, too, but is no effect on later ones
        sums = torch.where(mask, change, 0.0).sum(-1, dtype=torch.float64)
        worst = torch.where(mask, change, -torch.inf).amax(-1).double()
        self.sums[which[later], :, skipped[later], step] = sums[later]
        self.worst[which[later], :, skipped[later], step] = worst[later]

    def file(self, case: Case, samples: Samples) -> None:
        """Give one case's values to the samples."""
        i = next((i for i, c in enumerate(self.cases) if c is case), None)
        if i is None:
            return
        positions = case.measured.sum(-1)
        kept = positions > 0
        rows = np.array([p.index for p in self.work.here])[kept.cpu().numpy()]
        sums, worst = self.sums[i][kept].cpu().numpy(), self.worst[i][kept].cpu().numpy()
        counts = np.where(np.isnan(sums), 0, positions[kept].cpu().numpy()[:, None, None])
        samples.add_sums(case.key(self.metric), rows, np.nan_to_num(sums), counts, worst, case.cut)


@dataclass
class _Outputs:
    """Output metrics of every case, a column a step."""

    work: Work
    wanted: frozenset[str]
    steps: int
    found: dict[int, tuple[Measured, dict[str, Float[ndarray, "token step"]]]] = field(default_factory=dict)

    def add(self, programs: list[tuple[Case, int]], states: Float[Tensor, "program prompt token d"]) -> None:
        """Read out a group's last states, case by case: each has its own measured tokens."""
        if not self.wanted:
            return
        comparison = self.work.outputs(self.wanted)
        for case in {id(c): c for c, _ in programs}.values():
            members = [i for i, (c, _) in enumerate(programs) if c is case]
            if id(case) not in self.found:
                where = self.work.where(case.measured)
                self.found[id(case)] = (where, {q: nan_columns(len(where), self.steps) for q in self.wanted})
            where, columns = self.found[id(case)]
            if not len(where):
                continue
            values = comparison.compare(self.work.clean.state(self.steps), where, [states[i] for i in members])
            steps = [programs[i][1] for i in members]
            for quantity, value in values.items():
                columns[quantity][:, steps] = value

    def file(self, case: Case, samples: Samples, metrics: frozenset[str]) -> None:
        """Give one case's values to the samples."""
        if id(case) not in self.found:
            return
        where, columns = self.found[id(case)]
        for metric in metrics & OUTPUTS.keys():
            samples.add(case.key(metric), columns[OUTPUTS[metric]], where.prompts, case.cut)
