"""Edits of which steps run when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from depthsig.engine.edits.base import Edit, OrderEdit, RangeEdit
from depthsig.engine.program import Op, Slot
from depthsig.errors import InputError, shown


@dataclass(frozen=True)
class Swap(OrderEdit):
    """Exchange steps ``first`` .. ``first + size - 1`` with as many from ``second`` on."""

    first: int
    second: int
    size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise InputError(f"{self}: size is {shown(self.size)}; it is 1 or more")
        if abs(self.second - self.first) < self.size:
            raise InputError(f"{self}: the two ranges overlap; blocks to exchange lie apart")

    def span(self) -> tuple[int, int]:
        return min(self.first, self.second), max(self.first, self.second) + self.size

    def moved(self, slots: list[Slot]) -> list[Slot]:
        out = list(slots)
        for i in range(self.size):
            a, b = self.first + i, self.second + i
            out[a], out[b] = slots[b], slots[a]
        return out

    def __str__(self) -> str:
        more = "" if self.size == 1 else f" ({shown(self.size)} steps each)"
        return f"swap {shown(self.first)} and {shown(self.second)}{more}"


@dataclass(frozen=True)
class Reverse(RangeEdit):
    """Run steps ``start`` .. ``end - 1`` in reverse order."""

    def moved(self, slots: list[Slot]) -> list[Slot]:
        return [*slots[: self.start], *slots[self.start : self.end][::-1], *slots[self.end :]]

    def __str__(self) -> str:
        return f"reverse {shown(self.start)}:{shown(self.end)}"


@dataclass(frozen=True)
class Drop(RangeEdit):
    """Leave steps ``start`` .. ``end - 1`` out."""

    def moved(self, slots: list[Slot]) -> list[Slot]:
        return [() if self.removes(i) else slot for i, slot in enumerate(slots)]

    def removes(self, step: int) -> bool:
        return self.start <= step < self.end

    def __str__(self) -> str:
        return f"drop {shown(self.start)}:{shown(self.end)}"


@dataclass(frozen=True)
class Repeat(RangeEdit):
    """Run steps ``start`` .. ``end - 1`` ``times`` times in all.

    With ``damping`` α each pass after the first is x ← x + α(F(x) − x), F the span (2605.23872).
    """

    times: int = 2
    damping: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1 or self.times > 1024:
            raise InputError(f"{self}: the span is run {shown(self.times)} times; a count is 1 .. 1024")
        if not 0.0 < self.damping <= 1.0:
            raise InputError(f"{self}: damping is {self.damping}; it is above 0 and at most 1")

    def moved(self, slots: list[Slot]) -> list[Slot]:
        again: list[Op] = [op for slot in slots[self.start : self.end] for op in slot]
        if self.damping < 1.0 and again:
            again[0] = replace(again[0], save=True)
            again[-1] = replace(again[-1], blend=self.damping)
        last = (*slots[self.end - 1], *again * (self.times - 1))
        return [*slots[: self.end - 1], last, *slots[self.end :]]

    def __str__(self) -> str:
        damped = f", damped {self.damping:g}" if self.damping < 1 else ""
        return f"repeat {shown(self.start)}:{shown(self.end)} x{shown(self.times)}{damped}"


@dataclass(frozen=True)
class Stop(OrderEdit):
    """Stop after ``steps`` steps: h_steps is read out."""

    steps: int

    def span(self) -> tuple[int, int]:
        return self.steps - 1, self.steps

    def moved(self, slots: list[Slot]) -> list[Slot]:
        return [() if self.removes(i) else slot for i, slot in enumerate(slots)]

    def removes(self, step: int) -> bool:
        return step >= self.steps

    def contradicts(self, other: Edit) -> bool:
        # What moves the steps before the cut goes with it, the last of them too.
        if isinstance(other, OrderEdit) and not isinstance(other, Stop):
            return other.span()[1] > self.steps
        return isinstance(other, Stop) or super().contradicts(other)

    def __str__(self) -> str:
        return f"stop after {shown(self.steps)}"
