"""A metric's function, called with what its run offers, and held to what it should give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from depthsig.errors import InputError
from depthsig.metrics import Metric
from depthsig.metrics.entries.asking import blamed

KEPT_VALUES = 1 << 20
"""So many values of what a user's own function is given are held against what it leaves."""


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
    apart = next((name for name in one.asks() if name not in offered), "")
    if apart:
        raise InputError(f"metric {one.id!r} asks for {apart!r} beside what is never offered with it; ask for one")
    arguments = {name: offered[name] for name in one.asks()}
    before = {name: _seen(a) for name, a in arguments.items()} if one.own else {}
    with blamed(one.id, one.own, arguments):
        found = one.function(**arguments)
        found = getattr(found, one.result) if one.result and not whole else found
    if one.own:
        changed = next((name for name, a in arguments.items() if not _same(before[name], _seen(a))), "")
        if changed:
            raise InputError(f"metric {one.id!r} changes {changed!r}, which others are given too; let it make a copy")
    # What a function gives may be a view of a buffer that is used again.
    return found.clone() if one.own and isinstance(found, Tensor) else found


def _seen(argument: Any) -> list[tuple[int, Tensor]]:
    """What tells whether tensors are changed by torch (their versions) or behind it: a copy, thinned if it is large."""
    if isinstance(argument, (list, tuple)):
        return [seen for one in argument for seen in _seen(one)]
    if not isinstance(argument, Tensor):
        return []
    values = argument.detach()
    thinned = values[..., :: 1 + values.numel() // KEPT_VALUES] if values.ndim else values
    return [(argument._version, thinned.clone())]


def _same(before: list[tuple[int, Tensor]], after: list[tuple[int, Tensor]]) -> bool:
    pairs = zip(before, after, strict=True)
    return all(v == w and bool(((a == b) | (a.isnan() & b.isnan())).all()) for (v, a), (w, b) in pairs)


def values_of(one: Metric, offered: Mapping[str, Any], *shape: int) -> Tensor:
    """What the function of ``one`` gives, as a tensor of this shape.

    Raises:
        InputError: where a user's own function fails, or gives something else.
    """
    return held(one, call(one, offered), *shape)


def held(one: Metric, found: Any, *shape: int) -> Tensor:
    """What a function gave, as a tensor of this shape.

    Raises:
        InputError: where it is something else.
    """
    if not isinstance(found, Tensor):
        try:
            found = torch.as_tensor(np.array(found))
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
