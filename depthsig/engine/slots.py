"""What runs where a step ran: one execution of some programs, as rows of one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.engine.kernel import Call, RowBlock, run_step, value_of
from depthsig.engine.program import Change, Op, Program
from depthsig.engine.rows import Clean, Rows, StepObserver


@dataclass
class SlotRunner:
    """Executes ops for a group of programs, and keeps what their damped passes started from.

    Attributes:
        numbers: what the observer knows each program by.
    """

    clean: Clean
    numbers: Sequence[int]
    observer: StepObserver | None = None
    _saved: dict[int, Float[Tensor, "prompt token d"]] = field(default_factory=dict)

    def execute(
        self, step: int, members: Sequence[int], ops: Sequence[Op], states: Float[Tensor, "member prompt token d"],
        call: Call | None = None,
    ) -> Float[Tensor, "member prompt token d"]:  # fmt: skip
        """One execution of ``step`` for some of the group's programs, each with its own op.

        Args:
            members: the programs' places in the group; states and ops are in their order.
            call: what runs the layer, in the place of the step's own captured call.
        """
        for place in [place for place, op in enumerate(ops) if op.save]:
            self._saved[members[place]] = states[place].clone()
        prompts = self.clean.shape[0]
        hidden, rows = states.flatten(0, 1), self.clean.rows(len(members))
        changes = [op.changes for op in ops] if any(op.changes for op in ops) else ()
        layer, watched = self.clean.network.layer_at(step), self.observer is not None
        out, update = run_step(
            layer, call or self.clean.calls[step], RowBlock(hidden, rows, changes, self.clean.mask_of),
            want_update=watched,
        )  # fmt: skip
        if self.observer is not None and update is not None:
            numbers = tuple(self.numbers[i] for i in members)
            self.observer.step(step, Rows(numbers, rows), hidden, out, update)
        out = out.unflatten(0, (len(members), prompts))
        for place, op in enumerate(ops):
            if op.blend is not None:
                out[place] = self._saved[members[place]].lerp(out[place], op.blend)
        return out


def with_clean_states(clean: Clean, program: Program) -> Program:
    """The program with the clean run's states in the place of the steps that its changes have them from."""
    if not any(change.source is not None for change in (*program.last, *(c for op in program.ops for c in op.changes))):
        return program

    def filled(changes: tuple[Change, ...]) -> tuple[Change, ...]:
        return tuple(change if change.source is None else _of_source(clean, change) for change in changes)

    slots = tuple(tuple(replace(op, changes=filled(op.changes)) for op in slot) for slot in program.slots)
    return replace(program, slots=slots, last=filled(program.last))


def _of_source(clean: Clean, change: Change) -> Change:
    assert change.source is not None
    states = clean.run.inputs if change.where == "input" else clean.run.outputs
    return replace(change, value=states[change.source], source=None)


def finished(clean: Clean, programs: Sequence[Program], states: Float[Tensor, "program prompt token d"]) -> None:
    """Put the programs' changes of the final state into ``states``."""
    for i, program in enumerate(programs):
        for change in program.last:
            states[i] = blended(clean, change, states[i])


def blended(
    clean: Clean, change: Change, state: Float[Tensor, "prompt token d"],
    base: Float[Tensor, "prompt token d"] | None = None,
) -> Float[Tensor, "prompt token d"]:  # fmt: skip
    """``state`` with the change's value (on top of ``base``, if there is one) where it acts."""
    new = torch.zeros_like(state[:1, :1]) if change.value is None else value_of(change, state)
    return torch.where(clean.mask_of(change)[..., None], new if base is None else base + new, state)
