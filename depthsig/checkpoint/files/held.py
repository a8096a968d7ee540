"""One tensor as the header of its file describes it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path


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
