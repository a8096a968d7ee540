"""Values that are not numbers: in weights before anything is computed with them, and in what is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.offloaded import stored
from depthsig.errors import InputError


def check_finite(module: nn.Module, apart: Collection[str] = ()) -> None:
    """Refuse a model with NaN or infinite weights, or with weights that are not there.

    Args:
        apart: names of weights that are looked at when they are read.

    Raises:
        InputError: naming the first such tensor.
    """
    for name, value in stored(module, buffers=True):
        if value is None or value.is_meta:
            raise InputError(
                f"weight {name!r} is on the meta device and was never loaded; a model whose weights are all there "
                "works, in memory or offloaded by accelerate"
            )
    for name, value in stored(module):
        if value is not None and value.is_floating_point() and name not in apart:
            refuse_weight(name, value)


def refuse_weight(name: str, weight: Tensor) -> None:
    """Refuse a weight that holds NaN or infinity.

    Raises:
        InputError: naming it.
    """
    if weight.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(weight))).all()):
        raise InputError(
            f"weight {name!r} holds values that are not finite; the checkpoint is damaged or "
            "overflowed in its dtype (try --dtype float32)"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    return tensor.numel() == 0 or not bool(lacks_a_number(tensor))


def lacks_a_number(tensor: Tensor) -> Bool[Tensor, ""]:
    """Whether a tensor holds NaN or infinity, told on its own device."""
    # 0 · x is NaN for NaN and infinity: one cheap pass, and no mask as large as the tensor.
    return torch.isnan((tensor * 0).sum())


def refuse_not_finite(states: Iterable[tuple[str, Tensor | None]]) -> None:
    """Refuse what a model computes where it is NaN or infinite.

    Args:
        states: with a name each, in the order in which they are computed.

    Raises:
        InputError: naming the first such state and its dtype.
    """
    for name, state in states:
        if state is not None and not is_finite(state):
            raise InputError(not_finite(name, state.dtype))


def not_finite(name: str, dtype: torch.dtype) -> str:
    """One line: what is not finite, in which dtype, and what would work.

    >>> not_finite("layer 3", torch.float16).partition(":")[0]
    'layer 3 gives values that are not finite in float16'
    """
    kind = str(dtype).removeprefix("torch.")
    if dtype in (torch.float16, torch.bfloat16):
        remedy = (
            "it overflows there, or its config is not that of its weights; --dtype float32 works in the first case "
            "(a live model: .float())"
        )
    else:
        # Weights that are not finite were refused before, by name.
        remedy = (
            "its weights are finite, so they are too large for this dtype, or its config (an epsilon, a scale, a rope) "
            "is not that of these weights; the config that they were trained with works"
        )
    return f"{name} gives values that are not finite in {kind}: {remedy}"
