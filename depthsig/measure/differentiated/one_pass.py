"""One pass of a loop as a differentiable function of the states that enter it, whatever the model does in between.

Where nothing happens between steps, its layers run one by one. Elsewhere the model's own forward runs, in which the
steps before the pass are answered from the clean run, and which ends where the next pass begins: a final norm or an
injection belongs to the pass. What the pass is given beside its states (a prelude's output, another stream, keys and
values that others left) stays as the clean run had it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from depthsig.checkpoint.hooks import (
    StopForward,
    answered,
    forward,
    hidden_of,
    unanswered,
    with_first,
    with_hidden,
)
from depthsig.engine.rows import Clean
from depthsig.errors import UnsupportedModelError
from depthsig.plan.plan import SpanInfo


@dataclass(frozen=True)
class Pass:
    """F of one pass of a loop: from a phase of pass k to the same phase of the next.

    The pass after the last is the last one again. Where something happens between passes, which only the model's own
    forward does, the last pass is the last but one again, on the last one's states.

    Attributes:
        iteration: k. owners: for every row of states, the row of the batch whose prompt it is.
    """

    clean: Clean
    span: SpanInfo
    iteration: int
    phase: int
    owners: Int[Tensor, "row"]

    @property
    def start(self) -> int:
        """The step that the states enter in the clean run."""
        return self.span.start + self.iteration * self.span.size + self.phase

    @property
    def states(self) -> Float[Tensor, "row token d"]:
        """x^k at the phase: what entered the pass in the clean run."""
        return self.clean.state(self.start)[self.owners].detach()

    def __call__(self, states: Float[Tensor, "row token d"]) -> Float[Tensor, "row token d"]:
        """What enters the next pass at the phase, differentiable."""
        if not self.clean.network.is_chain:
            last = self.iteration == self.span.count - 1
            return _Inside(self.clean, self.start - last * self.span.size, self.span.size, states, self.owners).run()
        again = self.span.end - self.span.size
        after = self.start + self.span.size - self.span.end
        steps = [*range(self.start, min(self.start + self.span.size, self.span.end)), *range(again, again + after)]
        for step in steps:
            states = self.clean.calls[step](states, self.owners)
        return states


@dataclass
class _Inside:
    """The model's own forward from step ``first`` on, until ``size`` steps later the next one is about to run."""

    clean: Clean
    first: int
    size: int
    states: Float[Tensor, "row token d"]
    owners: Int[Tensor, "row"]
    step: int = 0
    found: list[Tensor] = field(default_factory=list)

    def run(self) -> Float[Tensor, "row token d"]:
        ids = self.clean.batch.ids[self.owners]
        layers = [layer.module for layer in self.clean.network.anatomy.layers]
        with torch.enable_grad(), answered(layers, self._answer), contextlib.suppress(StopForward):
            forward(self.clean.network.module, ids)
        assert self.found, "the next pass never began"
        return self.found[0]

    def _answer(self, module: nn.Module, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        step, trace = self.step, self.clean.network.trace
        self.step += 1
        whole = trace.outputs[trace.layers[step]]
        if step < self.first:
            if trace.reads is None:
                return with_first(whole, self.clean.run.outputs[step][self.owners])
            with torch.no_grad(), unanswered(module):  # what it leaves for others must be left
                return original(*args, **kwargs)
        if step > self.first and not torch.is_grad_enabled():
            _refuse(self.clean)  # what lies between steps was not followed
        # Some models run their first passes without gradients; until their own code ends that, this does.
        torch.set_grad_enabled(True)
        hidden = hidden_of(args, kwargs)
        assert hidden is not None, "a traced layer was called without a residual stream"
        if step == self.first + self.size:
            self.found.append(hidden)
            raise StopForward
        if step == self.first:
            args, kwargs = with_hidden(args, kwargs, self.states)
        with unanswered(module):
            return original(*args, **kwargs)


class OwnDerivative:
    """(∂F_t/∂x_t)ᵀ of one token t a row: the rest of the row's states stays as it is."""

    def __init__(self, one: Pass, positions: Int[Tensor, "row"]) -> None:
        states = one.states
        where = (torch.arange(len(positions), device=states.device), positions)
        with torch.enable_grad():
            self.entering = states[where].clone().requires_grad_(True)
            self.leaving = one(states.index_put(where, self.entering))[where]
        if not self.leaving.requires_grad:
            _refuse(one.clean)

    def __call__(self, vectors: Float[Tensor, "row n"]) -> Float[Tensor, "row n"]:
        """The transposed derivative times a vector a row."""
        return _pulled(self.leaving, self.entering, vectors)


class WholeDerivative:
    """(∂F/∂x)ᵀ over all positions where ``kept`` is true, a prompt a row; vectors are zero elsewhere."""

    def __init__(self, one: Pass, kept: Bool[Tensor, "row token"]) -> None:
        states = one.states
        with torch.enable_grad():
            self.entering = states.clone().requires_grad_(True)
            self.leaving = torch.where(kept[..., None], one(torch.where(kept[..., None], self.entering, states)), 0.0)
        if not self.leaving.requires_grad:
            _refuse(one.clean)

    def __call__(self, vectors: Float[Tensor, "row n"]) -> Float[Tensor, "row n"]:
        """The transposed derivative times a vector a row over all positions' states, one after another."""
        return _pulled(self.leaving, self.entering, vectors.view(self.leaving.shape)).flatten(1)


def _pulled(leaving: Tensor, entering: Tensor, vectors: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(
        leaving, entering, vectors.to(leaving.dtype), retain_graph=True, materialize_grads=True
    )
    return found.float()


def _refuse(clean: Clean) -> NoReturn:
    """Refuse what gradients cannot be followed through.

    Raises:
        UnsupportedModelError: naming the model.
    """
    raise UnsupportedModelError(
        f"the derivative of a pass cannot be followed through {clean.network.anatomy.family}, which leaves gradients "
        "out of some of its passes; other loop metrics can be measured (--metrics loop)"
    )
