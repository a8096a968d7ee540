"""A GGUF file is read once: transformers is given what was read, where it would read it anew three times.

Its own rules decide what the file means: the names, the config, the tokenizer and the order of rows. Only what it
asks the package ``gguf`` for is answered faster here: the keys and tensors of a file (an array object for each token
and merge there), the table of names (made anew for each module of the model) and the numbers that blocks stand for
(sixteen rows at a time).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from transformers.integrations.ggml import _gguf_parse_value

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.checkpoint.gguf.gguf_header import GgufHeader

_READ = 99
"""A type of values that the format does not have: transformers takes a value of an unknown type as it is."""
_PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1"}
"""Types whose numbers stand for themselves, as numpy has them; others come in blocks of bytes."""
_AT_ONCE = 1 << 18
"""Numbers that are unpacked at once: what they need on the way stays in a processor's cache."""


@contextmanager
def read_once(header: GgufHeader | None, tick: Callable[[float], None]) -> Iterator[None]:
    """Within it, ``gguf`` answers for this file from its header; for any other as always.

    Args:
        tick: told the bytes of each tensor when they have been unpacked.
    """
    if header is None or _gguf_parse_value(header, [_READ]) is not header:
        yield
        return
    given = {name: getattr(gguf, name) for name in ("GGUFReader", "dequantize", "get_tensor_name_map")}

    def reader(path: Any, *args: Any, **kwargs: Any) -> Any:
        ours = isinstance(path, (str, Path)) and Path(path) == header.file and not args and not kwargs
        return _AsRead(header) if ours else given["GGUFReader"](path, *args, **kwargs)

    def dequantize(data: Any, kind: Any) -> Any:
        tick(data.nbytes)
        return _unpacked(data, kind, given["dequantize"])

    ours = {
        "GGUFReader": reader, "dequantize": dequantize,
        "get_tensor_name_map": functools.cache(given["get_tensor_name_map"]),
    }  # fmt: skip
    try:
        for name, function in ours.items():
            setattr(gguf, name, function)
        yield
    finally:
        for name, function in given.items():
            setattr(gguf, name, function)


class _Field(NamedTuple):
    """A key as ``gguf`` has it: parts, which of them are values, and the types of these."""

    parts: list[Any]
    data: range
    types: list[int]


class _Tensor(NamedTuple):
    name: str
    tensor_type: GGMLQuantizationType
    data: np.ndarray


@dataclass(frozen=True)
class _AsRead:
    """What transformers reads of a ``gguf.GGUFReader``."""

    header: GgufHeader

    @functools.cached_property
    def fields(self) -> dict[str, _Field]:
        return {key: _field(key, value) for key, value in self.header.keys.items()}

    @functools.cached_property
    def tensors(self) -> list[_Tensor]:
        data = np.asarray(np.memmap(self.header.file, mode="r", dtype=np.uint8))
        offsets = self.header.offsets
        return [_tensor(held, data[offsets[held.name] :]) for held in self.header.tensors]


def _field(key: str, value: Any) -> _Field:
    name = key.encode()
    before = [np.array([len(name)], np.uint64), np.frombuffer(name, np.uint8), None]
    values = value if isinstance(value, list) else [value]
    return _Field([*before, *values], range(len(before), len(before) + len(values)), [_READ])


def _tensor(held: HeldTensor, data: np.ndarray) -> _Tensor:
    kind = GGMLQuantizationType[held.kind]
    if held.kind in _PLAIN:
        plain = np.dtype(_PLAIN[held.kind])
        return _Tensor(held.name, kind, data[: held.count * plain.itemsize].view(plain).reshape(held.shape))
    shape = gguf.quant_shape_to_byte_shape(held.shape, kind)
    return _Tensor(held.name, kind, data[: int(np.prod(shape))].reshape(shape))


def _unpacked(data: np.ndarray, kind: GGMLQuantizationType, dequantize: Callable[..., Any]) -> Any:
    """What ``dequantize`` gives, many rows at a time as one: a row is whole blocks, and each is unpacked by itself."""
    if data.dtype != np.uint8 or data.ndim < 2:
        return dequantize(data, kind)
    shape = gguf.quant_shape_from_byte_shape(data.shape, kind)
    rows = data.reshape(-1, data.shape[-1])
    found = np.empty((len(rows), shape[-1]), np.float32)
    step = max(1, _AT_ONCE // shape[-1])
    for at in range(0, len(rows), step):
        piece = rows[at : at + step]
        found[at : at + step] = dequantize(piece.reshape(1, -1), kind).reshape(len(piece), -1)
    return found.reshape(shape)
