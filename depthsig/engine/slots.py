"""What runs where a step ran: one execution of some programs, as rows of one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from depthsig.engine.kernel import Call, RowBlock, change_mask, run_step, value_of
from depthsig.engine.program import Change, Op, Program
from depthsig.engine.rows import Clean, Rows, StepObserver


@dataclass
class SlotRunner:
    """Executes ops for a group of programs, and keeps what their damped passes started from.

    Attributes:
        numbers: what the observer knows each program by.
    """

    clean: Clean
    numbers: Int[Tensor, "program"]
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
        hidden = states.flatten(0, 1)
        rows = torch.arange(prompts, device=hidden.device).repeat(len(members))
        changes = [op.changes for op in ops for _ in range(prompts)] if any(op.changes for op in ops) else ()
        layer, watched = self.clean.network.layer_at(step), self.observer is not None
        out, update = run_step(
            layer, call or self.clean.calls[step], RowBlock(hidden, rows, changes), want_update=watched
        )
        if self.observer is not None and update is not None:
            numbers = self.numbers[list(members)].repeat_interleave(prompts)
            self.observer.step(step, Rows(numbers, rows), hidden, out, update)
        out = out.unflatten(0, (len(members), prompts))
        for place, op in enumerate(ops):
            if op.blend is not None:
                out[place] = self._saved[members[place]].lerp(out[place], op.blend)
        return out


def finished(programs: Sequence[Program], states: Float[Tensor, "program prompt token d"]) -> None:
    """Put the programs' changes of the final state into ``states``."""
    for i, program in enumerate(programs):
        for change in program.last:
            states[i] = blended(change, states[i], states[i])


def blended(
    change: Change, state: Float[Tensor, "prompt token d"], base: Float[Tensor, "prompt token d"], add: bool = False
) -> Float[Tensor, "prompt token d"]:
    """``state`` with the change's value (on top of ``base`` with ``add``) where it acts."""
    rows = []
    for prompt in range(state.shape[0]):
        mask = change_mask(change, prompt, state.shape[1], state.device)
        new = base[prompt] if add else torch.zeros_like(base[prompt])
        if change.value is not None:
            new = new + value_of(change, prompt, base)
        rows.append(torch.where(mask[:, None], new, state[prompt]))
    return torch.stack(rows)
