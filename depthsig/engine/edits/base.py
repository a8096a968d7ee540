"""What an edit is, and how edits combine."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import ClassVar

from depthsig.engine.program import Change, Slot
from depthsig.errors import InputError, shown


@dataclass(frozen=True)
class Edit:
    """Base of all edits. ``a + b`` is one run with both."""

    from_text: ClassVar[bool] = True
    """Whether an expression such as ``Skip(5)`` can name it: all of its arguments are numbers and words."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.type == "int" and (isinstance(value, bool) or not hasattr(value, "__index__")):
                raise InputError(f"{type(self).__name__}: {one.name} is {shown(value)}; it is a whole number")
            if one.type == "float" and (isinstance(value, bool) or not isinstance(value, Real)):
                raise InputError(f"{type(self).__name__}: {one.name} is {shown(value)}; it is a number")

    def __add__(self, other: Edit) -> Edits:
        return Edits((*self, *other))

    def __iter__(self) -> Iterator[Edit]:
        yield self

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        """Refuse what a plan of ``steps`` steps does not allow.

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

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts)) or "no edit"


@dataclass(frozen=True)
class ContributionEdit(Edit):
    """Base of the edits that change one execution: its step, and :meth:`change` there."""

    step: int

    def change(self) -> Change:
        """What is changed at that step."""
        raise NotImplementedError

    def check(self, steps: int, has_parts: Sequence[bool] | None) -> None:
        change = self.change()
        top = steps if change.where == "input" else steps - 1
        if not 0 <= self.step <= top:
            raise InputError(f"{self}: step {self.step} is out of range; steps are 0..{steps - 1}")
        if change.positions is not None and any(p < 1 for p in change.positions):
            raise InputError(f"{self}: position {min(change.positions)}; position 0 is never edited, use 1 and up")
        if change.where in ("attn", "mlp") and has_parts is not None and not has_parts[self.step]:
            raise InputError(f"{self}: the attention and MLP of step {self.step} are not known here; use part='layer'")

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
            raise InputError(f"{self}: reaches step {start if start < 0 else end - 1}; steps are 0..{steps - 1}")

    def contradicts(self, other: Edit) -> bool:
        if isinstance(other, ContributionEdit):
            return self.removes(other.step)
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
            raise InputError(f"{self}: the span {self.start}:{self.end} is empty; the end is larger than the start")

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
