"""Reading tensors of safetensors files into memory of one's own, counted.

Not mapped: pages of a mapped file count as the process's memory for as long as the kernel likes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthsig.checkpoint.streaming.headers import Extent
from depthsig.errors import InputError

CHUNK = 4 << 20
"""Bytes that are read at a time where numbers are converted on the way."""


class Reader:
    """Open files, and how much was read of them.

    Attributes:
        bytes_read: of tensors, as they lie in the files.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.bytes_read = 0
        self._opened = {file: file.open("rb", buffering=0) for file in dict.fromkeys(files)}
        self._seen = {file: _mark(os.fstat(opened.fileno())) for file, opened in self._opened.items()}
        self._chunk: Tensor | None = None
        self._one_at_a_time = threading.Lock()

    def read(self, extent: Extent, into: Tensor) -> None:
        """The numbers of a tensor, in the dtype of ``into``, which is contiguous and on the CPU.

        Raises:
            InputError: where the file was changed since it was opened.
        """
        flat = into.view(-1)
        with self._one_at_a_time:
            self.check_unchanged(extent.file)
            if extent.dtype == into.dtype:
                self._fill(extent.file, flat.view(torch.uint8), extent.start)
            else:
                self._convert(extent, flat)

    def tensor(self, extent: Extent, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor in memory of its own."""
        dtype = extent.dtype if dtype is None else dtype
        shift, size = extent.shift(dtype), extent.count * dtype.itemsize
        memory = torch.empty(shift + size, dtype=torch.uint8, device="cpu")
        found = memory[shift:].view(dtype).view(extent.shape)
        self.read(extent, found)
        return found

    def check_unchanged(self, file: Path) -> None:
        """Refuse a file that is not what it was when it was opened.

        Raises:
            InputError: naming it.
        """
        try:
            now = _mark(file.stat())
        except OSError:
            now = None
        if now != self._seen[file]:
            raise InputError(
                f"{str(file)!r} was changed or taken away while its layers were read; start again with files that stay "
                "as they are"
            )

    def _convert(self, extent: Extent, flat: Tensor) -> None:
        if self._chunk is None:
            self._chunk = torch.empty(CHUNK, dtype=torch.uint8)
        size, each = extent.dtype.itemsize, CHUNK // extent.dtype.itemsize
        for first in range(0, extent.count, each):
            number = min(each, extent.count - first)
            piece = self._chunk[: number * size]
            self._fill(extent.file, piece, extent.start + first * size)
            flat[first : first + number].copy_(piece.view(extent.dtype))

    def _fill(self, file: Path, into: Tensor, start: int) -> None:
        """Bytes of a file, from ``start`` on, into ``into`` [byte]."""
        array: Any = into.numpy()
        view, opened = memoryview(array), self._opened[file].fileno()
        done = 0
        while done < len(view):
            try:
                got = os.preadv(opened, [view[done : done + (1 << 30)]], start + done)
            except OSError as error:
                raise InputError(f"{str(file)!r} cannot be read ({error.strerror})") from None
            if got == 0:
                raise InputError(f"{str(file)!r} ends before its tensors do; it was cut off while it was read")
            done += got
        self.bytes_read += done


def _mark(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
