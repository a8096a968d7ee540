"""Edited runs inside the model's own forward, for models that do something between their steps.

Norms between passes and injections stay the model's own code: its forward runs on the rows of
many edits at once, the calls of steps before the first edit are answered from the clean run, and
each later call runs what the edit's slot for that step holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from depthsig.checkpoint.hooks import StopForward, first_tensor, forward, hidden_of, undisturbed, with_hidden
from depthsig.engine.kernel import Call
from depthsig.engine.memory import forward_tokens
from depthsig.engine.program import Program
from depthsig.engine.rows import Clean, StepObserver
from depthsig.engine.slots import SlotRunner, finished
from depthsig.errors import InputError


def run_inside(
    clean: Clean, programs: Sequence[Program], observer: StepObserver | None, *, memory: int
) -> Iterator[tuple[list[int], Float[Tensor, "program prompt token d"]]]:
    """As :func:`depthsig.engine.run.run_programs`, for models whose steps are no chain."""
    for program in programs:
        _check(clean, program)
    prompts, tokens, _ = clean.shape
    limit = forward_tokens(clean.run.outputs[-1].device)
    size = max(1, min(limit // (prompts * tokens), memory // clean.state_bytes))
    first = {i: _first(p) for i, p in enumerate(programs)}
    order = sorted(first, key=lambda i: first[i])
    at = 0
    while at < len(order):
        group = [i for i in order[at : at + size] if first[i] == first[order[at]]]
        at += len(group)
        with undisturbed(clean.network.module):
            yield group, _Forward(clean, [programs[i] for i in group], group, observer, first[group[0]]).run()


def run_from(clean: Clean, program: Program, first: int) -> Float[Tensor, "prompt token d"]:
    """One program, with the steps before ``first`` answered from the clean run."""
    with undisturbed(clean.network.module):
        return _Forward(clean, [program], [0], None, first).run()[0]


def _first(program: Program) -> int:
    """The first step whose slot is not just that step."""
    for s, slot in enumerate(program.slots):
        if len(slot) != 1 or not slot[0].plain(s):
            return s
    return len(program.slots)


def _check(clean: Clean, program: Program) -> None:
    """A repeat must not reach over a place where the model does something between steps."""
    chained = clean.network.trace.chained
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
        self.clean, self.programs, self.first = clean, programs, first
        device = clean.run.outputs[-1].device
        self.runner = SlotRunner(clean, torch.tensor(list(numbers), device=device), observer)
        self.step = 0
        self.last: Tensor | None = None

    def run(self) -> Float[Tensor, "program prompt token d"]:
        """The group's last states."""
        ids = self.clean.batch.ids.repeat(len(self.programs), 1)
        layers = [layer.module for layer in self.clean.network.anatomy.layers]
        with _answered(layers, self._answer), contextlib.suppress(StopForward):
            forward(self.clean.network.module, ids)
        assert self.last is not None, "no step ran"
        states = self.last.unflatten(0, (len(self.programs), -1)).clone()
        finished(self.programs, states)
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
        layer = self.clean.network.trace.layers[step]
        return (out,) if self.clean.network.trace.returns_tuple.get(layer, False) else out

    def _slots(self, step: int, hidden: Tensor, original: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """Every program's slot of this step; programs whose slots run the same steps go together."""
        states = hidden.unflatten(0, (len(self.programs), -1))
        out = states.clone()
        kinds: dict[tuple[int, ...], list[int]] = {}
        for i, program in enumerate(self.programs):
            kinds.setdefault(tuple(op.step for op in program.slots[step]), []).append(i)
        for steps, members in kinds.items():
            whole = len(members) == len(self.programs)
            state = states if whole else states[members]
            for number, run in enumerate(steps):
                ops = [self.programs[i].slots[step][number] for i in members]
                call = _own_call(original, args, kwargs) if run == step and whole else None
                with _unanswered(self.clean.network.layer_at(run).module):
                    state = self.runner.execute(run, members, ops, state, call)
            out[members] = state
        return out.flatten(0, 1)


def _own_call(original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Call:
    """The call that the forward is making, on any rows of it."""

    def call(hidden: Tensor, prompts: Tensor) -> Tensor:
        own_args, own_kwargs = with_hidden(args, kwargs, hidden)
        output = first_tensor(original(*own_args, **own_kwargs))
        assert output is not None, "a layer returned no tensor"
        return output

    return call


@contextlib.contextmanager
def _answered(layers: Sequence[nn.Module], answer: Callable[..., Any]) -> Iterator[None]:
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
