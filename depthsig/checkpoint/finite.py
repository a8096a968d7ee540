"""Weights that are not numbers, found before anything is computed with them."""

from __future__ import annotations

import torch
from torch import nn

from depthsig.errors import InputError


def check_finite(module: nn.Module) -> None:
    """Refuse a model with NaN or infinite weights.

    Raises:
        InputError: naming the first such tensor.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not is_finite(parameter.detach()):
            raise InputError(
                f"weight {name!r} holds values that are not finite; the checkpoint is damaged or "
                "overflowed in its dtype (try --dtype float32)"
            )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    # 0 · x is NaN for NaN and infinity: one cheap pass, and no mask as large as the tensor.
    return tensor.numel() == 0 or not bool(torch.isnan((tensor * 0).sum()))
