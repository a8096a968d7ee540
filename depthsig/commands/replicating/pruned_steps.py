"""Steps left out one after the other: those that move the stream least, or those that are missed least."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch.nn import functional as F

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import batches
from depthsig.engine.edits import Drop, Edit, compile_edit
from depthsig.engine.memory import parse_memory, sizes
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt


def pruning_runs(
    model: Model, chosen_on: Sequence[TokenPrompt], measured_on: Sequence[TokenPrompt], task: str, *,
    memory: str | int,
    show: Progress,
) -> pd.DataFrame:  # fmt: skip
    """Loss of every prompt with 0 to a third of the steps left out, in both orders: a row each.

    By influence the order is that of the whole model's block influence, 1 − cos(h, h′) (ShortGPT,
    2403.03853); by loss it is greedy: of all steps that are left, the one goes whose loss is felt least.
    Steps are chosen on other prompts than those that are measured.
    """
    steps, most = len(model.plan), max(len(model.plan) // 3, 1)
    work = 2 * (most + 1) * len(measured_on) + sum(steps - m for m in range(most)) * len(chosen_on)
    frames = []
    with show.stage("steps left out", work) as tick:
        orders = {
            "influence": _by_influence(model, chosen_on)[:most],
            "loss": _by_loss(model, chosen_on, most, parse_memory(memory), tick),
        }
        for name, order in orders.items():
            edits = [_without(order[:m]) for m in range(most + 1)]
            losses = prompt_losses(model, measured_on, edits, parse_memory(memory), tick)
            for m in range(most + 1):
                frames.append(pd.DataFrame({
                    "run": f"pruning.{name}", "task": task, "item": [p.index for p in measured_on], "condition": m,
                    "loss": losses[:, m], "exact": np.nan,
                }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def _without(steps: Sequence[int]) -> Edit | None:
    edit: Edit | None = None
    for step in sorted(steps):
        one = Drop(step, step + 1)
        edit = one if edit is None else edit + one
    return edit


def _by_loss(
    model: Model, prompts: Sequence[TokenPrompt], most: int, memory: int, tick: Callable[[float], None]
) -> list[int]:
    gone: list[int] = []
    for _ in range(most):
        left = [s for s in range(len(model.plan)) if s not in gone]
        losses = prompt_losses(model, prompts, [_without([*gone, s]) for s in left], memory, tick)
        known = ~np.isnan(losses).any(1)  # a prompt may have no next token that is measured
        gone.append(left[int(losses[known].sum(0).argmin())])
    return gone


@torch.no_grad()
def _by_influence(model: Model, prompts: Sequence[TokenPrompt]) -> list[int]:
    """Steps from the one that turns the stream least, over all positions but the first."""
    total = np.zeros(len(model.plan))
    for batch in batches([p.ids for p in prompts], model.device, max_tokens=sizes(model.device).step_tokens):
        with undisturbed(model.module):
            states = model.clean(batch.ids).states
        mask = batch.mask()
        mask[:, 0] = False
        for step in range(len(total)):
            cosines = F.cosine_similarity(states[step].float(), states[step + 1].float(), dim=-1)
            total[step] += float((1 - cosines)[mask].sum())
    return [int(s) for s in np.argsort(total, kind="stable")]


@torch.no_grad()
def prompt_losses(
    model: Model, prompts: Sequence[TokenPrompt], edits: Sequence[Edit | None], memory: int,
    tick: Callable[[float], None] = lambda amount: None,
) -> Float[ndarray, "prompt edit"]:  # fmt: skip
    """Mean next-token loss, in nats, at the measured positions of every prompt under every edit."""
    programs = [compile_edit(edit, model.plan) for edit in edits]
    found = np.full((len(prompts), len(edits)), np.nan)
    for batch in batches([p.ids for p in prompts], model.device, max_tokens=sizes(model.device).step_tokens):
        clean = Clean.of(model, batch)
        where = [[p for p in prompts[row].positions if p + 1 < len(prompts[row].ids)] for row in batch.rows]
        goal = [prompts[r].ids[p + 1] for r, at in zip(batch.rows, where, strict=True) for p in at]
        targets = torch.tensor(goal, dtype=torch.long)  # there may be none
        lengths = [len(at) for at in where]
        for numbers, states in run_programs(clean, programs, memory=memory):
            for number, state in zip(numbers, states, strict=True):
                with undisturbed(model.module):
                    logits = model.readout(torch.cat([state[i, at] for i, at in enumerate(where)])).float()
                losses = F.cross_entropy(logits, targets.to(logits.device), reduction="none").split(lengths)
                for row, own in zip(batch.rows, losses, strict=True):
                    found[row, number] = float(own.mean()) if len(own) else np.nan
            tick(len(numbers) * len(batch.rows))
    return found
