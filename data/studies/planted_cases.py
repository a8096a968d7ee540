"""What is planted, how strongly, and which verdicts are then true and which false.

A case makes one model at a time from random numbers. Its truth names the verdicts that the construction
decides; of the others nothing is counted. Where a model is token-wise, its truth is computed by
:func:`~data.studies.plain_truth.plain_truth` over all tokens, not estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from depthsig.prompts.builtin import builtin_prompts

from . import liars
from .plain_truth import Truth, plain_truth
from .planting import (
    in_order,
    linear_loop,
    noisy,
    one_constant,
    periodic,
    permuted,
    rotated,
    small_llama,
    trained,
)
from .planting import token_wise as token_wise_llama

PROMPTS, TOKENS = 8, 32
TASKS = ("lookup", "copying", "addition", "variables0")
VOCAB, KNOWN = 48, 16
"""Of token-wise models; and of those whose layers all push one way, the tokens that are likely."""
NEGLIGIBLE = 0.01
"""Nats, as the verdict on steps to be left out has it."""
CLOSE = 1e-4
"""A truth nearer to its reference than this is none."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Planted:
    """A model, what to ask it, and what is true of it.

    Attributes:
        prompts: token ids. options: of the analysis (order, spans, control).
        truth: by verdict. block: that is there, start, size and count. step: that matters most.
    """

    model: Any
    prompts: list[list[int]]
    truth: dict[str, bool]
    options: dict[str, Any] = field(default_factory=dict)
    block: tuple[int, int, int] | None = None
    step: int | None = None


@dataclass(frozen=True)
class Case:
    """Models made alike.

    Attributes:
        name: what is planted. strength: how strongly, in the case's own unit; 0 where there is none.
        models: how many, in full and ``quick``. make: one of them.
        null: nothing is planted. peers: other tools have something to say.
    """

    name: str
    strength: float
    models: int
    make: Callable[[Rng], Planted]
    quick: int = 1
    null: bool = False
    peers: bool = False


NO_BLOCK = {"recurrence": False, "blocks": False, "find_blocks": False}
FINE = {"exact": True, "prompts": True}


def task_prompts(rng: Rng, task: str = "lookup", n: int = PROMPTS) -> list[list[int]]:
    """Generated prompts as the family's ids, which are bytes."""
    return [list(p.text.encode())[:TOKENS] for p in builtin_prompts(task, n, int(rng.integers(1 << 31)))]


def random_prompts(rng: Rng, vocab: int, n: int = 12, tokens: int = 32) -> list[list[int]]:
    """Independent tokens, each as likely."""
    return rng.integers(0, vocab, (n, tokens)).tolist()


def _declared(rng: Rng, layers: int) -> str:
    """Some block that divides the model."""
    return f"0:{layers}/{rng.choice([b for b in (2, 3, 4, 6) if layers % b == 0 and layers // b >= 3])}"


# Nothing planted.


def _null(change: Callable[[Any, Rng], Any], task: str, rng: Rng) -> Planted:
    task = str(rng.choice(TASKS)) if task == "any" else task
    options = {"grown": _declared(rng, 24)}
    return Planted(change(trained(), rng), task_prompts(rng, task), {**NO_BLOCK, **FINE}, options)


def _reinitialised(rng: Rng) -> Planted:
    layers, width = int(rng.choice([8, 12, 16, 24])), int(rng.choice([32, 64]))
    truth = {**NO_BLOCK, **FINE, "recurrence_trained": False}
    model = small_llama(rng, layers, width)
    return Planted(model, random_prompts(rng, 64, 8), truth, {"grown": _declared(rng, layers), "control": True})


def _token_wise(rng: Rng) -> Planted:
    layers = int(rng.choice([9, 12, 15, 18]))
    slope = rng.uniform(-0.5, 3.0)
    sizes = np.exp(np.linspace(-0.5, 0.5, layers) * slope + rng.uniform(-0.7, 0.7))
    model = token_wise_llama(rng, layers, sizes.tolist(), float(np.exp(rng.uniform(0.5, 3.0))))
    prompts, options = random_prompts(rng, VOCAB), {"grown": _declared(rng, layers)}
    return _known(model, prompts, {**NO_BLOCK, **FINE}, options, VOCAB)


def _known(
    model: Any, prompts: list[list[int]], truth: dict[str, bool], options: dict[str, Any], tokens: int
) -> Planted:
    """With what is computed over all tokens."""
    found, steps = plain_truth(model, tokens), model.config.num_hidden_layers
    truth = {**truth, **decided(found, steps)}
    step = int(np.argmax(found.costs)) if truth.get("most_damaging") else None
    return Planted(model, prompts, truth, options, step=step)


def decided(found: Truth, steps: int) -> dict[str, bool]:
    """Verdicts by exact values; those too close to their reference, or whose definitions disagree, are left out."""
    compared = {
        "late": (found.late_share, 1 / 3),
        "settling": (found.settling, steps / 2),
        "attention_or_mlp": (found.attention_over_mlp, 1.0),
        "least_damaging": (NEGLIGIBLE, float(found.costs.min())),
    }
    truth = {name: a > b for name, (a, b) in compared.items() if abs(a - b) > CLOSE}  # a NaN is not
    if all(e > steps / 2 for e in found.effective) or all(e <= steps / 2 for e in found.effective):
        truth["effective_depth"] = found.effective[0] > steps / 2
    first, second = np.sort(found.costs)[::-1][:2]
    if first - second > CLOSE or first == second:
        truth["most_damaging"] = bool(first > second)
    return truth


def _alike(rng: Rng) -> Planted:
    """Exactly alike: no late layers, no single step."""
    layers = int(rng.choice([9, 12, 15]))
    model = one_constant(rng, [float(np.exp(rng.uniform(-2.5, 0)))] * layers, KNOWN)
    found = plain_truth(model, KNOWN)
    least = {"least_damaging": bool(found.costs.min() < NEGLIGIBLE)}
    return Planted(model, random_prompts(rng, KNOWN), {"late": False, "most_damaging": False, **FINE, **least})


def _one_direction(spread: float, rng: Rng) -> Planted:
    layers = int(rng.choice([9, 12, 15]))
    sizes = np.exp(rng.uniform(-2.0, -0.5) + spread * rng.standard_normal(layers))
    model = one_constant(rng, sizes.tolist(), KNOWN)
    return _known(model, random_prompts(rng, KNOWN), {**FINE}, {}, KNOWN)


# Dead layers: where depth is used is known exactly.


def _dead(where: str, live: int, steps: int, rng: Rng) -> Planted:
    """The trained baseline's first layers alone, with dead ones after, before or around them."""
    dead = steps - live
    before = {"first": 0, "middle": dead // 2, "last": dead}[where]
    order = [*[None] * before, *range(live), *[None] * (dead - before)]
    truth = {**FINE, "late": where == "last", "least_damaging": True}
    if where == "first":
        truth |= {"settling": False, "effective_depth": False}
    if live == 1:
        truth["most_damaging"] = True
    base = permuted(trained(), rng)
    return Planted(in_order(base, order, rng), task_prompts(rng), truth, step=before if live == 1 else None)


def _token_wise_dead(where: str, rng: Rng) -> Planted:
    live, steps = 5, 15
    dead = steps - live
    before = {"first": 0, "middle": dead // 2, "last": dead}[where]
    base = token_wise_llama(rng, live, [float(np.exp(rng.uniform(-0.7, 0.7)))] * live)
    model = in_order(base, [*[None] * before, *range(live), *[None] * (dead - before)], rng)
    return _known(model, random_prompts(rng, VOCAB), {**FINE}, {}, VOCAB)


# Periods, copies, loops.


def _period(block: int, strength: float, of: str, rng: Rng) -> Planted:
    model = small_llama(rng, 24, 64) if of == "fresh" else permuted(trained(), rng)
    prompts = random_prompts(rng, 64, 8) if of == "fresh" else task_prompts(rng)
    return Planted(periodic(model, block, strength), prompts, {"recurrence": True, **FINE}, {"grown": f"0:24/{block}"})


def _other_period(rng: Rng) -> Planted:
    """Every phase of the declared block meets every phase of the planted one equally often."""
    planted, declared = (2, 3) if rng.random() < 0.5 else (3, 4) if rng.random() < 0.5 else (3, 2)
    model = periodic(small_llama(rng, 24, 64), planted, float(rng.uniform(0.25, 2)))
    return Planted(model, random_prompts(rng, 64, 8), {"recurrence": False, **FINE}, {"grown": f"0:24/{declared}"})


def _copies(noise: float, of: str, rng: Rng) -> Planted:
    """Layers 4..7 four times in all, then noise on every weight."""
    base = small_llama(rng, 12, 64) if of == "fresh" else trained()
    model = noisy(in_order(base, [*range(4), *list(range(4, 8)) * 4, *range(8, 12)]), rng, noise)
    prompts = random_prompts(rng, 64, 8) if of == "fresh" else task_prompts(rng)
    truth = dict.fromkeys(("recurrence", "blocks", "find_blocks"), True) | FINE
    options: dict[str, Any] = {"grown": "4:20/4"}
    if of == "trained":
        truth["recurrence_trained"] = True
        options["control"] = True
    return Planted(model, prompts, truth, options, (4, 4, 4))


def _random_loop(rng: Rng) -> Planted:
    """Random weights run again: a pattern is there, and training did not make it."""
    model = small_llama(rng, 8, 64)
    truth = {"recurrence": True, "find_blocks": True, "recurrence_trained": False, **FINE}
    options = {"order": "0:2,2:6x4,6:8", "control": True}
    return Planted(model, random_prompts(rng, 64, 8), truth, options, (2, 4, 4))


def _loop(radius: float, rng: Rng) -> Planted:
    """One pass is x ← radius·x + c: the fixed point is c / (1 − radius), which a radius above 1 flees."""
    model = linear_loop(rng, radius, push=float(rng.uniform(0.05, 0.2)))
    truth = {"loop_rests": radius < 1, "find_blocks": True, **FINE}
    return Planted(model, random_prompts(rng, VOCAB, 6, 16), truth, {"order": "0:2x6"}, (0, 2, 6))


def _drift(rng: Rng) -> Planted:
    """Every pass adds the same constant, to states of usual size: the loop never comes to rest."""
    model = one_constant(rng, [float(np.exp(rng.uniform(-1, 1)))] * 2, KNOWN)
    return Planted(model, random_prompts(rng, KNOWN, 6, 16), {"loop_rests": False, **FINE}, {"order": "0:2x6"})


def _dead_loop(rng: Rng) -> Planted:
    """A loop of dead layers after a live one: it rests at its own input from the first pass on."""
    model = in_order(small_llama(rng, 3, 32), [0, None, None, 2], rng)
    return Planted(model, random_prompts(rng, 64, 6, 16), {"loop_rests": True, **FINE}, {"order": "0:1,1:3x4,3:4"})


def _liar(kind: str, rng: Rng) -> Planted:
    base = token_wise_llama(rng, 6, [1.0] * 6)  # where what layers add is large, so is a lie
    model = liars.MAKERS[kind](base)
    return Planted(model, random_prompts(rng, VOCAB, 6, 16), {"exact": False})


def _few(n: int, rng: Rng) -> Planted:
    return Planted(small_llama(rng, 4, 32), random_prompts(rng, 64, n, 16), {"prompts": n >= 5, "exact": True})


def _same(model: Any, rng: Rng) -> Any:
    return model


def _cases() -> Sequence[Case]:
    nulls = (
        ("baseline, heads and neurons permuted", permuted, "lookup"), ("baseline, stream rotated", rotated, "lookup"),
        ("baseline, 1 % of weight noise", noisy, "lookup"), ("baseline, other prompts", _same, "any"),
    )  # fmt: skip
    noises, strengths = (0.0, 0.1, 0.25, 0.5, 1.0), (0.05, 0.1, 0.25, 0.5)
    return (
        Case("token-wise, nothing recurs", 0, 80, _token_wise, quick=2, null=True),
        Case("re-initialised, several shapes", 0, 48, _reinitialised, quick=2, null=True),
        *(Case(name, 0, 8, partial(_null, change, task), null=True) for name, change, task in nulls),
        Case("steps exactly alike", 0, 20, _alike, null=True),
        *(Case("one direction, spread", spread, 12, partial(_one_direction, spread)) for spread in (0.1, 0.5)),
        *(Case(f"token-wise, live {w}", 5, 12, partial(_token_wise_dead, w)) for w in ("first", "middle", "last")),
        Case("loop of random weights", 0, 12, _random_loop),
        *(Case("loop of known radius", r, 6, partial(_loop, r)) for r in (0.3, 0.6, 0.9, 1.1, 1.3)),
        Case("loop that drifts", 1, 12, _drift),
        Case("loop of dead layers", 0, 6, _dead_loop),
        *(Case(f"a forward that {kind}", 0, 4, partial(_liar, kind)) for kind in liars.MAKERS),
        *(Case("how many prompts", n, 3, partial(_few, n)) for n in (4, 5)),
        Case("another period than declared", 0, 20, _other_period),
        *(
            Case(f"period of {b}, random weights", s, 4, partial(_period, b, s, "fresh"), quick=int(s == 0.5))
            for b in (2, 3, 4) for s in strengths
        ),
        *(
            Case("copied block, random weights", s, 4, partial(_copies, s, "fresh"), quick=int(s == 0.1))
            for s in noises
        ),
        *(Case("dead layers, live first", m, 4, partial(_dead, "first", m, 24), 0, peers=True) for m in (4, 8, 12)),
        Case("dead layers, live middle", 8, 4, partial(_dead, "middle", 8, 24), peers=True),
        *(Case("dead layers, live last", m, 4, partial(_dead, "last", m, 24), peers=True) for m in (4, 8)),
        Case("one live layer", 1, 6, partial(_dead, "middle", 1, 12)),
        *(
            Case(f"period of {b}, trained weights", s, 2, partial(_period, b, s, "trained"), quick=0)
            for b in (2, 3, 4) for s in (0.5, 1.0, 2.0)
        ),
        *(
            Case("copied block, trained weights", s, 3, partial(_copies, s, "trained"), quick=0)
            for s in noises[::2]
        ),
    )  # fmt: skip


CASES = _cases()
