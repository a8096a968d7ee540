"""A metric's function, called with what its run offers, and held to what it should give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from depthsig.errors import DepthsigError, InputError
from depthsig.metrics import Metric


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def call(one: Metric, offered: Mapping[str, Any], *, whole: bool = False) -> Any:
    """What the function of ``one`` gives: the field that its entry names, or the ``whole`` record.

    Args:
        offered: everything that the run has; the function gets what it asks for.

    Raises:
        InputError: where a user's own function fails, or changes what it was given.
    """
    assert one.function is not None, f"{one.id} was read from a file and cannot be measured"
    arguments = {name: offered[name] for name in one.asks()}
    before = {name: a._version for name, a in arguments.items() if isinstance(a, Tensor)}
    try:
        found = one.function(**arguments)
    except (DepthsigError, MemoryError):
        raise
    except Exception as error:
        if not one.own or "out of memory" in str(error):
            raise
        said = " ".join(str(error).split())
        shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in arguments.items() if isinstance(v, Tensor))
        raise InputError(f"metric {one.id!r} failed: {type(error).__name__}: {said} (given {shapes})") from error
    changed = [name for name, version in before.items() if arguments[name]._version != version]
    if changed:
        raise InputError(f"metric {one.id!r} changes {changed[0]!r}, which others are given too; let it make a copy")
    return getattr(found, one.result) if one.result and not whole else found


def values_of(one: Metric, offered: Mapping[str, Any], *shape: int) -> Tensor:
    """What the function of ``one`` gives, as a tensor of this shape.

    Raises:
        InputError: where a user's own function fails, or gives something else.
    """
    found = call(one, offered)
    if not isinstance(found, Tensor):
        try:
            found = torch.as_tensor(np.asarray(found))
        except (TypeError, ValueError):
            found = torch.empty(0)
    if tuple(found.shape) != shape or found.is_complex():
        raise InputError(f"metric {one.id!r} gives {_said(found)}; {list(shape)} was expected, {_EXPECTED[one.level]}")
    return found.detach()


_EXPECTED = {
    "token": "a number for each row of what it is given",
    "stack": "its cells first and the tokens last",
    "pooled": "one whole matrix",
    "rest": "a number for each token",
    "table": "a number for each row",
}  # fmt: skip


def _said(found: Tensor) -> str:
    return f"complex numbers of shape {list(found.shape)}" if found.is_complex() else f"the shape {list(found.shape)}"
