"""Whether a model answers, and at what loss, item by item: so that models and numbers of examples can be paired."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from depthsig.commands.opening import longest, token_prompts, too_long
from depthsig.commands.repeats.grammar import answered_prompts
from depthsig.commands.repeats.tasks import measure_answers
from depthsig.engine.memory import parse_memory
from depthsig.errors import InputError
from depthsig.model import Model
from depthsig.prompts import TokenPrompt, load_prompts
from depthsig.prompts.shots import MOST_SHOTS


@dataclass(frozen=True)
class AnsweredPrompts:
    """What a model makes of a task's items, in their order, which is the same for every model and number of shots.

    Attributes:
        items: SHA-256 of each item's own text with its answer, without examples [prompt].
        loss: mean loss of the answer's tokens, in nats a token; NaN where the prompt does not fit [prompt].
        exact: 1 where every token of the answer is the likeliest after those before it, which is when greedy decoding
            gives the answer, else 0; NaN where the prompt does not fit [prompt].
        fits: whether the prompt with its examples, and an answer that can be measured, is short enough [prompt].
        shots: solved examples before each.
    """

    task: str
    shots: int
    items: tuple[str, ...]
    loss: Float[ndarray, "prompt"]
    exact: Float[ndarray, "prompt"]
    fits: Bool[ndarray, "prompt"]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def accuracy(self) -> float:
        """The share of exact answers among the items that fit."""
        return float(np.nanmean(self.exact))

    def frame(self) -> pd.DataFrame:
        """A row an item: ``task``, ``shots``, ``item``, ``fits``, ``loss``, ``exact``."""
        return pd.DataFrame({
            "task": self.task, "shots": self.shots, "item": self.items, "fits": self.fits, "loss": self.loss,
            "exact": self.exact,
        })  # fmt: skip


def answered(
    model: Model, task: str | Path, *, shots: int = 0, n: int = 100, seed: int = 0, max_tokens: int = 256,
    memory: str | int = "1GiB",
) -> AnsweredPrompts:  # fmt: skip
    """Loss and exact match of the answers to a task's first ``n`` items.

    Items whose prompt does not fit in ``max_tokens``, or in the model's context, keep their place and are NaN, so that
    results pair by item whatever fits where; :func:`fitting` tells beforehand.

    Args:
        task: a name or a file of prompts with answers.
        shots: solved examples before each item, 0 to 8.
        seed: of generated items, and of the choice of examples.

    Raises:
        InputError: for a task without answers or examples, or where nothing fits, with the most shots that do.
    """
    budget = parse_memory(memory)
    ready, items = _ready(model, task, shots, n, seed)
    limit = longest(model, max_tokens)
    fits = np.array([bool(p.positions) and len(p.ids) <= limit for p in ready])
    if not fits.any():
        least = min(len(p.ids) for p in ready)
        counts = fitting(model, task, n=n, seed=seed, max_tokens=max_tokens, most=max(shots - 1, 0)) if shots else {}
        most = max((k for k, count in counts.items() if count), default=None)
        raise InputError(
            f"task {str(task)!r}: {too_long(shots, limit, least, model)}"
            + ("" if most is None else f"; {most} fit for {counts[most]} of {len(ready)} prompts")
        )
    kept = [p for p, fit in zip(ready, fits, strict=True) if fit]
    found = measure_answers(model, kept, [None], budget, lambda done: None)
    loss, exact = (np.full(len(ready), np.nan) for _ in range(2))
    loss[fits], exact[fits] = found["loss"][:, 0], found["accuracy"][:, 0]
    return AnsweredPrompts(str(task), shots, items, loss, exact, fits)


def fitting(
    model: Model, task: str | Path, *, n: int = 100, seed: int = 0, max_tokens: int = 256, most: int = MOST_SHOTS
) -> dict[int, int]:
    """For every number of shots up to ``most``, how many of the first ``n`` items fit; nothing is run.

    Raises:
        InputError: for a task without answers or examples.
    """
    limit = longest(model, max_tokens)
    return {
        shots: sum(bool(p.positions) and len(p.ids) <= limit for p in _ready(model, task, shots, n, seed)[0])
        for shots in range(most + 1)
    }


def _ready(model: Model, task: str | Path, shots: int, n: int, seed: int) -> tuple[list[TokenPrompt], tuple[str, ...]]:
    """Items with their examples as token ids, whole, and a hash of each item alone."""
    alone = answered_prompts(load_prompts(task, n=n, seed=seed), task)
    asked = answered_prompts(load_prompts(task, n=n, seed=seed, shots=shots), task)
    items = tuple(hashlib.sha256(prompt.full.encode()).hexdigest() for prompt in alone)
    return token_prompts(asked, model, max_tokens=None, positions="answer"), items
