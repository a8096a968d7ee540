"""Whether a layer needs nothing but its own call: found by running every layer beside disturbed ones.

Gemma 4's late layers read the keys and values that an earlier one left in a dictionary, Zaya's routers
the state of the router before, GLM's sparse attention the tokens that an earlier layer chose. None of
it is in the residual stream, and where edits run together each must find its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.adapter import Layer
from depthsig.checkpoint.anatomy.probe import probe_ids
from depthsig.checkpoint.hooks import StopForward, answered, first_tensor, forward, undisturbed, with_hidden

_OWN_ERRORS = (RuntimeError, LookupError, ValueError, TypeError)
"""What a layer may raise that finds its own earlier call where it expected nothing."""


def trace_ids(module: nn.Module, rows: int) -> Tensor:
    """The token ids [rows, 5] that a model is traced on: every row is the same."""
    return probe_ids(module, 1, 5).repeat(rows, 1)


def reading_layer(
    module: nn.Module, layers: Sequence[Layer], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> int | None:
    """The first layer whose output depends on more than its input, its place and its tokens; None if none does.

    One forward runs every step twice: on its clean input, where it must give its clean output, and
    then on a disturbed one, so that whatever it leaves for later layers is not what it was.

    Args:
        inputs, outputs: of every step of a clean forward on :func:`trace_ids`.
    """
    index = {id(layer.module): layer.index for layer in layers}
    found: list[int] = []
    step = 0

    def twice(layer: nn.Module, own: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        nonlocal step
        before, after = inputs[step], outputs[step]
        step += 1
        try:
            alone = first_tensor(_call(own, args, kwargs, before))
            disturbed = _call(own, args, kwargs, before.roll(1, -1))
        except _OWN_ERRORS as error:
            # What can be called once only (a cache that grows with every call) keeps something, too.
            found.append(index[id(layer)])
            raise StopForward from error
        if alone is None or not _same(alone, after):
            found.append(index[id(layer)])
        return disturbed

    rows = inputs[0].shape[0] if inputs else 1
    with (
        undisturbed(module),
        answered([layer.module for layer in layers], twice),
        contextlib.suppress(StopForward),
    ):
        forward(module, trace_ids(module, rows))
    return found[0] if found else None


def _call(own: Callable[..., Any], args: tuple, kwargs: dict[str, Any], hidden: Tensor) -> Any:
    args, kwargs = with_hidden(args, kwargs, hidden.clone())
    return own(*args, **kwargs)


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal, or off by no more than kernels that add up in any order are."""
    if a.shape != b.shape:
        return False
    allowed = max(1e-6, torch.finfo(b.dtype).eps / 4)
    return torch.equal(a, b) or bool((a.double() - b.double()).norm() <= allowed * b.double().norm())
