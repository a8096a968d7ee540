"""``loop``: the states of successive passes of the loops that run, and of one pass more."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.attention import watching_attention
from depthsig.engine.device import Pending, upload
from depthsig.engine.memory import sizes
from depthsig.engine.program import Change, Place, Program
from depthsig.engine.rows import Clean, Rows
from depthsig.engine.run import run_programs
from depthsig.errors import DepthsigWarning
from depthsig.measure.calling import values_of, wide
from depthsig.measure.providers import CleanBatch, Cost, Pool, Work
from depthsig.measure.token_rows import TokenRows, token_row
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.residual import CKA_TOKENS
from depthsig.plan.plan import Plan, SpanInfo
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples
from depthsig.terms import NONE

COMPONENTS = 2
"""Coordinates that a pooled metric gives of every token's states."""


def executed_loops(plan: Plan, asked: Sequence[Metric] = ()) -> list[SpanInfo]:
    """The loops that really run.

    Args:
        asked: the metrics that need one, for the message.

    Raises:
        InputError: if there is none.
    """
    return plan.loops_that_run([one.family for one in asked])


def scope_of(span: SpanInfo, spans: Sequence[SpanInfo]) -> str:
    """What tells a loop from others, in the column ``scope``."""
    return f"{span.start}:{span.end}" if len(spans) > 1 else NONE


class Passes:
    """Feeds metrics of loop dynamics; where several loops run, ``scope`` names the span."""

    kinds: ClassVar[tuple[str, ...]] = ("loop",)
    by_batch: ClassVar[bool] = False
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.network = work, work.network
        self.spans = executed_loops(work.network.plan, entries)
        self.stacks = [one for one in entries if one.level == "stack"]
        self.attentive = [one for one in entries if "attention" in one.asks()]
        self.outputs = [one for one in entries if one.level == "token" and one not in self.attentive]
        self.pooled = [one for one in entries if one.level == "pooled"]
        every = [(p.index, t) for p in work.counted for t in p.positions]
        self.pool = Pool({place: number for number, place in enumerate(every[:CKA_TOKENS])} if self.pooled else {})
        self.kept: dict[str, Float[Tensor, "state token d"]] = {}
        self._unseen = False

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Two passes more, the attention watched once, and two readouts a pass and phase."""
        sizes = [span.size for span in self.spans]
        read = sum(span.size * (span.count + 1) for span in self.spans) if self.outputs else 0
        return Cost(1 + bool(self.attentive), 2 * sum(sizes) + self.work.steps * bool(self.attentive), read)

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        for span in self.spans:
            states = pass_states(batch.clean, span)
            width = 8 * states[0].shape[-1] * len(states)
            for where in batch.counted.chunks(max(1, sizes(self.network.device).chunk_bytes // width)):
                taken = torch.stack([where.take(h) for h in states]).unflatten(0, (-1, span.size))
                self._dynamics(taken, where, span, batch.later, samples)
        if self.attentive:
            self._attention(batch, samples)

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Metrics of the pooled tokens' states before every pass."""
        owners = list(self.pool.places)
        for one in self.pooled:
            for scope, states in self.kept.items():
                points = values_of(one, {"xs": states}, *states.shape[:2], COMPONENTS).double().tolist()
                for k, line in enumerate(points):
                    for (prompt, position), point in zip(owners, line, strict=True):
                        if prompt in self.work.first:
                            key = Key(one.id, scope=scope)
                            tokens += [token_row(key, prompt, k, position, x, rank=r) for r, x in enumerate(point, 1)]

    def _put(
        self, one: Metric, values: Float[Tensor, "row phase token"], where: Where, span: SpanInfo, later: Pending,
        samples: Samples,
    ) -> None:  # fmt: skip
        """Values at the rows that the metric's domain says, when the batch ends; NaN elsewhere."""
        first = {"from row 1": 1, "last row": span.count}.get(one.domain, 0)

        def add(found: Float[ndarray, "row phase token"]) -> None:
            matrix = np.full((len(where), first + found.shape[0], found.shape[1]), np.nan)
            matrix[:, first:] = found.transpose(2, 0, 1)
            samples.add(Key(one.id, scope=scope_of(span, self.spans)), matrix, where.prompts)

        later.add(add, values.double())

    def _dynamics(
        self, states: Float[Tensor, "state phase token d"], where: Where, span: SpanInfo, later: Pending,
        samples: Samples,
    ) -> None:  # fmt: skip
        """``states`` are x^0 .. x^{K+1} at every phase."""
        xs, after = wide(states[:-1]), wide(states[-1])
        for one in self.stacks:
            expected = {"from row 1": span.count - 1, "last row": 1}.get(one.domain, span.count)
            values = values_of(one, {"xs": xs, "x_next": after}, expected, *xs.shape[1:3])
            self._put(one, values, where, span, later, samples)
        for one, values in self._outputs(states[:-1], span).items():
            self._put(one, values, where, span, later, samples)
        inside, places = self.pool.chosen(where) if self.pooled else ([], [])
        if inside:
            index = upload(np.array(inside), xs.device)
            later.add(partial(self._keep, scope_of(span, self.spans), places), xs[:, 0].index_select(1, index))

    def _keep(self, scope: str, places: list[int], states: Float[ndarray, "state token d"]) -> None:
        if scope not in self.kept:
            self.kept[scope] = torch.zeros(len(states), len(self.pool.places), states.shape[-1])
        self.kept[scope][:, places] = torch.from_numpy(states)

    def _outputs(
        self, xs: Float[Tensor, "state phase token d"], span: SpanInfo
    ) -> dict[Metric, Float[Tensor, "row phase token"]]:
        """Metrics of two successive passes' readouts, two readouts at a time."""
        count, phases, n = span.count, xs.shape[1], xs.shape[2]
        found = {one: xs.new_empty(count, phases, n, dtype=torch.float64) for one in self.outputs}
        with undisturbed(self.network.module):
            for phase in range(phases) if self.outputs else ():
                previous: Tensor | None = None
                for k in range(count + 1):
                    # x^K is read as the states that enter the last pass: its boundary is theirs.
                    depth = span.start + min(k, count - 1) * span.size + phase
                    logits = self.network.readout_at(depth)(xs[k, phase]).float()
                    for one in self.outputs if previous is not None else ():
                        found[one][k - 1, phase] = values_of(one, {"logits": previous, "logits_next": logits}, n)
                    previous = logits
        return found

    def _attention(self, batch: CleanBatch, samples: Samples) -> None:
        def seen(attention: Float[Tensor, "row head query key"]) -> Tensor:
            shape = (attention.shape[0], attention.shape[2])
            return torch.stack([values_of(one, {"attention": attention}, *shape).float() for one in self.attentive])

        with watching_attention(self.network, seen) as watch:
            self.network.clean(batch.batch.ids)
        steps = watch.steps[-self.work.steps :]
        if not any(steps[s] for span in self.spans for s in range(span.start, span.end)):
            self._warn_unseen()
        where = batch.counted
        missing = torch.full((len(self.attentive), *batch.batch.ids.shape), float("nan"), device=batch.batch.ids.device)
        for span in self.spans:
            values = [torch.stack(e).mean(0) if e else missing for e in steps[span.start : span.end]]
            for number, one in enumerate(self.attentive):
                taken = torch.stack([where.take(v[number]) for v in values])
                self._put(one, taken.unflatten(0, (-1, span.size)), where, span, batch.later, samples)

    def _warn_unseen(self) -> None:
        if not self._unseen:
            names = ", ".join(one.id for one in self.attentive)
            family = self.network.anatomy.family
            message = f"{names} is empty: {family} has no attention that can be seen"
            warnings.warn(message, DepthsigWarning, stacklevel=2)
        self._unseen = True


def pass_states(clean: Clean, span: SpanInfo) -> list[Float[Tensor, "prompt token d"]]:
    """x^0 .. x^{K+1} at every phase, pass after pass; the last two need passes beyond those run.

    An additional pass is the last one again, on other states. Where the model does something
    between passes, it is the last pass but one, whose end the model's own forward leads into the
    next.
    """
    first, size, count = span.start, span.size, span.count
    states = [clean.state(s) for s in range(first, span.end)]
    head = clean.run.outputs[span.end - 1]
    last = first + (count - 1) * size
    for _ in range(2):
        # What enters the pass that is run again, and the step that it enters.
        entry, source = (head, last) if clean.network.is_chain else (states[-size], last - size)
        seen = _watch_pass(clean, source, entry, last, size)
        states += seen.before
        head = seen.after
    return states


@dataclass
class _Pass:
    """An observer that keeps what enters each step of one pass, and what leaves the last."""

    start: int
    size: int
    before: list[Tensor] = field(default_factory=list)
    after: Tensor = field(default_factory=lambda: torch.empty(0))

    def step(self, step: int, rows: Rows, before: Tensor, after: Tensor, update: Tensor) -> None:
        if self.start <= step < self.start + self.size:
            self.before.append(before.clone())
            self.after = after.clone()


def _watch_pass(clean: Clean, source: int, entry: Tensor, watched: int, size: int) -> _Pass:
    """Let ``entry`` enter step ``source``, and keep the pass that starts at ``watched``."""
    seen = _Pass(watched, size)
    for _ in run_programs(clean, [replaced(clean, source, entry, "input", watched + size)], seen):
        pass
    # A change of a step's input is made before the step sees it.
    if source == watched:
        seen.before[0] = entry
    return seen


def replaced(clean: Clean, step: int, value: Float[Tensor, "prompt token d"], where: Place, end: int) -> Program:
    """The clean run with every position of a step's input or output replaced; nothing runs from ``end`` on."""
    mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    program = Program.clean(len(clean.network.plan)).with_change(step, Change(where, mask=mask, value=value), "")
    slots: list[Any] = [slot if s < end else () for s, slot in enumerate(program.slots)]
    return Program(tuple(slots), name=f"{where} of {step}")
