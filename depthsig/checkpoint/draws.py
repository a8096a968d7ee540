"""Random draws inside a forward, made reproducible: Huginn and its kin start their loop from noise.

A seed alone would not do: the noise of one prompt would depend on how many others are in its batch
and on their padding. Here a draw depends on the seed, on which draw of the forward it is, and on
the token's position; every prompt gets the same noise, whatever it is run with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from depthsig.checkpoint.anatomy.offloaded import devices_of
from depthsig.checkpoint.anatomy.probe import probe_ids
from depthsig.checkpoint.hooks import forward, undisturbed
from depthsig.errors import UnsupportedModelError

_BLOCK = 64
"""Tokens are drawn this many at a time, so that a longer prompt begins with a shorter one's noise."""


@dataclass(frozen=True)
class FirstForward:
    """What the model's own forward, in evaluation mode, showed when it first ran.

    Attributes:
        draws: whether it took anything from the random state.
        whole: whether it gave logits of every token, and not of the last ones alone.
    """

    draws: bool
    whole: bool


def first_forward(module: nn.Module) -> FirstForward:
    """Run a model for the first time, on a few tokens."""
    devices = [one for one in devices_of(module) if one.type == "cuda"]
    ids = probe_ids(module)
    with undisturbed(module):
        before = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)]
        logits = forward(module, ids)
        after = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)]
    drawn = not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return FirstForward(drawn, logits.shape[:2] == ids.shape)


class PositionalDraws(TorchDispatchMode):
    """Within it, draws of shape [..., token, d] depend on seed, draw and position only."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.calls = seed, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name not in _KINDS:
            if torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs):
                raise UnsupportedModelError(
                    f"the model's own forward draws at random ({name}), which cannot be fixed token by token; "
                    "dropout that stays on in evaluation mode is such a draw, and has to go"
                )
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        values = self._draw(tuple(out.shape), _KINDS[name])
        if name in ("normal_", "uniform_"):
            low, high = _bounds(name, args, kwargs)
            values = low + (high - low) * values if name == "uniform_" else low + high * values
        self.calls += 1
        return out.copy_(values.to(out))

    def _draw(self, shape: tuple[int, ...], kind: str) -> Tensor:
        tokens = shape[-2] if len(shape) > 1 else 1
        width = shape[-1] if shape else 1
        blocks = [self._block(i, width, kind) for i in range(math.ceil(tokens / _BLOCK))]
        drawn = torch.cat(blocks)[:tokens] if blocks else torch.empty(0, width)
        return drawn.reshape(shape[-2:]).expand(shape) if len(shape) > 1 else drawn.reshape(shape)

    def _block(self, index: int, width: int, kind: str) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.calls) * 65_537 + index)
        make = torch.rand if kind == "uniform" else torch.randn
        return make((_BLOCK, width), generator=generator)


def _draws(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a kernel that may draw does: those of attention only with dropout."""
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    return bool(named.get("dropout_p", 0.0)) if "attention" in func.overloadpacket.__name__ else True


_KINDS = {
    "normal_": "normal", "randn": "normal", "randn_like": "normal",
    "uniform_": "uniform", "rand": "uniform", "rand_like": "uniform",
}  # fmt: skip


def _bounds(name: str, args: tuple, kwargs: dict[str, Any]) -> tuple[float, float]:
    """The two parameters of ``normal_(mean, std)`` and ``uniform_(from, to)``."""
    names = ("mean", "std") if name == "normal_" else ("from", "to")
    given = [*args[1:3], *([None] * (2 - len(args[1:3])))]
    first, second = (kwargs.get(n) if g is None else g for n, g in zip(names, given, strict=True))
    return float(0.0 if first is None else first), float(1.0 if second is None else second)
