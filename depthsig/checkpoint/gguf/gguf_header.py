"""The header of a GGUF file, read with a bound on everything that it claims.

Other readers believe its counts, and loop or allocate accordingly; here each is held against the bytes that
are there. The format is llama.cpp's (docs/gguf.md of ggml).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.errors import InputError, UnsupportedModelError, shown

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4  # of ggml itself
_LEAST_KEY, _LEAST_TENSOR = 13, 33
"""Bytes of the shortest key with its value, and of the shortest description of a tensor."""


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says.

    Attributes:
        keys: every key with its value; of an array of strings, the strings.
        offsets: where each tensor's bytes begin in the file.
    """

    file: Path
    keys: Mapping[str, Any]
    tensors: tuple[HeldTensor, ...]
    offsets: Mapping[str, int]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it."""
        return str(self.keys["general.architecture"])

    def own(self) -> dict[str, Any]:
        """The keys that belong to the architecture: what its computation depends on."""
        prefix = self.architecture + "."
        return {key.removeprefix(prefix): value for key, value in self.keys.items() if key.startswith(prefix)}


def read_header(file: Path, *, texts: bool = True) -> GgufHeader:
    """The header of a GGUF file, with every tensor inside the file.

    Args:
        texts: False passes over the texts in lists (tokens, merges), whose keys then have None.

    Raises:
        InputError: if the file is truncated or damaged, saying where.
        UnsupportedModelError: for a piece of a split file, an adapter, or a file of another kind.
    """
    try:
        with file.open("rb") as opened:
            if opened.seek(0, 2) < 24:
                raise InputError(f"{str(file)!r} is damaged: it is too short for a GGUF file")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _Reader(file, data, texts).header()
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}") from None
    _check_kind(header)
    return header


class _Reader:
    def __init__(self, file: Path, data: mmap.mmap, texts: bool) -> None:
        self.file, self.data, self.texts, self.at = file, data, texts, 0

    def header(self) -> GgufHeader:
        if self.data[:4] != b"GGUF":
            self._damaged("it does not begin as a GGUF file does")
        self.at = 4
        version = self._number("I")
        if version not in (2, 3):
            self._damaged(f"its version is {version}; 2 and 3 can be read")
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        self._fits(n_tensors, _LEAST_TENSOR, "tensors")
        self._fits(n_keys, _LEAST_KEY, "keys")
        keys: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text("a key")
            if key in keys:
                self._damaged(f"the key {shown(key)} is there twice")
            keys[key] = self._value(self._number("I"), f"the key {shown(key)}")
        if not isinstance(keys.get("general.architecture"), str):
            self._damaged("it names no general.architecture")
        described = [self._tensor() for _ in range(n_tensors)]
        start = self._data_start(keys)
        return GgufHeader(self.file, keys, tuple(tensor for tensor, _ in described), self._offsets(described, start))

    def _tensor(self) -> tuple[HeldTensor, int]:
        name = self._text("the name of a tensor")
        n = self._number("I")
        if n > _MOST_DIMENSIONS:
            self._damaged(f"the tensor {shown(name)} has {n} dimensions; there are at most {_MOST_DIMENSIONS}")
        shape = tuple(reversed([self._number("Q") for _ in range(n)]))
        kind, offset = self._number("I"), self._number("Q")
        if kind not in set(GGMLQuantizationType):
            self._damaged(f"the tensor {shown(name)} is of the unknown type {kind}")
        return HeldTensor(name, GGMLQuantizationType(kind).name, shape, self.file), offset

    def _data_start(self, keys: Mapping[str, Any]) -> int:
        alignment = keys.get("general.alignment", 32)
        if not isinstance(alignment, int) or isinstance(alignment, bool) or not 0 < alignment <= 1 << 20:
            self._damaged(f"its alignment is {shown(alignment)}")
        return -(-self.at // alignment) * alignment

    def _offsets(self, described: list[tuple[HeldTensor, int]], start: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for tensor, offset in described:
            per_block, size = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.kind]]
            if tensor.shape and tensor.shape[-1] % per_block:
                self._damaged(f"rows of the tensor {shown(tensor.name)} are no whole blocks of {tensor.kind}")
            if start + offset + prod(tensor.shape) // per_block * size > len(self.data):
                self._damaged(f"the tensor {shown(tensor.name)} ends beyond the end of the file; is it truncated?")
            if tensor.name in found:
                self._damaged(f"the tensor {shown(tensor.name)} is there twice")
            found[tensor.name] = start + offset
        return found

    def _value(self, kind: int, what: str) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text(what)
        if kind != _ARRAY:
            self._damaged(f"{what} has the unknown type {kind}")
        kind, count = self._number("I"), self._number("Q")
        if kind in _SCALARS:
            form = _SCALARS[kind]
            self._fits(count, struct.calcsize("<" + form), f"entries of {what}")
            found = list(struct.unpack_from(f"<{count}{form}", self.data, self.at))
            self.at += struct.calcsize(f"<{count}{form}")
            return found
        if kind != _STRING:
            self._damaged(f"{what} is an array of the unknown type {kind}")
        self._fits(count, 8, f"entries of {what}")
        if self.texts:
            return [self._text(what) for _ in range(count)]
        return self._pass_over(count, what)

    def _pass_over(self, count: int, what: str) -> None:
        """As many texts, unread; a file has tens of thousands of them."""
        length, data, at, end = struct.Struct("<Q").unpack_from, self.data, self.at, len(self.data)
        for _ in range(count):
            if at + 8 > end:
                self._damaged("it ends within its header")
            at += 8 + length(data, at)[0]
        if at > end:
            self._damaged(f"it claims more bytes of {what} than the file has room for")
        self.at = at

    def _text(self, what: str) -> str:
        length = self._number("Q")
        self._fits(length, 1, f"bytes of {what}")
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._damaged(f"{what} is no UTF-8 text")

    def _number(self, form: str) -> Any:
        try:
            (value,) = struct.unpack_from("<" + form, self.data, self.at)
        except struct.error:
            self._damaged("it ends within its header")
        self.at += struct.calcsize("<" + form)
        return value

    def _fits(self, count: int, size: int, what: str) -> None:
        if count * size > len(self.data) - self.at:
            self._damaged(f"it claims {count} {what}, more than the file has room for")

    def _damaged(self, why: str) -> NoReturn:
        raise InputError(f"{str(self.file)!r} is damaged: {why}")


def _check_kind(header: GgufHeader) -> None:
    file, keys = str(header.file), header.keys
    pieces = keys.get("split.count", 1)
    if pieces not in (0, 1):
        raise UnsupportedModelError(
            f"{file!r} is one of {shown(pieces)} pieces of a split model; join them first (llama-gguf-split --merge)"
        )
    kind = keys.get("general.type", "model")
    if kind != "model" or any(key.startswith("adapter.") for key in keys):
        raise UnsupportedModelError(f"{file!r} is no whole model (its general.type is {shown(kind)})")
