"""Growing a model in depth: which layers are copied, and where the copies go."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from .model import Llama
from .optim import Optimizer


def insertion(arm: str, layers: int, block: int) -> tuple[int, list[int]]:
    """Where copies go, and of which layers, when ``layers`` grow by one block.

    midas: block ⌈n/2⌉−1 of n is copied right after itself. lidas: the ``block`` layers centred on
    the middle layer are copied right after themselves; at even n they straddle two blocks.

    >>> insertion("midas", 8, 4), insertion("lidas", 8, 4)
    ((4, [0, 1, 2, 3]), (6, [2, 3, 4, 5]))
    """
    if arm == "midas":
        n = layers // block
        first = (math.ceil(n / 2) - 1) * block
    elif arm == "lidas":
        first = (layers - block) // 2
    else:
        raise ValueError(f"{arm!r} does not grow; midas and lidas do")
    return first + block, list(range(first, first + block))


def grow(model: Llama, optimizer: Optimizer, arm: str, block: int) -> dict[str, Any]:
    """Insert one block into the model, the optimizer's state copied with it.

    Returns:
        ``{"inserted_at", "copied_from"}``, in layers of the model before it grew.
    """
    at, sources = insertion(arm, len(model.blocks), block)
    originals = [model.blocks[i] for i in sources]
    model.insert_copies(at, sources)
    for original, new in zip(originals, range(at, at + block), strict=True):
        optimizer.copy_state(original, model.blocks[new])
    model.shape = replace(model.shape, layers=len(model.blocks))
    return {"inserted_at": at, "copied_from": sources}
