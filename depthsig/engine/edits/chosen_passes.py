"""Passes of a layer: how some of them are told, and the steps of a plan that they are."""

from __future__ import annotations

import re
from operator import index

from depthsig.errors import InputError, shown
from depthsig.plan.plan import Plan

Passes = int | str
"""``"all"``; k, pass k alone; or ``"k:"``, pass k and every later one. Counted from 0, as ``iteration`` of a plan."""

EVERY_PASS = "all"
_FROM = re.compile(r"(0|[1-9][0-9]{0,5}):")


def check_passes(passes: Passes, name: str) -> None:
    """Refuse what names no passes.

    Raises:
        InputError: saying what does.
    """
    if not _is_number(passes) and not (isinstance(passes, str) and (passes == EVERY_PASS or _FROM.fullmatch(passes))):
        raise InputError(
            f"{name}: passes is {shown(passes)}; it is 'all', k (pass k alone), or 'k:' (pass k and every later one), "
            "counted from 0"
        )


def _is_number(passes: object) -> bool:
    """Whether it is one whole number; an array has ``__index__`` whatever it holds."""
    try:
        index(passes)  # type: ignore[arg-type]
    except TypeError:
        return False
    return not isinstance(passes, bool)


def passes_in_words(passes: Passes) -> str:
    """As an edit prints them.

    >>> passes_in_words("all"), passes_in_words(2), passes_in_words("2:")
    ('all passes', 'pass 2', 'from pass 2 on')
    """
    if passes == EVERY_PASS:
        return "all passes"
    first, later = _told(passes)
    return f"from pass {first} on" if later else f"pass {shown(first)}"


def _told(passes: Passes) -> tuple[int, bool]:
    """The first of the passes, and whether all later ones are among them."""
    if not isinstance(passes, str):
        return index(passes), False
    found = _FROM.fullmatch(passes)
    return (0 if found is None else int(found[1])), True


def steps_of_passes(plan: Plan, layer: int, passes: Passes, name: str) -> list[int]:
    """The steps that are these passes of a layer, in order.

    Args:
        name: of the edit, for the messages.

    Raises:
        InputError: for a layer or a pass that this plan does not have.

    >>> from depthsig.plan.plan import build_plan
    >>> plan = build_plan([0, 1, 2, 1, 2, 1, 2, 3], 4)
    >>> [steps_of_passes(plan, 1, passes, "skip") for passes in ("all", 2, "1:")]
    [[1, 3, 5], [5], [3, 5]]
    """
    if not 0 <= layer < plan.n_layers:
        raise InputError(f"{name}: layer {shown(layer)} is out of range; layers are 0..{plan.n_layers - 1}")
    runs = {step.iteration: step.step for step in plan if step.layer == layer}
    if not runs:
        why = next((f" ({note})" for note in plan.notes if note.startswith(f"layer {layer} has all")), "")
        raise InputError(f"{name}: layer {layer} runs at no step of this plan{why}; the plan lists those that do")
    first, later = _told(passes)
    if first not in runs:
        there = "once, in pass 0" if len(runs) == 1 else f"in {len(runs)} passes, 0..{len(runs) - 1}"
        raise InputError(f"{name}: there is no pass {shown(first)}; layer {layer} runs {there}")
    return [step for iteration, step in runs.items() if iteration == first or (later and iteration > first)]
