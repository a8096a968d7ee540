"""Edited runs inside the model's own forward, for models whose steps are no chain.

Norms between passes and injections stay the model's own code: its forward runs on the rows of
many edits at once, the calls of steps before the first edit are answered from the clean run, and
each later call runs what the edit's slot for that step holds. Where layers read what other layers
left when they ran, no call is answered: every row runs all of its steps, and leaves its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from depthsig.checkpoint.hooks import (
    StopForward,
    answered,
    first_tensor,
    forward,
    hidden_of,
    unanswered,
    undisturbed,
    with_first,
    with_hidden,
)
from depthsig.engine.device import upload
from depthsig.engine.kernel import Call
from depthsig.engine.memory import forward_tokens
from depthsig.engine.program import Program
from depthsig.engine.room.halving import in_halves
from depthsig.engine.rows import Clean, StepObserver
from depthsig.engine.slots import SlotRunner, finished
from depthsig.errors import InputError, UnsupportedModelError


def run_inside(
    clean: Clean, programs: Sequence[Program], observer: StepObserver | None, *, memory: int
) -> Iterator[tuple[list[int], Float[Tensor, "program prompt token d"]]]:
    """As :func:`depthsig.engine.run.run_programs`, for models whose steps are no chain."""
    for program in programs:
        _check(clean, program)
    prompts, tokens, _ = clean.shape
    limit = forward_tokens(clean.network, memory)
    size = max(1, min(limit // (prompts * tokens), memory // clean.state_bytes))
    order = inside_order(clean, programs)
    alike = [_alike(clean, program) for program in programs]
    at = 0
    while at < len(order):
        group = [i for i in order[at : at + size] if alike[i] == alike[order[at]]]
        at += len(group)
        first = 0 if clean.network.trace.reads is not None else _first(programs[group[0]])

        def together(start: int, stop: int, group: list[int] = group, first: int = first) -> tuple[list[int], Tensor]:
            some = group[start:stop]
            with undisturbed(clean.network.module):
                return some, _Forward(clean, [programs[i] for i in some], some, observer, first).run()

        yield from in_halves(clean.network.module, "forward", len(group), clean.tokens, together)


def inside_order(clean: Clean, programs: Sequence[Program]) -> list[int]:
    """The programs, those that can go together one after another."""
    return sorted(range(len(programs)), key=lambda i: _alike(clean, programs[i]))


def run_from(clean: Clean, program: Program, first: int) -> Float[Tensor, "prompt token d"]:
    """One program, with the steps before ``first`` answered from the clean run, if any can be."""
    first = 0 if clean.network.trace.reads is not None else first
    with undisturbed(clean.network.module):
        return _Forward(clean, [program], [0], None, first).run()[0]


def _alike(clean: Clean, program: Program) -> int:
    """Programs with the same number go together.

    Where layers read what others left, they must run the same steps; elsewhere, leave the clean run together.
    """
    return _last(program) if clean.network.trace.reads is not None else _first(program)


def _last(program: Program) -> int:
    """How many slots are left when the empty ones at the end are not counted."""
    return max((s + 1 for s, slot in enumerate(program.slots) if slot), default=0)


def _first(program: Program) -> int:
    """The first step whose slot is not just that step."""
    for s, slot in enumerate(program.slots):
        if len(slot) != 1 or not slot[0].plain(s):
            return s
    return len(program.slots)


def _check(clean: Clean, program: Program) -> None:
    """A repeat must not reach over a place where the model does something between steps.

    Where layers read what others left, all must run, in their order; the last ones may be left out.
    """
    trace = clean.network.trace
    if trace.reads is not None:
        end = _last(program)
        if any([op.step for op in slot] != [s] for s, slot in enumerate(program.slots[:end])):
            raise UnsupportedModelError(
                f"{program.name}: another order of steps cannot be run exactly: {trace.why_no_chain}; skips and "
                "replacements can"
            )
    chained = trace.chained
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
        self.runner = SlotRunner(clean, numbers, observer)
        self.step = 0
        self.last: Tensor | None = None
        self.whole: Any = None

    def run(self) -> Float[Tensor, "program prompt token d"]:
        """The group's last states."""
        ids = self.clean.batch.ids.repeat(len(self.programs), 1)
        layers = [layer.module for layer in self.clean.network.anatomy.layers]
        with answered(layers, self._answer), contextlib.suppress(StopForward):
            forward(self.clean.network.module, ids)
        assert self.last is not None, "no step ran"
        states = self.last.unflatten(0, (len(self.programs), -1)).clone()
        finished(self.clean, self.programs, states)
        return states

    def _answer(self, module: nn.Module, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What the call of a layer gives in this run."""
        step, hidden = self.step, hidden_of(args, kwargs)
        assert hidden is not None, "a traced layer was called without a residual stream"
        self.step += 1
        trace = self.clean.network.trace
        self.whole = trace.outputs[trace.layers[step]]
        if step < self.first:
            out = self.clean.run.outputs[step].repeat(len(self.programs), 1, 1)
        else:
            out = self._slots(step, hidden, original, args, kwargs)
        self.last = out
        if self.step == len(trace.layers):
            raise StopForward
        return with_first(self.whole, out)

    def _slots(self, step: int, hidden: Tensor, original: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """Every program's slot of this step; programs whose slots run the same steps go together."""
        states = hidden.unflatten(0, (len(self.programs), -1))
        out = states.clone()
        kinds: dict[tuple[int, ...], list[int]] = {}
        for i, program in enumerate(self.programs):
            kinds.setdefault(tuple(op.step for op in program.slots[step]), []).append(i)
        for steps, members in kinds.items():
            whole = len(members) == len(self.programs)
            index = None if whole else upload(np.array(members), states.device)
            state = states if index is None else states[index]
            for number, run in enumerate(steps):
                ops = [self.programs[i].slots[step][number] for i in members]
                call = self._own_call(original, args, kwargs) if run == step and whole else None
                with unanswered(self.clean.network.layer_at(run).module):
                    state = self.runner.execute(run, members, ops, state, call)
            if index is None:
                out = state
            else:
                out.index_copy_(0, index, state)
        return out.flatten(0, 1)

    def _own_call(self, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Call:
        """The call that the forward is making, on any states of it; what else it returns is kept."""

        def call(hidden: Tensor, prompts: Tensor) -> Tensor:
            own_args, own_kwargs = with_hidden(args, kwargs, hidden)
            self.whole = original(*own_args, **own_kwargs)
            output = first_tensor(self.whole)
            assert output is not None, "a layer returned no tensor"
            return output

        return call
