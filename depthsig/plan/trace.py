"""Observe one forward: which layer runs when. The plan is never guessed from the config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.adapter import Layer
from depthsig.checkpoint.hooks import (
    first_tensor,
    forward,
    hidden_of,
    hooked,
    undisturbed,
)
from depthsig.checkpoint.probe import probe_ids
from depthsig.errors import UnsupportedModelError


@dataclass(frozen=True)
class Trace:
    """What a forward showed.

    Attributes:
        layers: the layer of every step, in the order they ran.
        chained: for every step, whether its input is the previous step's output untouched.
        returns_tuple: for every layer that ran, whether its output is a tuple.
        width: size of the residual stream.
    """

    layers: tuple[int, ...]
    chained: tuple[bool, ...]
    returns_tuple: dict[int, bool]
    width: int

    @property
    def is_chain(self) -> bool:
        """Whether nothing happens between the steps, so that they can be run one by one."""
        return all(self.chained)


@dataclass
class _Seen:
    layers: list[int]
    chained: list[bool]
    tuples: dict[int, bool]
    width: int = 0


def trace_forward(module: nn.Module, layers: Sequence[Layer]) -> Trace:
    """Trace ``module`` on two small batches.

    Raises:
        UnsupportedModelError: if the order of layers depends on the batch size.
    """
    one, two = (_watch(module, layers, rows) for rows in (1, 2))
    if one.layers != two.layers:
        raise UnsupportedModelError(
            f"{type(module).__name__} runs its layers in another order for another batch; "
            "only models whose order of layers is fixed can be analysed"
        )
    return Trace(tuple(two.layers), tuple(two.chained), two.tuples, two.width)


def _watch(module: nn.Module, layers: Sequence[Layer], rows: int) -> _Seen:
    seen = _Seen([], [], {})
    index = {id(layer.module): layer.index for layer in layers}
    last: list[Tensor] = []

    def enter(m: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = hidden_of(args, kwargs)
        if hidden is None:
            raise UnsupportedModelError(f"layer {index[id(m)]} is called without a residual stream")
        seen.layers.append(index[id(m)])
        seen.chained.append(not last or torch.equal(last[-1], hidden))
        seen.width = hidden.shape[-1]

    def leave(m: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            last[:] = [tensor.clone()]
        seen.tuples[index[id(m)]] = isinstance(output, (tuple, list))

    modules = [layer.module for layer in layers]
    with (
        undisturbed(module),
        hooked(pre=[(m, enter) for m in modules], post=[(m, leave) for m in modules]),
    ):
        forward(module, probe_ids(module, 1, 5).repeat(rows, 1))
    return seen
