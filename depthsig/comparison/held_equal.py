"""What was held equal between compared models: parameters, FLOPs, KV memory and training, from their records alone.

Every arm of a matched family wins some match and loses another (a loop has the FLOPs of the deeper model and the
parameters of the shallower one), so that a verdict without this table says little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from depthsig.comparison.inputs import Input
from depthsig.comparison.roles import Roles
from depthsig.signature.costs import DIFFERS, EQUAL, HELD_COLUMNS, HELD_QUANTITIES, UNKNOWN
from depthsig.terms import NONE

ALIKE = 0.01
"""Two values are equal that differ by no more than this share of the larger one."""

Values = dict[str, float]


def held_equal(inputs: Sequence[Input], roles: Roles) -> pd.DataFrame:
    """The table: every signature's quantities, then those of every two signatures and every two roles side by side.

    FLOPs are told at the shortest context of the compared models, and a role's values are its members' means. What a
    record lacks, as those of earlier versions do, is NaN and ``unknown``.

    Returns:
        Columns as :data:`~depthsig.signature.costs.HELD_COLUMNS`.
    """
    infos = [one.signature.info for one in inputs]
    known = [info["costs"]["context"] for info in infos if info.get("costs")]
    context = min(known, default=0)
    values = [costs_of(info, context) for info in infos]
    notes = {"flops": f"at a context of {context} tokens" if known else "", "kv_bytes": _dtypes(infos)}
    rows = []
    for one, own in zip(inputs, values, strict=True):
        rows += [_row("one", one.name, NONE, q, own[q], np.nan, notes) for q in HELD_QUANTITIES]
    for a, b in combinations(range(len(inputs)), 2):
        pair = inputs[a].name, inputs[b].name
        rows += [_row("model", *pair, q, values[a][q], values[b][q], notes) for q in HELD_QUANTITIES]
    arms = {role: [values[place] for place in places] for role, places in roles.members.items()}
    for a_role, b_role in combinations(arms, 2):
        for q in HELD_QUANTITIES:
            of_a, of_b = ([one[q] for one in arms[role]] for role in (a_role, b_role))
            apart = [r for r, v in ((a_role, of_a), (b_role, of_b)) if not all(alike(v[0], x) for x in v)]
            said = {q: "; ".join(filter(None, [notes.get(q, ""), *(f"members of {r} differ" for r in apart)]))}
            rows.append(_row("role", a_role, b_role, q, float(np.mean(of_a)), float(np.mean(of_b)), said))
    return pd.DataFrame(rows, columns=list(HELD_COLUMNS))


def costs_of(info: Mapping[str, Any], context: int) -> Values:
    """The quantities of a signature's record by name; NaN where it does not tell one.

    Args:
        context: tokens at which FLOPs are told.
    """
    costs = info.get("costs") or {}
    found = {name: _number(costs.get(name)) for name in HELD_QUANTITIES}
    found["steps"] = float(len(info["plan"]))
    found["layers"] = _number(info["checkpoint"].get("n_layers"))
    found["flops"] = _number(costs.get("matmul_flops")) + context * _number(costs.get("attention_flops"))
    return found


def alike(a: float, b: float) -> bool:
    """Whether two values are equal within :data:`ALIKE`; what is not known is like nothing else.

    >>> alike(100, 99.5), alike(100, 98), alike(0, 0)
    (True, False, True)
    """
    return bool(abs(a - b) <= ALIKE * max(abs(a), abs(b))) or (a != a and b != b)


def _row(
    level: str, a: str, b: str, quantity: str, of_a: float, of_b: float, notes: Mapping[str, str]
) -> dict[str, Any]:
    both = of_a == of_a and of_b == of_b
    verdict = NONE if level == "one" else UNKNOWN if not both else EQUAL if alike(of_a, of_b) else DIFFERS
    return {
        "level": level, "a": a, "b": b, "quantity": quantity, "unit": HELD_QUANTITIES[quantity].unit, "value_a": of_a,
        "value_b": of_b, "factor": of_a / of_b if both and of_b else np.nan, "verdict": verdict,
        "note": notes.get(quantity, ""),
    }  # fmt: skip


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _dtypes(infos: Sequence[Mapping[str, Any]]) -> str:
    found = sorted({str(info["dtype"]) for info in infos if info.get("dtype")})
    return f"in {' and '.join(found)}" if found else ""
