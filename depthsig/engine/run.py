"""Edited runs of one batch: no work twice, and every step's weights read once for many edits.

An edit that first acts at step s starts from the clean run's state there. Edits then move through
the steps together, as rows of one batch: sweep after sweep over the steps, each taking along every
run whose next step it is. (A span that runs again joins the next sweep, so that all spans that
pass a step are there at once.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import batches
from depthsig.engine.clean_run import update_of
from depthsig.engine.device import upload
from depthsig.engine.edits import Edit, compile_edit
from depthsig.engine.inside import inside_order, run_inside
from depthsig.engine.kernel import turned
from depthsig.engine.memory import EDITED_TOKENS, divide
from depthsig.engine.network import Network
from depthsig.engine.program import Op, Program
from depthsig.engine.room.halving import in_halves
from depthsig.engine.rows import Clean, Rows, StepObserver, blocks_of
from depthsig.engine.slots import SlotRunner, blended, finished, with_clean_states
from depthsig.errors import InputError, shown
from depthsig.prompts import TokenPrompt
from depthsig.terms import counted


def run_programs(
    clean: Clean, programs: Sequence[Program], observer: StepObserver | None = None, *, memory: int = 1 << 30
) -> Iterator[tuple[list[int], Float[Tensor, "program prompt token d"]]]:
    """Run programs on a batch; yields groups of their numbers with their last states h_S.

    Where a card's memory runs out, fewer go together (:mod:`depthsig.engine.room.halving`).

    Args:
        observer: sees every computed step; a step again where memory ran out behind it.
        memory: bytes that the states of a group may take.
    """
    programs = [with_clean_states(clean, program) for program in programs]
    if not clean.network.is_chain:
        yield from run_inside(clean, programs, observer, memory=memory)
        return
    size = max(1, memory // clean.state_bytes)
    order = order_of(clean, programs)
    for first in range(0, len(order), size):
        group = order[first : first + size]

        def sweep(start: int, stop: int, group: list[int] = group) -> tuple[list[int], Tensor]:
            some = group[start:stop]
            with undisturbed(clean.network.module):
                return some, _Sweep(clean, [programs[i] for i in some], some, observer).run()

        yield from in_halves(clean.network.module, "states", len(group), clean.tokens, sweep)


def order_of(clean: Clean, programs: Sequence[Program]) -> list[int]:
    """The programs by the step that each computes first, so that those who pass a step stand together."""
    if clean.network.is_chain:
        return sorted(range(len(programs)), key=lambda i: _first_computed(clean, programs[i]))
    return inside_order(clean, programs)


def _first_computed(clean: Clean, program: Program) -> int:
    ops = program.ops
    k = _shared(ops)
    return k + (k < len(ops) and _known(clean, k, ops[k]))


def _shared(ops: Sequence[Op]) -> int:
    """How many executions a program has in common with the clean run."""
    k = 0
    while k < len(ops) and ops[k].plain(k):
        k += 1
    return k


class _Sweep:
    """A group of programs on their way through the steps."""

    def __init__(
        self, clean: Clean, programs: Sequence[Program], numbers: Sequence[int], observer: StepObserver | None
    ) -> None:
        self.clean, self.programs = clean, programs
        last = clean.run.outputs[-1]
        self.states = last.new_empty(len(programs), *clean.shape)
        self.runner = SlotRunner(clean, numbers, observer)
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
                    self._go(step, block)
        finished(self.clean, self.programs, self.states)
        return self.states

    def _go(self, step: int, block: Sequence[int]) -> None:
        """One step of a block of programs."""
        done = in_halves(
            self.clean.network.module, "step", len(block), self.clean.tokens,
            lambda first, last: self._advance(step, block[first:last]),
        )  # fmt: skip
        for _ in done:
            pass

    def _advance(self, step: int, members: Sequence[int]) -> None:
        """One step of some programs, all of them or none."""
        ops = [self.todo[i][-1] for i in members]
        together = members[-1] - members[0] + 1 == len(members)
        if together:
            here = self.states[members[0] : members[-1] + 1]
            here.copy_(self.runner.execute(step, members, ops, here))
        else:
            index = upload(np.array(members), self.states.device)
            self.states.index_copy_(0, index, self.runner.execute(step, members, ops, self.states[index]))
        for i in members:
            self.todo[i].pop()


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
    if _one_change(k, op) and op.changes[0].where == "input":
        return blended(clean, op.changes[0], state), [replace(op, changes=()), *ops[k + 1 :]]
    if not _known(clean, k, op):
        return state, ops[k:]
    change = op.changes[0]
    if change.directions is not None:
        part = update_of(clean.run, k) if change.where == "layer" else getattr(clean.run, change.where)[k]
        return turned(change, clean.mask_of(change), clean.run.outputs[k], part), ops[k + 1 :]
    base = None if change.where == "output" else _without(clean, k, change.where)
    return blended(clean, change, clean.run.outputs[k], base), ops[k + 1 :]


def _one_change(step: int, op: Op) -> bool:
    return op.step == step and not op.save and not op.blend and len(op.changes) == 1


def _known(clean: Clean, step: int, op: Op) -> bool:
    """Whether the clean run tells what comes out of a step that is changed so."""
    if not _one_change(step, op):
        return False
    where, run, layer = op.changes[0].where, clean.run, clean.network.layer_at(step)
    return (
        where in ("layer", "output")
        or (where == "mlp" and run.attn[step] is not None)
        or (where == "attn" and run.mlp[step] is not None and layer.parallel)
    )


def _without(clean: Clean, step: int, where: str) -> Float[Tensor, "prompt token d"]:
    """A step's output without one part, where the clean run tells it (:func:`_known`)."""
    before = clean.run.inputs[step]
    other = {"layer": None, "attn": clean.run.mlp[step], "mlp": clean.run.attn[step]}[where]
    return before if other is None else before + other


@dataclass(frozen=True)
class EditedRun:
    """One edit's outcome; ``logits`` holds a tensor [token, vocab] for every prompt."""

    edit: Edit | None
    logits: list[Float[Tensor, "_token vocab"]]

    def __repr__(self) -> str:
        shapes = ", ".join(str(list(logits.shape)) for logits in self.logits[:3])
        more = ", …" if len(self.logits) > 3 else ""
        edit = str(self.edit if self.edit is not None else "no edit")
        return f"EditedRun({edit[:200]}; {counted(len(self.logits), 'prompt')}, logits [token, vocab]: {shapes}{more})"


def run_edits(
    network: Network, prompts: Sequence[TokenPrompt], edits: Sequence[Edit | None], *,
    observer: StepObserver | None = None, memory: int = 1 << 30,
) -> list[EditedRun]:  # fmt: skip
    """Logits of every edit on every prompt; ``Model.run`` on prompts that are token ids already."""
    if not isinstance(edits, (Edit, list, tuple)):
        raise InputError(f"edits are a list of edits, each one run, or None for the clean one; found {shown(edits)}")
    programs = [compile_edit(e, network.plan, network.has_parts) for e in edits]
    logits: list[list[Tensor]] = [[] for _ in edits]
    order: list[int] = []
    parts = any(c.where in ("attn", "mlp") for p in programs for op in p.ops for c in op.changes)
    # Where a pass reads every layer, as many prompts as there is memory for share it.
    most = max(EDITED_TOKENS, divide(network, memory).batch_tokens) if network.is_streamed else EDITED_TOKENS
    for batch in batches([p.ids for p in prompts], network.device, max_tokens=most):
        order += batch.rows
        clean = Clean.of(network, batch, parts=parts)
        watching = _OfPrompts(observer, batch.rows) if observer is not None else None
        for numbers, states in run_programs(clean, programs, watching, memory=memory):
            for number, state in zip(numbers, states, strict=True):
                read = [network.read(h[None, :n])[0] for h, n in zip(state, batch.lengths, strict=True)]
                logits[number] += read
    # Batches take prompts by length: back to the order they were given in.
    place = sorted(range(len(order)), key=order.__getitem__)
    return [EditedRun(e, [found[i] for i in place]) for e, found in zip(edits, logits, strict=True)]


class _OfPrompts:
    """Tells an observer the prompts' own numbers, not their rows in a batch."""

    def __init__(self, observer: StepObserver, rows: Sequence[int]) -> None:
        self.observer, self.rows = observer, rows

    def step(self, step: int, rows: Rows, before: Tensor, after: Tensor, update: Tensor) -> None:
        own = upload(np.array(self.rows), rows.prompts.device)[rows.prompts]
        self.observer.step(step, Rows(rows.numbers, own), before, after, update)
