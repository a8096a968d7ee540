"""Quantities of runs beside signatures: blocks run again, examples in context, steps left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.replication.criteria import Claim
from depthsig.replication.evidence import Evidence, Items
from depthsig.replication.quantities import Curve, Found, quantity
from depthsig.statistics.convergence import percentile_intervals

NEEDS = "needs a checkpoint: it cannot be told from tables"


def _found(
    evidence: Evidence, run: str, wanted: tuple[int, ...], axis: str, measure: str,
    number: Callable[[Items, Float[ndarray, "row network condition"]], Float[ndarray, "row network"]],
) -> Found:  # fmt: skip
    """A number of the weighted means over items, by condition."""
    items = evidence.items(run, wanted)
    if items is None:
        why = filter(None, [evidence.networks[p].reasons.get(run.partition(".")[0]) for p in wanted])
        return Found(reason="; ".join(dict.fromkeys(why)) or NEEDS)
    values = items.loss if measure == "loss" else items.exact
    means = np.einsum("ri,nic->rnc", items.weights, values)
    try:
        numbers = number(items, means)
    except KeyError as missing:
        return Found(reason=f"was not run at {missing.args[0]}; there is {', '.join(map(str, items.conditions))}")
    curves = tuple(
        Curve(place, np.array(items.conditions, dtype=float), *percentile_intervals(means[:, n]))
        for n, place in enumerate(items.places)
    )
    tasks = len(set(items.tasks))
    notes: tuple[str, ...] = (f"{tasks} task{'s' * (tasks != 1)}, {len(items.tasks)} items",)
    lost = [evidence.networks[p].name for p in wanted if p not in items.places]
    if lost:
        notes += (f"not run: {', '.join(lost)}",)
    if len({evidence.networks[p].tokens for p in items.places}) > 1:
        notes += ("tokenizers differ, and losses are means over other tokens: read their changes, not their sizes",)
    exact = np.einsum("i,nic->nc", items.weights[0], items.exact)[:, 0]
    if measure == "loss" and run == "repeat":
        notes += (f"exact answers as it is {', '.join(f'{x:.2f}' for x in exact)}",)
    return Found(items.places, numbers, notes=notes, curves=curves, axis=axis, n=len(items.tasks), strata=tasks)


@quantity("repeat_change")
def repeat_change(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The change of the loss with the middle block run so many times in all."""
    times = int(claim.of[0])
    return _found(
        evidence, "repeat", (*a, *c), "times in all", "loss",
        lambda items, means: means[..., items.at(times)] - means[..., items.at(1)],
    )  # fmt: skip


@quantity("repeat_beyond")
def repeat_beyond(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The loss at so many times, above the smaller one of twice and three times."""
    times = int(claim.of[0])
    return _found(
        evidence, "repeat", (*a, *c), "times in all", "loss",
        lambda items, means: means[..., items.at(times)] - np.minimum(means[..., items.at(2)], means[..., items.at(3)]),
    )  # fmt: skip


@quantity("repeat_slope")
def repeat_slope(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The rise of the loss for each repeat beyond the second."""
    return _found(
        evidence, "repeat", (*a, *c), "times in all", "loss",
        lambda items, means: (means[..., items.at(4)] - means[..., items.at(2)]) / 2,
    )  # fmt: skip


@quantity("shots_slope")
def shots_slope(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The slope of exact answers over log2(1 + examples), by least squares."""

    def number(items: Items, means: Float[ndarray, "row network condition"]) -> Float[ndarray, "row network"]:
        if len(items.conditions) < 2:
            raise KeyError("two numbers of examples")
        x = np.log2(1 + np.array(items.conditions, dtype=float))
        x -= x.mean()
        return means @ x / (x @ x)

    return _found(evidence, "shots", (*a, *c), "examples", "exact", number)


@quantity("exact_answers")
def exact_answers(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The share of answers that are exact, of the model as it is."""
    return _found(
        evidence, "repeat", (*a, *c), "times in all", "exact", lambda items, means: means[..., items.at(1)]
    )  # fmt: skip


@quantity("pruning")
def pruning(evidence: Evidence, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean rise of the loss over all numbers of steps left out, above the whole model's."""
    found = _found(
        evidence, f"pruning.{claim.of[0]}", (*a, *c), "steps left out", "loss",
        lambda items, means: (means - means[..., :1])[..., 1:].mean(-1),
    )  # fmt: skip
    if found.reason:
        return found
    start = {place: float(curve.value[0]) for place, curve in zip(found.places, found.curves, strict=True)}
    said = ", ".join(f"{evidence.networks[p].name} {value:.2f}" for p, value in start.items())
    return replace(found, notes=(*found.notes, f"starting loss {said}"))
