"""Edited runs inside the model's own forward, for models that do something between their steps.

Norms between passes and injections stay the model's own code: its forward runs on the rows of
many edits at once, the calls of steps before the first edit are answered from the clean run, and
each later call runs what the edit's slot for that step holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from depthsig.checkpoint.hooks import StopForward, first_tensor, forward, hidden_of, undisturbed, with_hidden
from depthsig.engine.edits import Op, Program
from depthsig.engine.kernel import Block, run_step
from depthsig.engine.run import GPU_BLOCK_TOKENS, Clean, Rows, StepObserver, blended
from depthsig.errors import InputError

CPU_FORWARD_TOKENS = 2048
"""Tokens of one such forward: all its rows go through every step together."""


def run_inside(
    clean: Clean, programs: Sequence[Program], observer: StepObserver | None, *, memory: int
) -> Iterator[tuple[list[int], Float[Tensor, "program prompt token d"]]]:
    """As :func:`depthsig.engine.run.run_programs`, for models whose steps are no chain."""
    for program in programs:
        _check(clean, program)
    prompts, tokens, width = clean.shape
    last = clean.run.outputs[-1]
    limit = CPU_FORWARD_TOKENS if last.device.type == "cpu" else GPU_BLOCK_TOKENS
    each = prompts * tokens * width * last.element_size()
    size = max(1, min(limit // (prompts * tokens), memory // each))
    first = {i: _first(p) for i, p in enumerate(programs)}
    order = sorted(first, key=lambda i: first[i])
    at = 0
    while at < len(order):
        group = [i for i in order[at : at + size] if first[i] == first[order[at]]]
        at += len(group)
        with undisturbed(clean.model.module):
            yield group, _Forward(clean, [programs[i] for i in group], group, observer, first[group[0]]).run()


def run_from(clean: Clean, program: Program, first: int) -> Float[Tensor, "prompt token d"]:
    """One program, with the steps before ``first`` answered from the clean run."""
    with undisturbed(clean.model.module):
        return _Forward(clean, [program], [0], None, first).run()[0]


def _first(program: Program) -> int:
    """The first step whose slot is not just that step."""
    for s, slot in enumerate(program.slots):
        if len(slot) != 1 or slot[0].step != s or slot[0].changes or slot[0].save or slot[0].blend:
            return s
    return len(program.slots)


def _check(clean: Clean, program: Program) -> None:
    """A repeat must not reach over a place where the model does something between steps."""
    chained = clean.model.trace.chained
    for slot in program.slots:
        steps = [op.step for op in slot]
        if len(steps) > 1 and not all(chained[min(steps) + 1 : max(steps) + 1]):
            raise InputError(
                f"{program.name}: steps {min(steps)}..{max(steps)} straddle a loop boundary, where this model "
                "does something between its steps; repeat a span inside one pass"
            )


class _Forward:
    """One forward of the model on the rows of a group of programs."""

    def __init__(
        self, clean: Clean, programs: Sequence[Program], numbers: Sequence[int], observer: StepObserver | None,
        first: int,
    ) -> None:  # fmt: skip
        self.clean, self.programs, self.observer, self.first = clean, programs, observer, first
        self.prompts = clean.shape[0]
        device = clean.run.outputs[-1].device
        self.rows = torch.arange(self.prompts, device=device).repeat(len(programs))
        self.numbers = torch.tensor(list(numbers), device=device).repeat_interleave(self.prompts)
        self.step = 0
        self.last: Tensor | None = None

    def run(self) -> Float[Tensor, "program prompt token d"]:
        """The group's last states."""
        ids = self.clean.batch.ids.repeat(len(self.programs), 1)
        layers = [layer.module for layer in self.clean.model.anatomy.layers]
        with _answered(layers, self._answer), contextlib.suppress(StopForward):
            forward(self.clean.model.module, ids)
        assert self.last is not None, "no step ran"
        states = self.last.unflatten(0, (len(self.programs), self.prompts)).clone()
        for i, program in enumerate(self.programs):
            for change in program.last:
                states[i] = blended(change, states[i], states[i])
        return states

    def _answer(self, module: nn.Module, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What the call of a layer gives in this run."""
        step, hidden = self.step, hidden_of(args, kwargs)
        assert hidden is not None, "a traced layer was called without a residual stream"
        self.step += 1
        if step < self.first:
            out = self.clean.run.outputs[step].repeat(len(self.programs), 1, 1)
        else:
            out = self._slots(step, hidden, original, args, kwargs)
        self.last = out
        if self.step == len(self.clean.calls):
            raise StopForward
        layer = self.clean.model.trace.layers[step]
        return (out,) if self.clean.model.trace.returns_tuple.get(layer, False) else out

    def _slots(self, step: int, hidden: Tensor, original: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """Every program's slot of this step; programs whose slots run the same steps go together."""
        out = hidden.clone()
        kinds: dict[tuple[int, ...], list[int]] = {}
        for i, program in enumerate(self.programs):
            kinds.setdefault(tuple(op.step for op in program.slots[step]), []).append(i)
        for steps, members in kinds.items():
            rows = torch.cat([torch.arange(i * self.prompts, (i + 1) * self.prompts) for i in members])
            whole = len(members) == len(self.programs)
            state = hidden if whole else hidden[rows]
            saved = state
            for number, run in enumerate(steps):
                ops = [self.programs[i].slots[step][number] for i in members]
                if ops[0].save:
                    saved = state
                call = _own_call(original, args, kwargs) if run == step and whole else None
                state = self._op(run, ops, state, rows, call)
                if ops[0].blend is not None:
                    state = saved.lerp(state, ops[0].blend)
            out[rows] = state
        return out

    def _op(self, step: int, ops: Sequence[Op], state: Tensor, rows: Tensor, call: Any) -> Tensor:
        changes = [op.changes for op in ops for _ in range(self.prompts)] if any(op.changes for op in ops) else ()
        layer = self.clean.model.layer_at(step)
        block = Block(state, self.rows[rows], changes)
        with _unanswered(layer.module):
            out, update = run_step(layer, call or self.clean.calls[step], block, want_update=self.observer is not None)
        if self.observer is not None and update is not None:
            self.observer.step(step, Rows(self.numbers[rows], self.rows[rows]), state, out, update)
        return out


def _own_call(original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The call that the forward is making, on any rows of it."""

    def call(hidden: Tensor, prompts: Tensor) -> Tensor:
        own_args, own_kwargs = with_hidden(args, kwargs, hidden)
        output = first_tensor(original(*own_args, **own_kwargs))
        assert output is not None, "a layer returned no tensor"
        return output

    return call


@contextlib.contextmanager
def _answered(layers: Sequence[nn.Module], answer: Any) -> Iterator[None]:
    """Let ``answer(module, original_forward, args, kwargs)`` stand for the layers' forward."""

    def standing(module: nn.Module, original: Any) -> Any:
        return lambda *args, **kwargs: answer(module, original, args, kwargs)

    before = [m.__dict__.get("forward") for m in layers]
    try:
        for module in layers:
            module.__dict__["forward"] = standing(module, module.forward)
        yield
    finally:
        for module, original in zip(layers, before, strict=True):
            module.__dict__.pop("forward", None)
            if original is not None:
                module.__dict__["forward"] = original


@contextlib.contextmanager
def _unanswered(module: nn.Module) -> Iterator[None]:
    """The module's own forward again, while a slot runs it."""
    standing = module.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if standing is not None:
            module.__dict__["forward"] = standing
