"""Jacobians of a model's states by plain hooks and ``torch.autograd.functional.jacobian``, one depth at a time.

Slow on purpose and written from the definition; it shares nothing with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class PlainRun:
    """A forward in which one step's input can be put in the place of the model's own."""

    def __init__(self, layers: Sequence[nn.Module], call: Callable[[Tensor], Any]) -> None:
        self.layers, self.call = list({id(m): m for m in layers}.values()), call

    def states(self, ids: Tensor) -> list[Tensor]:
        """What enters every step."""
        return self._run(ids, None, None)[0]

    def output(self, ids: Tensor, step: int, depth: int, state: Tensor) -> Tensor:
        """What leaves ``step`` where ``state`` enters step ``depth``."""
        return self._run(ids, depth, state)[1][step]

    def _run(self, ids: Tensor, depth: int | None, state: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []

        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            own = args[0] if args else kwargs["hidden_states"]
            given = own if len(inputs) != depth else state
            inputs.append(own)
            return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": given})

        def leave(module: nn.Module, args: tuple, output: Any) -> None:
            outputs.append(output[0] if isinstance(output, tuple) else output)

        handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in self.layers]
        handles += [m.register_forward_hook(leave) for m in self.layers]
        try:
            self.call(ids)
        finally:
            for handle in handles:
                handle.remove()
        return inputs, outputs

    def jacobian(self, ids: Tensor, step: int, depth: int, skip: int) -> Tensor:
        """(1/|V|) Σ_{t∈V} Σ_{t'∈V, t'≥t} ∂(what leaves step)_t'/∂h_depth,t of one prompt [1, token]."""
        state = self.states(ids)[depth].detach()
        valid = range(skip, ids.shape[1] - 1)
        whole = torch.autograd.functional.jacobian(
            lambda h: self.output(ids, step, depth, h.clone())[0, valid.start : valid.stop], state
        )
        found = torch.zeros(state.shape[-1], state.shape[-1])
        for t in valid:
            for later in range(t, valid.stop):
                found += whole[later - valid.start, :, 0, t, :]
        return found / len(valid)
