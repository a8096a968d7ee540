"""Between the host and a device: the only place that numbers leave a device through.

Whatever asks for a number makes the host wait for all that a device has been given to do. So what a batch finds
stays on its device until the batch ends (:class:`Pending`), and what it needs is built on the host as whole
arrays and sent ahead (:func:`upload`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from numpy import ndarray
from torch import Tensor

K = TypeVar("K")

PENDING_BYTES = 1 << 28
"""So much may wait on a device before it is fetched."""


def upload(array: Shaped[ndarray, "*any"], device: torch.device) -> Shaped[Tensor, "*any"]:
    """An array on a device, without waiting for it; what it was made from must not be changed."""
    return torch.as_tensor(np.ascontiguousarray(array)).to(device, non_blocking=True)


def fetch(tensors: Mapping[K, Tensor]) -> dict[K, ndarray]:
    """Tensors as arrays, in one transfer for each dtype and device."""
    together: dict[tuple[torch.dtype, torch.device], list[K]] = {}
    for name, tensor in tensors.items():
        together.setdefault((tensor.dtype, tensor.device), []).append(name)
    found: dict[K, ndarray] = {}
    for names in together.values():
        flat = [tensors[name].detach().reshape(-1) for name in names]
        whole = _copied(flat[0] if len(flat) == 1 else torch.cat(flat))
        ends = np.cumsum([len(one) for one in flat])
        for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True):
            found[name] = whole[start:end].reshape(tuple(tensors[name].shape))
    return {name: found[name] for name in tensors}


def _copied(tensor: Tensor) -> ndarray:
    """The transfer itself."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    copied: ndarray = tensor.cpu().numpy()
    return copied


class Pending:
    """What a batch has found, still on its device, and what is to be done with it on the host."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Sequence[Tensor], Callable[..., Any]]] = []
        self._bytes = 0

    def add(self, then: Callable[..., Any], *tensors: Shaped[Tensor, "*any"]) -> None:
        """Call ``then`` with the tensors as arrays, once they are on the host; in the order of these calls."""
        self._waiting.append((tensors, then))
        self._bytes += sum(t.numel() * t.element_size() for t in tensors)
        if self._bytes > PENDING_BYTES:
            self.settle()

    def settle(self) -> None:
        """Fetch everything that waits, and do what is to be done with it."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        places = {(i, j): t for i, (tensors, _) in enumerate(waiting) for j, t in enumerate(tensors)}
        found = fetch(places)
        for i, (tensors, then) in enumerate(waiting):
            then(*(found[i, j] for j in range(len(tensors))))
