"""Quantities of runs beside signatures: blocks run again, examples in context, steps left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.replication.criteria import Claim
from depthsig.replication.depth_quantities import Found, NetworkCurve, quantity
from depthsig.replication.gathered import Gathered, Items
from depthsig.statistics.convergence import percentile_intervals

NEEDS = "needs a checkpoint: it cannot be told from tables"


def _found(
    evidence: Gathered, run: str, wanted: tuple[int, ...], axis: str, measure: str,
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
        NetworkCurve(place, np.array(items.conditions, dtype=float), *percentile_intervals(means[:, n]))
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
    shows = "loss of answers [nats]" if measure == "loss" else "exact answers [fraction]"
    return Found(items.places, numbers, notes=notes, curves=curves, axis=axis, basis=items, shows=shows)


@quantity("repeat_change")
def repeat_change(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The change of the loss with the middle block run so many times in all."""
    times = int(claim.of[0])
    return _found(
        evidence, "repeat", (*a, *c), "times in all", "loss",
        lambda items, means: means[..., items.at(times)] - means[..., items.at(1)],
    )  # fmt: skip


@quantity("repeat_best")
def repeat_best(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The smaller loss of once and four times, above the smaller one of twice and three times."""

    def number(items: Items, means: Float[ndarray, "row network condition"]) -> Float[ndarray, "row network"]:
        once, twice, thrice, four = (means[..., items.at(times)] for times in (1, 2, 3, 4))
        return np.minimum(once, four) - np.minimum(twice, thrice)

    return _found(evidence, "repeat", (*a, *c), "times in all", "loss", number)


@quantity("repeat_slope")
def repeat_slope(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The rise of the loss for each repeat beyond the second."""
    return _found(
        evidence, "repeat", (*a, *c), "times in all", "loss",
        lambda items, means: (means[..., items.at(4)] - means[..., items.at(2)]) / 2,
    )  # fmt: skip


@quantity("shots_slope")
def shots_slope(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The slope of exact answers over log2(1 + examples): of each item by least squares, then the mean."""
    items = evidence.items("shots", (*a, *c))
    if items is None:
        return Found(reason=NEEDS)
    there = ~np.isnan(items.exact)
    x = np.where(there, np.log2(1 + np.array(items.conditions, dtype=float)), np.nan)
    x = x - np.nanmean(x, -1, keepdims=True)
    slopes = np.nansum(x * items.exact, -1) / np.nansum(x**2, -1)
    curves = [
        NetworkCurve(place, np.array(items.conditions, dtype=float), *_over_items(items.exact[n], items.weights))
        for n, place in enumerate(items.places)
    ]
    tasks = list(dict.fromkeys(items.tasks))
    most = [
        max(k for k, t in zip(items.conditions, there[0][items.tasks.index(task)], strict=True) if t) for task in tasks
    ]
    said = ", ".join(f"{task} to {k}" for task, k in zip(tasks, most, strict=True))
    return Found(
        items.places, (slopes @ items.weights.T).T, notes=(f"{len(items.tasks)} items; examples that fit: {said}",),
        curves=tuple(curves), axis="examples", basis=items, shows="exact answers [fraction]",
    )  # fmt: skip


def _over_items(
    values: Float[ndarray, "item condition"], weights: Float[ndarray, "row item"]
) -> tuple[Float[ndarray, "condition"], ...]:
    """Means over the items that have a condition, with their intervals."""
    there = ~np.isnan(values)
    return percentile_intervals((weights @ np.where(there, values, 0.0)) / (weights @ there))


@quantity("exact_answers")
def exact_answers(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The share of answers that are exact, of the model as it is."""
    return _found(
        evidence, "repeat", (*a, *c), "times in all", "exact", lambda items, means: means[..., items.at(1)]
    )  # fmt: skip


@quantity("pruning")
def pruning(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean rise of the loss over all numbers of steps left out, above the whole model's."""
    found = _found(
        evidence, f"pruning.{claim.of[0]}", (*a, *c), "steps left out", "loss",
        lambda items, means: (means - means[..., :1])[..., 1:].mean(-1),
    )  # fmt: skip
    if found.reason:
        return found
    start = {place: float(curve.value[0]) for place, curve in zip(found.places, found.curves, strict=True)}
    said = ", ".join(f"{evidence.networks[p].name} {value:.2f}" for p, value in start.items())
    return replace(found, notes=(*found.notes, f"starting loss {said}"), shows="loss [nats]")
