"""A run as a program: what executes in the place of every step, and what is changed there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Place = Literal["layer", "attn", "mlp", "input", "output"]
PLACES: tuple[Place, ...] = ("layer", "attn", "mlp", "input", "output")
"""Where an execution can be changed: the contribution of a part, or the stream that enters or leaves."""


@dataclass(frozen=True, eq=False)
class Change:
    """What is done to one execution of a step.

    Attributes:
        where: the part whose contribution is replaced, or ``input`` / ``output``.
        positions: token positions; None for all but the first.
        mask: the same per prompt, for edits whose positions differ by prompt.
        value: [d], [token, d] or [prompt, token, d]; None is zero.
        directions: of a part, instead of a value: unit vectors [prompt, token, d], made when they are needed. The
            part's contribution u becomes u − ‖u‖·g: as far away as without it, in another direction.
        source: of an ``input`` or ``output``, in the place of a value: the step whose state there, in the batch's own
            clean run, is put here.
    """

    where: Place
    positions: tuple[int, ...] | None = None
    mask: Bool[Tensor, "prompt token"] | None = None
    value: Float[Tensor, "*where d"] | None = None
    directions: Callable[[], Float[Tensor, "prompt token d"]] | None = None
    source: int | None = None


@dataclass(frozen=True, eq=False)
class Op:
    """One execution of a step; ``save`` and ``blend`` frame a damped pass."""

    step: int
    changes: tuple[Change, ...] = ()
    save: bool = False
    blend: float | None = None

    def plain(self, step: int) -> bool:
        """Whether it is no more than the execution of ``step``."""
        return self.step == step and not (self.changes or self.save or self.blend)


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

    @classmethod
    def clean(cls, steps: int, name: str = "no edit") -> Program:
        """Every step as it is."""
        return cls(tuple((Op(s),) for s in range(steps)), name=name)

    def with_change(self, step: int, change: Change, name: str) -> Program:
        """The same with one more change, at the execution of ``step``; S is the final state."""
        if step == len(self.slots):
            return replace(self, last=(*self.last, change), name=name)
        slots = list(self.slots)
        slots[step] = tuple(replace(op, changes=(*op.changes, change)) for op in slots[step])
        return replace(self, slots=tuple(slots), name=name)
