"""The claims of ``depthsig compare`` on models whose roles mean nothing, and on pairs whose difference is known.

Roles are given at random to models in which nothing was planted: whatever is then claimed of a role is wrong. With one
member an arm a claim is about two checkpoints, and of different networks it may be right; only members that compute
the same function make every claim wrong, so these arms are of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

import depthsig
from depthsig import Signature

from .plain_truth import plain_truth
from .planted_cases import VOCAB, random_prompts, task_prompts
from .planting import fresh, noisy, periodic, permuted, rotated, small_llama, token_wise, trained

METRICS = ("late_share", "skip.output_l2", "contribution.relative", "contribution.cosine", "contribution.cosine_matrix")
POOL = 21
STEP = 0.05
"""Width of the classes of differences in late_share."""

Said = tuple[str, float, str, bool, str]
"""Case, strength, claim, whether it is true, and what was said of it."""


@dataclass(frozen=True)
class Draw:
    """One way of giving roles.

    Attributes:
        draws: how often, in full and ``quick``.
        make: from random numbers to what was claimed.
    """

    name: str
    draws: int
    make: Callable[[np.random.Generator, bool], Iterator[Said]]
    quick: int = 2


def _signature(model: Any, prompts: list[list[int]], **options: Any) -> Signature:
    return depthsig.analyze(model, prompts, metrics=METRICS, progress=False, control=False, **options)


def _claims(signatures: Sequence[Signature], roles: dict[str, Any]) -> list[dict[str, Any]]:
    table = depthsig.compare(signatures, roles=roles, progress=False).claims
    return table.to_dict("records")


@cache
def _pool(kind: str, quick: bool) -> tuple[Signature, ...]:
    """Signatures of models in which nothing was planted, all on the same prompts; every third baseline is noisy."""
    rng = np.random.default_rng(2602)
    prompts = random_prompts(rng, 64, 8) if kind == "fresh" else task_prompts(rng)
    found = []
    for number in range(6 if quick else POOL):
        make = (permuted, rotated, noisy)[number % 3]
        model = small_llama(rng, 12, 64) if kind == "fresh" else make(trained(), rng)
        found.append(_signature(model, prompts, grown=f"0:{model.config.num_hidden_layers}/4"))
    return tuple(found)


def _members(kind: str, quick: bool) -> list[Signature]:
    pool = _pool("fresh" if kind == "fresh" else "baseline", quick)
    return [one for number, one in enumerate(pool) if kind != "same" or number % 3 < 2]


def _random_roles(kind: str, members: int, rng: np.random.Generator, quick: bool) -> Iterator[Said]:
    pool = _members(kind, quick)
    members = min(members, len(pool) // 3)
    drawn = [pool[i] for i in rng.permutation(len(pool))[: 3 * members]]
    roles = {role: drawn[i::3] for i, role in enumerate(("looped", "grown", "baseline"))}
    for row in _claims(drawn, roles):
        yield "", members, f"compare: {row['claim']}", False, row["verdict"]


@cache
def _known_late(quick: bool) -> tuple[tuple[Signature, float], ...]:
    """Token-wise models with their exact late_share."""
    rng = np.random.default_rng(2603)
    prompts, found = random_prompts(rng, VOCAB), []
    for _ in range(4 if quick else 20):
        sizes = np.exp(np.linspace(-0.5, 0.5, 12) * rng.uniform(-0.5, 3.0))
        model = token_wise(rng, 12, sizes.tolist())
        found.append((_signature(model, prompts), plain_truth(model, VOCAB).late_share))
    return tuple(found)


def _late_pairs(rng: np.random.Generator, quick: bool) -> Iterator[Said]:
    pool = _known_late(quick)
    (a, late_a), (c, late_c) = (pool[i] for i in rng.choice(len(pool), 2, replace=False))
    (row,) = [r for r in _claims([a, c], {"grown": a, "baseline": c}) if r["claim"] == "late"]
    difference = late_a - late_c
    yield "", round(STEP * np.floor(abs(difference) / STEP), 2), "compare: late", difference > 0, row["verdict"]


def _period_pairs(rng: np.random.Generator, quick: bool) -> Iterator[Said]:
    prompts, strength = random_prompts(rng, 64, 8), float(rng.choice([0.25, 0.5, 1.0]))
    a = _signature(periodic(small_llama(rng, 24, 64), 4, strength), prompts, grown="0:24/4")
    c = _signature(small_llama(rng, 24, 64), prompts)
    (row,) = [r for r in _claims([a, c], {"grown": a, "baseline": c}) if r["claim"] == "recurrence"]
    yield "", strength, "compare: recurrence", True, row["verdict"]


@cache
def _thirds(quick: bool) -> tuple[Signature, ...]:
    """Other functions than the baseline's: random weights, and the baseline with much noise."""
    rng, base = np.random.default_rng(2602), trained()
    prompts = task_prompts(rng)  # the first numbers are those of the pool
    models = [fresh(base, rng), *(noisy(base, rng, size) for size in (() if quick else (0.1, 0.3, 0.3)))]
    return tuple(_signature(model, prompts) for model in models)


def _same_function(rng: np.random.Generator, quick: bool) -> Iterator[Said]:
    """Two networks of one function, beside a third of another."""
    same, thirds = _members("same", quick), _thirds(quick)
    a, b = (same[i] for i in rng.choice(len(same), 2, replace=False))
    c = thirds[int(rng.integers(len(thirds)))]
    for row in _claims([a, b, c], {"looped": a, "grown": b, "baseline": c}):
        if row["claim"] == "convergence":
            yield "", 1.0, "compare: convergence", True, row["verdict"]


def _draws() -> Sequence[Draw]:
    return (
        Draw("pairs of known late share", 80, _late_pairs),
        Draw("random roles, random weights, 3 an arm", 60, partial(_random_roles, "fresh", 3)),
        Draw("random roles, random weights, 7 an arm", 20, partial(_random_roles, "fresh", 7)),
        *(Draw(f"random roles, changed baselines, {members} an arm", 20, partial(_random_roles, "mixed", members))
          for members in (3, 7)),
        Draw("random roles, one function, 1 an arm", 20, partial(_random_roles, "same", 1)),
        Draw("two of one function, and a third", 20, _same_function, quick=1),
        Draw("pairs, a period of 4 planted in one", 12, _period_pairs, quick=1),
    )  # fmt: skip


DRAWS = _draws()
