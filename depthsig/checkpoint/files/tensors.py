"""What weight files say of themselves: names, types and shapes of their tensors, before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.errors import InputError


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
