"""From an edit to the program of its run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from depthsig.engine.edits.base import ContributionEdit, Edit, OrderEdit, edit_types
from depthsig.engine.edits.orders import Stop
from depthsig.engine.program import Program
from depthsig.errors import InputError
from depthsig.plan.plan import Plan, build_plan


def compile_edit(edit: Edit | None, plan: Plan | int, has_parts: Sequence[bool] | None = None) -> Program:
    """The program of an edit on a plan.

    Args:
        plan: the plan; a number is one of so many layers, each run once.
        has_parts: for every step, whether its attention and MLP contributions are known.

    Raises:
        InputError: a step, layer or pass out of range, a part that does not exist, edits that contradict.

    >>> from depthsig.engine.edits import Drop, Swap
    >>> [op.step for op in compile_edit(Swap(0, 2) + Drop(3, 4), 5).ops]
    [2, 1, 0, 4]
    """
    plan = build_plan(range(plan), plan) if isinstance(plan, int) else plan
    steps = len(plan)
    if edit is not None and not isinstance(edit, Edit):
        raise InputError(f"{type(edit).__name__} is no edit; use {', '.join(edit_types())}")
    given = list(edit or ())
    for one in given:
        if not isinstance(one, (ContributionEdit, OrderEdit)):
            raise InputError(f"{type(one).__name__} is no edit; use {', '.join(edit_types())}")
    edits = [told for one in given for told in one.resolved(plan)]
    for one in edits:
        one.check(steps, has_parts)
    for a, b in itertools.combinations(edits, 2):
        if _contradict(a, b):
            raise InputError(f"{a} and {b} contradict each other; run them as two edits")
    name = str(edit) if edit is not None else "no edit"
    program = Program.clean(steps, name)
    for one in edits:
        if isinstance(one, ContributionEdit):
            program = program.with_change(one.at, one.change(), name)
    slots = list(program.slots)
    for one in edits:
        if isinstance(one, OrderEdit):
            slots = one.moved(slots)
    return Program(tuple(slots), program.last, name)


def _contradict(a: Edit, b: Edit) -> bool:
    # A stop knows what may stand before it; otherwise either edit may object.
    stops = [e for e in (a, b) if isinstance(e, Stop)]
    if stops and isinstance(a, OrderEdit) and isinstance(b, OrderEdit):
        return stops[0].contradicts(b if stops[0] is a else a)
    return a.contradicts(b) or b.contradicts(a)
