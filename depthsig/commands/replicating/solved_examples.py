"""Exact answers to the primitives with solved examples before each question."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from depthsig.commands.repeats.answering import answered
from depthsig.errors import InputError
from depthsig.model import Model
from depthsig.progress import Progress

SHOTS = (0, 1, 2, 4, 8)
FEWEST = 3
"""A task takes part with so many numbers of examples, or more."""
FIT = 0.5
"""A number of examples takes part where so many of the questions fit with them."""


def shots_runs(
    model: Model, tasks: Sequence[str], *, n: int, seed: int, max_tokens: int, memory: str | int, show: Progress
) -> pd.DataFrame:
    """Loss and exact match of every item with so many solved examples before it: a row each.

    A number of examples with which few questions fit into the model's context is left out for that task, and a
    task with fewer than three numbers altogether.

    Raises:
        InputError: where no task fits.
    """
    frames: list[pd.DataFrame] = []
    with show.stage("solved examples", len(tasks) * len(SHOTS)) as tick:
        for task in tasks:
            found = []
            for shots in SHOTS:
                tick(1)
                try:
                    one = answered(model, task, shots=shots, n=n, seed=seed, max_tokens=max_tokens, memory=memory)
                except InputError:
                    continue  # nothing fits with so many
                if one.fits.mean() >= FIT:
                    found.append(pd.DataFrame({
                        "run": "shots", "task": task, "item": range(len(one)), "condition": shots, "loss": one.loss,
                        "exact": one.exact,
                    })[one.fits])  # fmt: skip
            frames += found if len(found) >= FEWEST else []
    if not frames:
        raise InputError(f"no primitive fits into the model's context with {SHOTS[FEWEST - 1]} examples before it")
    return pd.concat(frames, ignore_index=True)
