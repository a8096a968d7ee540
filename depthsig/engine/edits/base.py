"""What an edit is, and how edits combine."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import ClassVar, Self

from depthsig.engine.edits.chosen_passes import EVERY_PASS, Passes, check_passes, passes_in_words, steps_of_passes
from depthsig.engine.program import Change, Slot
from depthsig.errors import InputError, shown
from depthsig.plan.plan import Plan


@dataclass(frozen=True)
class Edit:
    """Base of all edits. ``a + b`` is one run with both."""

    from_text: ClassVar[bool] = True
    """Whether an expression such as ``Skip(5)`` can name it: all of its arguments are numbers and words."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.type == "int | None" and value is None:
                continue
            if one.type in ("int", "int | None") and (isinstance(value, bool) or not hasattr(value, "__index__")):
                raise InputError(f"{type(self).__name__}: {one.name} is {shown(value)}; it is a whole number")
            if one.type == "float" and (isinstance(value, bool) or not isinstance(value, Real)):
                raise InputError(f"{type(self).__name__}: {one.name} is {shown(value)}; it is a number")

    def __add__(self, other: Edit) -> Edits:
        return Edits((*self, *other))

    def __iter__(self) -> Iterator[Edit]:
        yield self

    def resolved(self, plan: Plan) -> Iterator[Edit]:
        """What it is on a plan: edits that are told in steps.

        Raises:
            InputError: for a layer or a pass that the plan does not have.
        """
        yield self

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        """Refuse what a plan of ``steps`` steps does not allow; asked of what is told in steps.

        Args:
            has_parts: for every step, whether its attention and MLP contributions are known.

        Raises:
            InputError: naming the edit, what is out of range, and what there is.
        """

    def contradicts(self, other: Edit) -> bool:
        """Whether no run can have both; asked both ways round."""
        return False


@dataclass(frozen=True)
class Edits(Edit):
    """Several edits in one run; prints as their sum."""

    from_text: ClassVar[bool] = False
    parts: tuple[Edit, ...] = ()

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.parts)

    def resolved(self, plan: Plan) -> Iterator[Edit]:
        for one in self.parts:
            yield from one.resolved(plan)

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts)) or "no edit"


@dataclass(frozen=True)
class ContributionEdit(Edit):
    """Base of the edits that change executions of a layer: where, and :meth:`change` there.

    The fields of an own edit have defaults, or are given by name (``@dataclass(frozen=True, kw_only=True)``).

    Attributes:
        step: the step of the plan; in a loop, one pass of one layer.
        layer: in its place, a layer of the checkpoint, in the passes that ``passes`` tells.
        passes: of ``layer``: ``"all"``; k, pass k alone; ``"k:"``, pass k and every later one. A layer's passes are
            counted from 0 over the whole run, as ``iteration`` of the plan does; where loops nest, through all of them.
    """

    step: int | None = None
    layer: int | None = field(default=None, kw_only=True)
    passes: Passes = field(default=EVERY_PASS, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_passes(self.passes, name)
        if self.step is not None and self.layer is not None:
            raise InputError(
                f"{name}: step = {shown(self.step)} and layer = {shown(self.layer)} exclude each other; give one"
            )
        if self.step is None and self.layer is None:
            raise InputError(f"{name}: step is None, and so is layer; one of them is a whole number")
        if self.layer is None and self.passes != EVERY_PASS:
            raise InputError(f"{name}: passes = {shown(self.passes)} goes with layer=; a step is in one pass already")

    def change(self) -> Change:
        """What is changed at the step."""
        raise NotImplementedError

    @property
    def at(self) -> int:
        """The step of an edit that is told in steps.

        Raises:
            InputError: of one that is told by its layer: which steps that is, a plan says (:meth:`resolved`).
        """
        if self.step is None:
            raise InputError(f"{self}: which steps these are depends on the plan")
        return self.step

    def resolved(self, plan: Plan) -> Iterator[Edit]:
        if self.layer is None:
            yield self
            return
        for step in steps_of_passes(plan, self.layer, self.passes, str(self)):
            yield self.at_step(step, plan)

    def at_step(self, step: int, plan: Plan) -> Self:
        """The same at one step of a plan, for an edit that is told by its layer."""
        there = copy.copy(self)
        for name, value in (("step", step), ("layer", None), ("passes", EVERY_PASS)):
            object.__setattr__(there, name, value)
        return there

    def place(self, part: str = "layer") -> str:
        """Where it acts, as names of edits say it: ``5.attn``, ``layer 5.attn, from pass 2 on``."""
        dotted = "" if part == "layer" else f".{part}"
        if self.layer is None:
            return f"{shown(self.step)}{dotted}"
        return f"layer {shown(self.layer)}{dotted}, {passes_in_words(self.passes)}"

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        change, step = self.change(), self.at
        top = steps if change.where == "input" else steps - 1
        if not 0 <= step <= top:
            raise InputError(f"{self}: step {shown(step)} is out of range; steps are 0..{steps - 1}")
        if change.positions is not None and any(p < 1 for p in change.positions):
            raise InputError(f"{self}: position {min(change.positions)}; position 0 is never edited, use 1 and up")
        if change.where in ("attn", "mlp") and has_parts is not None and not has_parts[step]:
            raise InputError(f"{self}: the attention and MLP of step {step} are not known here; use part='layer'")

    def contradicts(self, other: Edit) -> bool:
        if not isinstance(other, ContributionEdit) or self.step != other.step:
            return False
        a, b = self.change(), other.change()
        if a.positions is not None and b.positions is not None and not set(a.positions) & set(b.positions):
            return False
        # Two different sublayers are two places, and so is a step's input beside its contributions.
        places = {a.where, b.where}
        return not (places == {"attn", "mlp"} or (len(places) == 2 and "input" in places))


@dataclass(frozen=True)
class OrderEdit(Edit):
    """Base of the edits that change which steps run when: :meth:`span` and :meth:`moved`."""

    def span(self) -> tuple[int, int]:
        """First step concerned, and the end of them."""
        raise NotImplementedError

    def moved(self, slots: list[Slot]) -> list[Slot]:
        """The slots in their new order: slot s is what runs in the place of step s."""
        raise NotImplementedError

    def removes(self, step: int) -> bool:
        """Whether a step does not run any more."""
        return False

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        start, end = self.span()
        if start < 0 or end > steps:
            reached = shown(start if start < 0 else end - 1)
            raise InputError(f"{self}: reaches step {reached}; steps are 0..{steps - 1}")

    def contradicts(self, other: Edit) -> bool:
        if isinstance(other, ContributionEdit):
            return self.removes(other.at)
        if not isinstance(other, OrderEdit):
            return False
        (p, q), (r, s) = self.span(), other.span()
        return p < s and r < q


@dataclass(frozen=True)
class RangeEdit(OrderEdit):
    """Base of the order edits of steps ``start`` .. ``end - 1``."""

    start: int
    end: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end <= self.start:
            raise InputError(
                f"{self}: the span {shown(self.start)}:{shown(self.end)} is empty; the end is larger than the start"
            )

    def span(self) -> tuple[int, int]:
        return self.start, self.end


def edit_types() -> dict[str, type[Edit]]:
    """Every edit that can be used, by the name of its class: those of this folder, and a user's own."""
    found: dict[str, type[Edit]] = {}
    todo: list[type[Edit]] = [Edit]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        bases = (Edit, Edits, ContributionEdit, OrderEdit, RangeEdit)
        if kind not in bases and not kind.__name__.startswith("_") and not inspect.isabstract(kind):
            found[kind.__name__] = kind
    return dict(sorted(found.items()))


def shown_positions(positions: Sequence[int] | None) -> str:
    """Positions as the end of an edit's name."""
    if positions is None:
        return ""
    shown = ",".join(map(str, list(positions)[:6])) + ("…" if len(positions) > 6 else "")
    return f" at {shown}"
