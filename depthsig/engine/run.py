"""Edited runs of one batch: no work twice, and every step's weights read once for many edits.

An edit that first acts at step s starts from the clean run's state there. Edits then move through
the steps together, as rows of one batch: sweep after sweep over the steps, each taking along every
run whose next step it is. (A span that runs again joins the next sweep, so that all spans that
pass a step are there at once.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import Batch
from depthsig.engine.calls import LayerCall
from depthsig.engine.clean import CleanRun
from depthsig.engine.edits import Change, Op, Program
from depthsig.engine.kernel import Block, change_mask, run_step, value_of
from depthsig.engine.model import Model

CPU_BLOCK_TOKENS, GPU_BLOCK_TOKENS = 1024, 16384
"""Tokens that go through a step at once: enough for the matmuls' full speed, few enough for cache."""


@dataclass(frozen=True)
class Rows:
    """Which program and which prompt of the batch each row of a block is."""

    programs: Int[Tensor, "row"]
    prompts: Int[Tensor, "row"]


class StepObserver(Protocol):
    """Sees every step that an edited run really computes (what it shares with the clean run it does not)."""

    def step(
        self,
        step: int,
        rows: Rows,
        before: Float[Tensor, "row token d"],
        after: Float[Tensor, "row token d"],
        update: Float[Tensor, "row token d"],
    ) -> None:
        """One step of a block of rows: states before and after it, and its update in float32."""


@dataclass
class Clean:
    """A batch's clean run, ready to be edited.

    Attributes:
        calls: every step's call, able to run any selection of the batch's prompts.
    """

    model: Model
    batch: Batch
    run: CleanRun
    calls: list[LayerCall]

    @classmethod
    def of(cls, model: Model, batch: Batch, *, parts: bool = False) -> Clean:
        """Run the batch as it is; ``parts`` keeps attention and MLP contributions."""
        run = model.clean(batch.ids, parts=parts)
        return cls(model, batch, run, model.with_rows(run, batch.ids.shape[1]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Prompts, tokens, width."""
        a, b, c = self.run.outputs[-1].shape
        return a, b, c

    def state(self, depth: int) -> Float[Tensor, "prompt token d"]:
        """h_depth as it enters a step; h_S as it leaves the last."""
        return self.run.inputs[depth] if depth < len(self.run.inputs) else self.run.outputs[-1]


def run_programs(
    clean: Clean, programs: Sequence[Program], observer: StepObserver | None = None, *, memory: int = 1 << 30
) -> Iterator[tuple[list[int], Float[Tensor, "program prompt token d"]]]:
    """Run programs on a batch; yields groups of their numbers with their last states h_S.

    Args:
        observer: sees every computed step.
        memory: bytes that the states of a group may take.
    """
    if not clean.model.trace.is_chain and clean.model.is_native:
        from depthsig.engine.inside import run_inside

        yield from run_inside(clean, programs, observer, memory=memory)
        return
    prompts, tokens, width = clean.shape
    each = prompts * tokens * width * clean.run.outputs[-1].element_size()
    size = max(1, memory // each)
    order = sorted(range(len(programs)), key=lambda i: _shared(programs[i].ops))
    for first in range(0, len(order), size):
        group = order[first : first + size]
        with undisturbed(clean.model.module):
            states = _Sweep(clean, [programs[i] for i in group], group, observer).run()
        yield group, states


def blocks_of(clean: Clean, programs: Sequence[int]) -> list[Sequence[int]]:
    """Programs that go through a step together: as few blocks as fit, of about the same size.

    A small block at the end would run at a fraction of the speed.
    """
    prompts, tokens, _ = clean.shape
    limit = CPU_BLOCK_TOKENS if clean.run.outputs[-1].device.type == "cpu" else GPU_BLOCK_TOKENS
    most = max(1, limit // (prompts * tokens))
    count = -(-len(programs) // most)
    edges = [round(i * len(programs) / count) for i in range(count + 1)] if count else [0]
    return [programs[a:b] for a, b in itertools.pairwise(edges)]


def _shared(ops: Sequence[Op]) -> int:
    """How many executions a program has in common with the clean run."""
    k = 0
    while k < len(ops) and ops[k].step == k and not (ops[k].changes or ops[k].save or ops[k].blend):
        k += 1
    return k


class _Sweep:
    """A group of programs on their way through the steps."""

    def __init__(
        self, clean: Clean, programs: Sequence[Program], numbers: Sequence[int], observer: StepObserver | None
    ) -> None:
        self.clean, self.programs, self.observer = clean, programs, observer
        prompts, tokens, width = clean.shape
        last = clean.run.outputs[-1]
        self.states = last.new_empty(len(programs), prompts, tokens, width)
        self.numbers = torch.tensor(list(numbers), device=last.device)
        self.saved: dict[int, Tensor] = {}
        self.todo: list[list[Op]] = []
        for i, program in enumerate(programs):
            self.states[i], rest = start_of(clean, program)
            self.todo.append(rest[::-1])

    def run(self) -> Float[Tensor, "program prompt token d"]:
        """Sweep over the steps until every program has run."""
        steps = len(self.clean.calls)
        while any(self.todo):
            for step in range(steps):
                ready = [i for i, ops in enumerate(self.todo) if ops and ops[-1].step == step]
                for block in blocks_of(self.clean, ready):
                    self._advance(step, block)
        for i, program in enumerate(self.programs):
            for change in program.last:
                self.states[i] = blended(change, self.states[i], self.states[i])
        return self.states

    def _advance(self, step: int, members: Sequence[int]) -> None:
        """One step of some programs."""
        clean = self.clean
        prompts = clean.shape[0]
        ops = [self.todo[i].pop() for i in members]
        together = members[-1] - members[0] + 1 == len(members)
        where: slice | list[int] = slice(members[0], members[-1] + 1) if together else list(members)
        hidden = self.states[where].flatten(0, 1)
        for i, op in zip(members, ops, strict=True):
            if op.save:
                self.saved[i] = self.states[i].clone()
        rows = torch.arange(prompts, device=hidden.device).repeat(len(members))
        changes = [op.changes for op in ops for _ in range(prompts)] if any(op.changes for op in ops) else ()
        layer = clean.model.layer_at(step)
        block = Block(hidden, rows, changes)
        out, update = run_step(layer, clean.calls[step], block, want_update=self.observer is not None)
        if self.observer is not None and update is not None:
            numbers = self.numbers[list(members)].repeat_interleave(prompts)
            self.observer.step(step, Rows(numbers, rows), hidden, out, update)
        out = out.unflatten(0, (len(members), prompts))
        self.states[where] = out
        for i, op in zip(members, ops, strict=True):
            if op.blend is not None:
                self.states[i] = self.saved[i].lerp(self.states[i], op.blend)


def start_of(clean: Clean, program: Program) -> tuple[Float[Tensor, "prompt token d"], list[Op]]:
    """The state from which a program leaves the clean run, and what it still has to run.

    Where its first change only replaces what the clean run already knows (a layer's whole update,
    a state, the part added last), even that step is not computed.
    """
    ops = program.ops
    k = _shared(ops)
    state = clean.state(k)
    if k == len(ops):
        return state, []
    op = ops[k]
    if op.step != k or op.save or op.blend or len(op.changes) != 1:
        return state, ops[k:]
    change = op.changes[0]
    if change.where == "input":
        return blended(change, state, state), [op.with_(changes=()), *ops[k + 1 :]]
    kept = _without(clean, k, change.where)
    if kept is None:
        return state, ops[k:]
    after = clean.run.outputs[k]
    return blended(change, after, kept, add=change.where != "output"), ops[k + 1 :]


def _without(clean: Clean, step: int, where: str) -> Tensor | None:
    """The step's output without one part, where the clean run tells it; else None."""
    run = clean.run
    before, attn, mlp = run.inputs[step], run.attn[step], run.mlp[step]
    if where in ("layer", "output"):
        return before
    layer = clean.model.layer_at(step)
    if where == "mlp" and attn is not None:
        return before + attn
    if where == "attn" and mlp is not None and layer.parallel:
        return before + mlp
    return None


def blended(change: Change, state: Tensor, base: Tensor, add: bool = False) -> Tensor:
    """``state`` [prompt, token, d] with the change's value (on top of ``base`` with ``add``) where it acts."""
    rows = []
    for prompt in range(state.shape[0]):
        mask = change_mask(change, prompt, state.shape[1], state.device)
        new = base[prompt] if add else torch.zeros_like(base[prompt])
        if change.value is not None:
            new = new + value_of(change, prompt, base)
        rows.append(torch.where(mask[:, None], new, state[prompt]))
    return torch.stack(rows)
