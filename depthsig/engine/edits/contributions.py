"""Edits of what one step adds or sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from depthsig.engine.edits.base import ContributionEdit, shown_positions
from depthsig.engine.edits.chosen_passes import steps_of_passes
from depthsig.engine.program import Change
from depthsig.errors import InputError, shown
from depthsig.plan.plan import Plan
from depthsig.terms import PARTS, Part


@dataclass(frozen=True)
class Skip(ContributionEdit):
    """Replace what a step's part adds to the residual stream, by zero or by ``value``.

    Attributes:
        step: the step of the plan; in a loop, one pass of one layer.
        part: ``layer`` (the whole update), ``attn`` or ``mlp``.
        positions: where; None for all but the first.
        value: what is added instead, of shape [d] or [token, d]; None for nothing.
        layer, passes: in the place of a step, a layer in ``"all"`` passes, in pass k alone, or in pass ``"k:"`` and
            every later one, counted from 0.

    >>> print(Skip(5), Skip(layer=2, part="attn", passes="1:"), sep="; ")
    skip 5; skip layer 2.attn, from pass 1 on
    >>> from depthsig.engine.edits import compile_edit
    >>> from depthsig.plan.plan import build_plan
    >>> program = compile_edit(Skip(layer=2, passes="1:"), build_plan([0, 1, 2, 1, 2, 1, 2, 3], 4))
    >>> [op.step for op in program.ops if op.changes]
    [4, 6]
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
        return f"skip {self.place(self.part)}{shown_positions(self.positions)}"


@dataclass(frozen=True)
class Replace(ContributionEdit):
    """Replace the residual stream entering (``input``) or leaving (``output``) a step.

    ``value`` has shape [d] or [token, d]. ``step`` = S with ``input`` is the last state, h_S. With ``layer`` and
    ``passes`` in the place of a step, as :class:`Skip` has them, it is the same value in all of these passes.
    """

    from_text: ClassVar[bool] = False
    value: Tensor | None = field(default=None, compare=False, repr=False)
    where: Literal["input", "output"] = "input"
    positions: Sequence[int] | None = None

    def change(self) -> Change:
        return Change(self.where, _tuple(self.positions), value=self.value)

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        _check_where(self, self.where)
        _check_value(self, self.value)
        super().check(steps, has_parts)

    def __str__(self) -> str:
        return f"replace {self.where} of {self.place()}{shown_positions(self.positions)}"


@dataclass(frozen=True)
class Patch(ContributionEdit):
    """Put the residual stream of one step, as the prompt's own clean run has it, into another step.

    ``Patch(7, source=3)``: what enters step 7 is what entered step 3. ``Patch(layer=5, source=0, passes=2)``: what
    enters layer 5 in pass 2 is what entered it in pass 0. The source is always of the clean run, whatever else is
    edited, so that it may be a later step, too.

    Attributes:
        step: where it is put; S, with ``input``, is the last state, h_S.
        source: where it is from: a step, or with ``layer`` a pass of that layer.
        where: what enters the steps (``input``) or leaves them (``output``).
        positions: where; None for all but the first.
        layer, passes: as of :class:`Skip`, the passes that it is put into.

    >>> print(Patch(7, source=3), Patch(layer=5, source=0, passes=2), sep="; ")
    patch input of 7 from 3; patch input of layer 5, pass 2 from pass 0
    """

    source: int = field(kw_only=True)
    where: Literal["input", "output"] = "input"
    positions: Sequence[int] | None = None

    def change(self) -> Change:
        return Change(self.where, _tuple(self.positions), source=self.source)

    def at_step(self, step: int, plan: Plan) -> Self:
        there = super().at_step(step, plan)
        assert self.layer is not None
        (source,) = steps_of_passes(plan, self.layer, self.source, str(self))
        object.__setattr__(there, "source", source)
        return there

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        _check_where(self, self.where)
        if not 0 <= self.source < steps:
            raise InputError(f"{self}: source {shown(self.source)} is out of range; steps are 0..{steps - 1}")
        super().check(steps, has_parts)

    def __str__(self) -> str:
        source = f"{'' if self.layer is None else 'pass '}{shown(self.source)}"
        return f"patch {self.where} of {self.place()} from {source}{shown_positions(self.positions)}"


def _check_where(edit: Replace | Patch, where: str) -> None:
    if where not in ("input", "output"):
        raise InputError(f"{edit}: where is {where!r}; it is input or output")


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
