"""Members of the family trained side by side on one device: their batches made first, a stream for each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .corpus import Curriculum, batch
from .export import write_checkpoint
from .graphed import GraphedRun
from .recipe import Recipe

PIECE = 100
"""Steps whose batches one process makes at a time."""
REPORT_EVERY = 500


@dataclass(frozen=True)
class Data:
    """What batches depend on: with these alike, two runs train on the same tokens."""

    seed: int
    steps: int
    rows: int
    context: int
    curriculum: Curriculum

    @classmethod
    def of(cls, recipe: Recipe) -> Data:
        """Those of a recipe."""
        return cls(recipe.seed, recipe.steps, recipe.rows, recipe.shape.context, recipe.curriculum)


def train_side_by_side(
    recipes: Sequence[tuple[Recipe, Path]],
    device: str = "cuda",
    *,
    snapshot_every: int | None = None,
    processes: int | None = None,
) -> list[GraphedRun]:
    """Train recipes from their beginning to their end at the same time, each into its folder.

    Args:
        recipes: with the folder that a run's state is saved in, whole, at its end.
        snapshot_every: keep a checkpoint of every so many steps under ``folder/snapshots``.
        processes: that make batches [all cores].

    Raises:
        ValueError: if recipes are of different lengths.
    """
    lengths = {recipe.steps for recipe, _ in recipes}
    if len(lengths) > 1:
        raise ValueError(f"runs side by side are equally long; these have {sorted(lengths)} steps")
    data = _all_batches({Data.of(recipe) for recipe, _ in recipes}, processes or os.cpu_count() or 1, device)
    runs = [GraphedRun(recipe, folder, device) for recipe, folder in recipes]
    for step in range(max(lengths, default=0)):
        for run in runs:
            ids, answers = data[Data.of(run.recipe)]
            run.take(ids[step], answers[step])
        if snapshot_every and (step + 1) % snapshot_every == 0:
            for run in runs:
                run.settle()
                write_checkpoint(run, run.folder / "snapshots" / f"{step + 1:06d}")
        if (step + 1) % REPORT_EVERY == 0:
            print(f"step {step + 1}: " + ", ".join(f"{run.recipe.label} {run.last:.3f}" for run in runs), flush=True)
    for run in runs:
        run.save()
    return runs


def _all_batches(wanted: set[Data], processes: int, device: str) -> dict[Data, tuple[Tensor, Tensor]]:
    """Token ids [step, row, context + 1] as small integers, and which predicted ones are answers, on the device."""
    pieces = [(data, first) for data in wanted for first in range(0, data.steps, PIECE)]
    if processes == 1:
        made = list(map(_piece, pieces))
    else:
        # Spawned: a forked process would inherit torch's threads in whatever state they are.
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            made = list(pool.map(_piece, pieces))
    found = {}
    for data in wanted:
        parts = [part for (of, _), part in zip(pieces, made, strict=True) if of == data]
        ids, answers = (np.concatenate(kind) for kind in zip(*parts, strict=True))
        found[data] = torch.from_numpy(ids).to(device), torch.from_numpy(answers).to(device)
    return found


def _piece(asked: tuple[Data, int]) -> tuple[np.ndarray, np.ndarray]:
    data, first = asked
    tokens = data.rows * data.context
    made = [
        batch(data.seed, step, data.rows, data.context, data.curriculum.shares(step * tokens))
        for step in range(first, min(first + PIECE, data.steps))
    ]
    return np.stack([ids.astype(np.int16) for ids, _ in made]), np.stack([w == 1.0 for _, w in made])
