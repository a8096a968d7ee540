"""Edits: what is changed in a forward, told in steps of the plan.

Two kinds, which compose with ``+``. *Contribution edits* (:class:`Skip`, :class:`Replace`) change
what a step adds or sees at some positions; position 0, the attention sink, is never among them.
*Order edits* (:class:`Swap`, :class:`Reverse`, :class:`Drop`, :class:`Repeat`, :class:`Stop`) run
the steps in another order, for the whole sequence, as ``--order`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from depthsig.errors import InputError

PARTS = ("layer", "attn", "mlp")


@dataclass(frozen=True)
class Edit:
    """Base of all edits. ``a + b`` is one run with both."""

    def __add__(self, other: Edit) -> Edits:
        return Edits((*self, *other))

    def __iter__(self) -> Iterator[Edit]:
        yield self


@dataclass(frozen=True)
class Edits(Edit):
    """Several edits in one run; prints as their sum."""

    parts: tuple[Edit, ...] = ()

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.parts)

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts)) or "no edit"


@dataclass(frozen=True)
class Skip(Edit):
    """Replace what a step's part adds to the residual stream, by zero or by ``value``.

    Attributes:
        step: the step of the plan; in a loop, one pass of one layer.
        part: ``layer`` (the whole update), ``attn`` or ``mlp``.
        positions: where; None for all but the first.
        value: what is added instead, of shape [d] or [token, d]; None for nothing.
    """

    step: int
    part: Literal["layer", "attn", "mlp"] = "layer"
    positions: Sequence[int] | None = None
    value: Tensor | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"skip {self.step}" + ("" if self.part == "layer" else f".{self.part}") + _at(self.positions)


@dataclass(frozen=True)
class Replace(Edit):
    """Replace the residual stream entering (``input``) or leaving (``output``) a step.

    ``value`` has shape [d] or [token, d]. ``step`` = S with ``input`` is the last state, h_S.
    """

    step: int
    value: Tensor = field(compare=False, repr=False)
    where: Literal["input", "output"] = "input"
    positions: Sequence[int] | None = None

    def __str__(self) -> str:
        return f"replace {self.where} of {self.step}{_at(self.positions)}"


@dataclass(frozen=True)
class OrderEdit(Edit):
    """Base of the edits that change which steps run when."""

    def span(self) -> tuple[int, int]:
        """First step concerned, and the end of them."""
        raise NotImplementedError

    def moved(self, slots: list[Slot]) -> list[Slot]:
        """The slots in their new order."""
        raise NotImplementedError


@dataclass(frozen=True)
class Swap(OrderEdit):
    """Exchange steps ``first`` .. ``first + size - 1`` with as many from ``second`` on."""

    first: int
    second: int
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"{self}: size is {self.size}; it is 1 or more")
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
        more = "" if self.size == 1 else f" ({self.size} steps each)"
        return f"swap {self.first} and {self.second}{more}"


@dataclass(frozen=True)
class _RangeEdit(OrderEdit):
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise InputError(f"{self}: the span {self.start}:{self.end} is empty; the end is larger than the start")

    def span(self) -> tuple[int, int]:
        return self.start, self.end


@dataclass(frozen=True)
class Reverse(_RangeEdit):
    """Run steps ``start`` .. ``end - 1`` in reverse order."""

    def moved(self, slots: list[Slot]) -> list[Slot]:
        return [*slots[: self.start], *slots[self.start : self.end][::-1], *slots[self.end :]]

    def __str__(self) -> str:
        return f"reverse {self.start}:{self.end}"


@dataclass(frozen=True)
class Drop(_RangeEdit):
    """Leave steps ``start`` .. ``end - 1`` out."""

    def moved(self, slots: list[Slot]) -> list[Slot]:
        return [() if self.start <= i < self.end else slot for i, slot in enumerate(slots)]

    def __str__(self) -> str:
        return f"drop {self.start}:{self.end}"


@dataclass(frozen=True)
class Repeat(_RangeEdit):
    """Run steps ``start`` .. ``end - 1`` ``times`` times in all.

    With ``damping`` α each pass after the first is x ← x + α(F(x) − x), F the span (2605.23872).
    """

    times: int = 2
    damping: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1 or self.times > 1024:
            raise InputError(f"{self}: the span is run {self.times} times; a count is 1 .. 1024")
        if not 0.0 < self.damping <= 1.0:
            raise InputError(f"{self}: damping is {self.damping}; it is above 0 and at most 1")

    def moved(self, slots: list[Slot]) -> list[Slot]:
        ops = [op for slot in slots[self.start : self.end] for op in slot]
        if self.damping < 1.0 and ops:
            damped = [*ops]
            damped[0] = damped[0].with_(save=True)
            damped[-1] = damped[-1].with_(blend=self.damping)
        else:
            damped = ops
        last = (*slots[self.end - 1], *damped * (self.times - 1))
        return [*slots[: self.end - 1], last, *slots[self.end :]]

    def __str__(self) -> str:
        damped = f", damped {self.damping:g}" if self.damping < 1 else ""
        return f"repeat {self.start}:{self.end} x{self.times}{damped}"


@dataclass(frozen=True)
class Stop(OrderEdit):
    """Stop after ``steps`` steps: h_steps is read out."""

    steps: int

    def span(self) -> tuple[int, int]:
        return self.steps - 1, self.steps

    def moved(self, slots: list[Slot]) -> list[Slot]:
        return [slot if i < self.steps else () for i, slot in enumerate(slots)]

    def __str__(self) -> str:
        return f"stop after {self.steps}"


@dataclass(frozen=True, eq=False)
class Change:
    """What is done to one execution of a step.

    Attributes:
        where: the part whose contribution is replaced, or ``input`` / ``output``.
        positions: token positions; None for all but the first.
        mask: the same per prompt [prompt, token], for edits whose positions differ by prompt.
        value: [d], [token, d] or [prompt, token, d]; None is zero.
    """

    where: str
    positions: tuple[int, ...] | None = None
    mask: Any = None
    value: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Op:
    """One execution of a step; ``save`` and ``blend`` frame a damped pass."""

    step: int
    changes: tuple[Change, ...] = ()
    save: bool = False
    blend: float | None = None

    def with_(self, **values: Any) -> Op:
        """The same with other values."""
        return Op(**{**self.__dict__, **values})


Slot = tuple[Op, ...]
"""What runs where a step of the plan ran."""


@dataclass(frozen=True, eq=False)
class Program:
    """A run, slot by slot: ``slots[s]`` is what runs in the place of step s.

    ``last`` changes the final state, h_S. The slots keep what lies between steps in its place
    (a norm at the end of a pass, an injection) where a model has such.
    """

    slots: tuple[Slot, ...]
    last: tuple[Change, ...] = ()
    name: str = ""

    @property
    def ops(self) -> list[Op]:
        """All executions, one after another."""
        return [op for slot in self.slots for op in slot]


def compile_edit(edit: Edit | None, steps: int, has_parts: Sequence[bool] | None = None) -> Program:
    """The program of an edit on a plan of ``steps`` steps.

    Args:
        has_parts: for every step, whether its attention and MLP contributions are known.

    Raises:
        InputError: a step out of range, a part that does not exist, edits that contradict.

    >>> [op.step for op in compile_edit(Swap(0, 2) + Drop(3, 4), 5).ops]
    [2, 1, 0, 4]
    """
    edits = list(edit or ())
    for one in edits:
        _check(one, steps, has_parts)
    _check_conflicts(edits, steps)
    changes: dict[int, list[Change]] = {}
    last: list[Change] = []
    for one in edits:
        if isinstance(one, (Skip, Replace)):
            where = one.part if isinstance(one, Skip) else one.where
            positions = None if one.positions is None else tuple(one.positions)
            change = Change(where, positions, value=one.value)
            (last if one.step == steps else changes.setdefault(one.step, [])).append(change)
    slots: list[Slot] = [(Op(s, tuple(changes.get(s, ()))),) for s in range(steps)]
    for one in edits:
        if isinstance(one, OrderEdit):
            slots = one.moved(slots)
    return Program(tuple(slots), tuple(last), str(edit) if edit is not None else "no edit")


def _check(edit: Edit, steps: int, has_parts: Sequence[bool] | None) -> None:
    if isinstance(edit, OrderEdit):
        start, end = edit.span()
        if start < 0 or end > steps:
            raise InputError(f"{edit}: reaches step {start if start < 0 else end - 1}; steps are 0..{steps - 1}")
        return
    if not isinstance(edit, (Skip, Replace)):
        raise InputError(f"{type(edit).__name__} is no edit; use Skip, Replace, Swap, Reverse, Drop, Repeat or Stop")
    top = steps if isinstance(edit, Replace) and edit.where == "input" else steps - 1
    if not 0 <= edit.step <= top:
        raise InputError(f"{edit}: step {edit.step} is out of range; steps are 0..{steps - 1}")
    if edit.positions is not None and any(p < 1 for p in edit.positions):
        raise InputError(f"{edit}: position {min(edit.positions)}; position 0 is never edited, use 1 and up")
    if isinstance(edit, Replace) and edit.where not in ("input", "output"):
        raise InputError(f"{edit}: where is {edit.where!r}; it is input or output")
    if isinstance(edit, Skip):
        if edit.part not in PARTS:
            raise InputError(f"{edit}: part {edit.part!r} does not exist; parts are {', '.join(PARTS)}")
        if edit.part != "layer" and has_parts is not None and not has_parts[edit.step]:
            raise InputError(f"{edit}: the attention and MLP of step {edit.step} are not known here; use part='layer'")


def _check_conflicts(edits: Sequence[Edit], steps: int) -> None:
    for i, a in enumerate(edits):
        for b in edits[i + 1 :]:
            if _contradict(a, b):
                raise InputError(f"{a} and {b} contradict each other; run them as two edits")


def _contradict(a: Edit, b: Edit) -> bool:
    orders = [e for e in (a, b) if isinstance(e, OrderEdit)]
    if len(orders) == 2:
        (p, q), (r, s) = orders[0].span(), orders[1].span()
        stops = [e for e in orders if isinstance(e, Stop)]
        if stops:
            other = orders[1] if orders[0] is stops[0] else orders[0]
            return len(stops) == 2 or other.span()[1] > stops[0].steps
        return p < s and r < q
    if orders:
        (order,), (single,) = orders, [e for e in (a, b) if not isinstance(e, OrderEdit)]
        step = single.step  # type: ignore[attr-defined]
        if isinstance(order, Drop):
            return order.start <= step < order.end
        return isinstance(order, Stop) and step >= order.steps
    return _same_place(a, b)


def _same_place(a: Any, b: Any) -> bool:
    if a.step != b.step or not _share(a.positions, b.positions):
        return False
    places = {e.part if isinstance(e, Skip) else e.where for e in (a, b)}
    # Two different sublayers are two places, and so is a step's input beside its contributions.
    return not (places == {"attn", "mlp"} or (len(places) == 2 and "input" in places))


def _share(a: Sequence[int] | None, b: Sequence[int] | None) -> bool:
    return a is None or b is None or bool(set(a) & set(b))


def _at(positions: Sequence[int] | None) -> str:
    if positions is None:
        return ""
    shown = ",".join(map(str, list(positions)[:6])) + ("…" if len(positions) > 6 else "")
    return f" at {shown}"
