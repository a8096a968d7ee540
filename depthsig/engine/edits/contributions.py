"""Edits of what one step adds or sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from depthsig.engine.edits.base import ContributionEdit, shown_positions
from depthsig.engine.program import Change
from depthsig.errors import InputError, shown
from depthsig.terms import PARTS, Part


@dataclass(frozen=True)
class Skip(ContributionEdit):
    """Replace what a step's part adds to the residual stream, by zero or by ``value``.

    Attributes:
        step: the step of the plan; in a loop, one pass of one layer.
        part: ``layer`` (the whole update), ``attn`` or ``mlp``.
        positions: where; None for all but the first.
        value: what is added instead, of shape [d] or [token, d]; None for nothing.
    """

    part: Part = "layer"
    positions: Sequence[int] | None = None
    value: Tensor | None = field(default=None, compare=False, repr=False)

    def change(self) -> Change:
        return Change(self.part, _tuple(self.positions), value=self.value)

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        if self.part not in PARTS:
            raise InputError(f"{self}: part {self.part!r} does not exist; parts are {', '.join(PARTS)}")
        if self.value is not None:
            _check_value(self, self.value)
        super().check(steps, has_parts)

    def __str__(self) -> str:
        return f"skip {self.step}" + ("" if self.part == "layer" else f".{self.part}") + shown_positions(self.positions)


@dataclass(frozen=True)
class Replace(ContributionEdit):
    """Replace the residual stream entering (``input``) or leaving (``output``) a step.

    ``value`` has shape [d] or [token, d]. ``step`` = S with ``input`` is the last state, h_S.
    """

    from_text: ClassVar[bool] = False
    value: Tensor = field(compare=False, repr=False)
    where: Literal["input", "output"] = "input"
    positions: Sequence[int] | None = None

    def change(self) -> Change:
        return Change(self.where, _tuple(self.positions), value=self.value)

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        if self.where not in ("input", "output"):
            raise InputError(f"{self}: where is {self.where!r}; it is input or output")
        _check_value(self, self.value)
        super().check(steps, has_parts)

    def __str__(self) -> str:
        return f"replace {self.where} of {self.step}{shown_positions(self.positions)}"


def _tuple(positions: Sequence[int] | None) -> tuple[int, ...] | None:
    if positions is None:
        return None
    if not isinstance(positions, Iterable) or not all(hasattr(p, "__index__") for p in positions):
        raise InputError(
            f"positions are a list of whole numbers, or None for all but the first; found {shown(positions)}"
        )
    return tuple(positions)


def _check_value(edit: ContributionEdit, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{edit}: value is {shown(value)}; it is a tensor of shape [d] or [token, d]")
