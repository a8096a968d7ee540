"""A run that gradients can be followed through, from what leaves any step back to what enters any before it.

The model's own forward is run, with the weights held constant. The state at depth d is what enters step
d, and a gradient towards it is the total derivative along the rest of the run: through the stream, through
norms and maps between steps, and through keys and values that later layers take from it. What was made
before step d and goes past it is constant: the prelude's output that a loop is fed again, for a step
within the loop, or embeddings that are added once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from depthsig.checkpoint.hooks import StopForward, first_tensor, forward, hidden_of, hooked, undisturbed, with_hidden
from depthsig.engine.clean_run import layer_calls
from depthsig.engine.network import Network
from depthsig.errors import InputError, UnsupportedModelError


@dataclass
class Differentiable:
    """One batch's run under autograd.

    Attributes:
        first: the depth from which gradients are followed; none goes further back.
        states: by depth, where the gradient of what enters that step arrives.
        outputs: by step, what leaves it, of the steps that were asked for.
    """

    first: int
    states: dict[int, GradientEdge] = field(default_factory=dict)
    outputs: dict[int, Float[Tensor, "row token d"]] = field(default_factory=dict)

    def enter(self, step: int, hidden: Float[Tensor, "row token d"]) -> Float[Tensor, "row token d"]:
        """What the step is given in the place of ``hidden``: the same numbers, followed from ``first`` on."""
        if step < self.first:
            return hidden
        state = hidden.detach().requires_grad_() if step == self.first else hidden.clone()
        if not state.requires_grad:
            raise UnsupportedModelError(
                f"gradients cannot be followed through this model: what enters step {step} was computed without them"
            )
        self.states[step] = get_gradient_edge(state)
        return state.clone()  # some families add in place

    def gradients(
        self, step: int, depths: Sequence[int], towards: Float[Tensor, "row token d"]
    ) -> list[Float[Tensor, "row token d"] | None]:
        """Σ towards · ∂(what leaves ``step``)/∂h_d for every depth; None where nothing depends on it."""
        found = torch.autograd.grad(
            self.outputs[step], [self.states[depth] for depth in depths], towards, retain_graph=True, allow_unused=True
        )
        return list(found)


@contextlib.contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """The weights as constants, so that no gradient of theirs is computed; their flags come back afterwards."""
    asking = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def refuse_without_gradients(network: Network) -> None:
    """Refuse a model that no gradient can go back through.

    Raises:
        InputError: where layers are read from files as they run: they are gone when a gradient comes back.
    """
    if network.is_streamed:
        raise InputError("gradients need all layers in memory at once; load the model without --stream")


@contextlib.contextmanager
def differentiable_run(
    network: Network, ids: Int[Tensor, "row token"], outputs: Sequence[int], first: int = 0
) -> Iterator[Differentiable]:
    """The plan's run of a batch under autograd, as long as the context lasts.

    Args:
        outputs: the steps whose outputs gradients will be taken of.
        first: the first depth that gradients are wanted at; what is before it is computed without them.

    Raises:
        InputError: for a model whose layers are read as they run.
        UnsupportedModelError: where a layer computes without gradients.
    """
    refuse_without_gradients(network)
    found = Differentiable(first)
    with constant(network.module), undisturbed(network.module), torch.enable_grad():
        if network.is_native:
            _native(network, ids, outputs, found)
        else:
            _ordered(network, ids, outputs, found)
        for step, out in found.outputs.items():
            if not out.requires_grad:
                raise UnsupportedModelError(
                    f"gradients cannot be followed through this model: what leaves step {step} was computed without "
                    "them"
                )
        yield found


def _native(network: Network, ids: Int[Tensor, "row token"], outputs: Sequence[int], found: Differentiable) -> None:
    """The model's own forward, up to the last step that is asked for."""
    entered = left = 0
    last = max(outputs)

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        nonlocal entered
        hidden = hidden_of(args, kwargs)
        assert hidden is not None, "a traced layer was called without a residual stream"
        entered += 1
        return with_hidden(args, kwargs, found.enter(entered - 1, hidden))

    def leave(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        nonlocal left
        if left in outputs:
            out = first_tensor(output)
            assert out is not None, "a traced layer returned no tensor"
            found.outputs[left] = out.clone()
        left += 1
        if left > last:
            raise StopForward

    layers = [layer.module for layer in network.anatomy.layers]
    entering, leaving = [(m, enter) for m in layers], [(m, leave) for m in layers]
    with hooked(entering, leaving), contextlib.suppress(StopForward):
        forward(network.module, ids)


def _ordered(network: Network, ids: Int[Tensor, "row token"], outputs: Sequence[int], found: Differentiable) -> None:
    """Another order of layers, each with the arguments that its own call has."""
    hidden, calls = layer_calls(network.module, network.anatomy, network.trace, ids)
    for step in network.plan.steps[: max(outputs) + 1]:
        own = calls[step.layer]
        hidden = own[min(step.iteration, len(own) - 1)](found.enter(step.step, hidden))
        if step.step in outputs:
            found.outputs[step.step] = hidden.clone()
