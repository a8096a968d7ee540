"""A plain hooked forward: what edits are held against, written without any of the engine's own machinery.

The untouched model runs once, from its first step to its last, with ordinary forward hooks on its
layers; they count the steps and change outputs. Nothing is replayed, batched or answered for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from depthsig.checkpoint.hooks import as_residual, first_tensor, forward, hidden_of, hooked, undisturbed, with_first
from depthsig.engine.clean_run import layer_calls
from depthsig.engine.network import Network
from depthsig.terms import Part

Removals = Mapping[int, tuple[Part, list[int]]]
"""By step, the part whose contribution is taken away, and at which positions."""


def plain_logits(
    network: Network, ids: Int[Tensor, "row token"], removals: Removals
) -> Float[Tensor, "row token vocab"]:
    """The logits of one forward in which some steps' parts add nothing at some positions.

    In the model's own order it is the model's own forward; in another order, its layers one by one.
    """
    watch = _Removing(network, removals)
    with undisturbed(network.module):
        if network.is_native:
            with hooked(**watch.hooks()):
                return forward(network.module, ids)
        hidden, calls = layer_calls(network.module, network.anatomy, network.trace, ids)
        with hooked(**watch.hooks()):
            for step in network.plan:
                own = calls[step.layer]
                hidden = own[min(step.iteration, len(own) - 1)](hidden)
        return network.readout(hidden)


class _Removing:
    """Hooks that count the steps and take parts away where they are told to."""

    def __init__(self, network: Network, removals: Removals) -> None:
        self.network, self.removals = network, removals
        self.step = -1
        self.entered: Tensor = torch.empty(0)

    def hooks(self) -> dict[str, list]:
        """Arguments for :func:`hooked`."""
        layers = self.network.anatomy.layers
        post: list[tuple[nn.Module, Any]] = [(layer.module, self._leave) for layer in layers]
        subs = {id(s.module): (s.module, kind) for x in layers for kind, s in (("attn", x.attn), ("mlp", x.mlp)) if s}
        post += [(module, self._silence(kind)) for module, kind in subs.values()]
        return {"pre": [(layer.module, self._enter) for layer in layers], "post": post}

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.step += 1
        hidden = hidden_of(args, kwargs)
        assert hidden is not None, "a traced layer was called without a residual stream"
        self.entered = hidden.clone()

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        part, where = self.removals.get(self.step, ("", None))
        out = first_tensor(output)
        if part != "layer" or where is None or out is None:
            return None
        changed = out.clone()
        changed[:, where] = self.entered[:, where]
        return with_first(output, changed)

    def _silence(self, kind: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            part, where = self.removals.get(self.step, ("", None))
            out = first_tensor(output)
            if part != kind or where is None or out is None:
                return None
            changed = as_residual(out, self.entered).clone()
            changed[:, where] = 0.0
            return with_first(output, changed.reshape(out.shape))

        return hook
