"""Files of tensors: what weight files say of themselves before any is read, and tensors read with nothing executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.errors import InputError
from depthsig.untrusted import size_of


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


def read_pickled(path: Path, *, mmap: bool = False) -> dict[Any, Any]:
    """What a ``.pt`` holds, a mapping of tensors and plain values; nothing in it is executed.

    Args:
        mmap: leave tensors in the file until they are used.

    Raises:
        InputError: in one line, for what is damaged, or holds more than tensors and plain values.
    """
    try:
        size_of(path)
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except RuntimeError:
            if not mmap:
                raise
            found = torch.load(path, map_location="cpu", weights_only=True)  # as before torch 1.6: cannot be mapped
    except pickle.UnpicklingError:
        raise InputError(
            f"{str(path)!r} holds more than tensors, which could run code when loaded; plain tensors can be read"
        ) from None
    # What torch raises for a file that is no archive depends on the byte at which it notices.
    except (
        OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
        AssertionError, NotImplementedError, MemoryError,
    ) as error:  # fmt: skip
        raise _damaged(path, error) from None
    if not isinstance(found, Mapping):
        raise InputError(f"{str(path)!r} holds a {type(found).__name__}; a mapping was expected")
    return dict(found)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: in one line, for what is damaged.
    """
    try:
        size_of(path)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, LookupError, OverflowError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{str(path)!r} is truncated or damaged ({' '.join(str(error).split())[:120]})")


def _same(a: HeldTensor, b: HeldTensor) -> bool:
    return (a.kind, a.shape) == (b.kind, b.shape) and torch.equal(read_tensor(a), read_tensor(b))
