"""Where in a safetensors file each tensor lies: the header is untrusted, and held against the file's size."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from depthsig.errors import InputError, shown

HEADER_BYTES = 100_000_000
"""As much as the format allows a header to have."""

CACHE_LINE = 64
"""Bytes of a line of the cache, to which torch aligns what it allocates on a CPU."""

TENSORS = 1_000_000
"""Tensors that one file may hold."""

STORED_KINDS: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of numbers that a streamed file may hold, as the format calls them."""


@dataclass(frozen=True)
class Extent:
    """A tensor's place in its file.

    Attributes:
        start: of its first byte, from the beginning of the file.
    """

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    def shift(self, dtype: torch.dtype) -> int:
        """Bytes from an aligned place at which a tensor of this dtype lies that was loaded.

        What is not converted is used where the file is mapped, and kernels round by where their numbers begin.
        """
        shift = self.start % CACHE_LINE
        return shift if dtype == self.dtype and shift % dtype.itemsize == 0 else 0

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return self.count * self.dtype.itemsize


def read_extents(file: Path) -> list[Extent]:
    """Every tensor of a safetensors file.

    Raises:
        InputError: for a header that is no such header, or whose tensors do not lie within the file.
    """
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(HEADER_BYTES, size - 8):
                raise _damaged(file, f"its header would be {length} bytes of {size}")
            found = json.loads(opened.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, " ".join(str(error).split())[:200]) from None
    if not isinstance(found, dict) or len(found) > TENSORS:
        raise _damaged(file, f"its header is {shown(found)}")
    found.pop("__metadata__", None)
    return [_extent(file, name, entry, 8 + length, size) for name, entry in found.items()]


def _extent(file: Path, name: str, entry: Any, data: int, size: int) -> Extent:
    told = entry if isinstance(entry, dict) else {}
    kind: Any = told.get("dtype")
    shape: Any = told.get("shape")
    offsets: Any = told.get("data_offsets")
    if not isinstance(kind, str) or kind not in STORED_KINDS:
        raise InputError(
            f"{shown(name)[1:-1]} of {str(file)!r} holds {shown(kind)} numbers, which --stream does not read; "
            f"{', '.join(STORED_KINDS)} work, and loading without --stream may"
        )
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise _damaged(file, f"{shown(name)[1:-1]} has the shape {shown(shape)} at {shown(offsets)}")
    found = Extent(name, file, STORED_KINDS[kind], tuple(shape), data + offsets[0])
    if offsets[1] - offsets[0] != found.nbytes or found.start + found.nbytes > size:
        raise _damaged(file, f"{shown(name)[1:-1]} lies at {offsets[0]}..{offsets[1]}, which is not its size")
    return found


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 62 for one in value)


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(f"{str(file)!r} is truncated or damaged ({reason})")
