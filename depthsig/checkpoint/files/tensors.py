"""What weight files say of themselves: names, types and shapes of their tensors, before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from depthsig.errors import InputError


@dataclass(frozen=True)
class HeldTensor:
    """One tensor as the header of its file describes it.

    Attributes:
        kind: type of the numbers, as the format calls it (``F32``, ``BF16``, ``I8``, ``Q4_1`` …).
        shape: as in torch.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    file: Path

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def is_floating(self) -> bool:
        """Whether its numbers are plain floating-point ones that mean themselves."""
        return self.kind in ("F64", "F32", "F16", "BF16")


def safetensors_header(file: Path) -> list[HeldTensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: if it is truncated, damaged, or something else under that name.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            pieces = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return [HeldTensor(n, p.get_dtype(), tuple(p.get_shape()), file) for n, p in pieces.items()]
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{str(file)!r} is truncated or damaged ({reason})") from None


def by_name(tensors: Sequence[HeldTensor]) -> dict[str, HeldTensor]:
    """Tensors under their names.

    Raises:
        InputError: where two files hold different ones of the same name: which of them is read is chance.
    """
    found: dict[str, HeldTensor] = {}
    for tensor in tensors:
        before = found.setdefault(tensor.name, tensor)
        if before is not tensor and not _same(before, tensor):
            raise InputError(
                f"the weight {tensor.name!r} is in {before.file.name!r} and, with other numbers, in "
                f"{tensor.file.name!r}; one of them must go"
            )
    return found


def read_tensor(held: HeldTensor) -> Tensor:
    """The numbers of a tensor of a safetensors file."""
    with safe_open(held.file, framework="pt") as opened:
        return opened.get_tensor(held.name)


def _same(a: HeldTensor, b: HeldTensor) -> bool:
    return (a.kind, a.shape) == (b.kind, b.shape) and torch.equal(read_tensor(a), read_tensor(b))
