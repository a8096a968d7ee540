"""A tuned lens: one affine map a depth, fitted to the model's own final output; a fifth of the prompts is held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from depthsig.checkpoint.lens_folder import LENS_TYPE
from depthsig.checkpoint.translators import TunedLens
from depthsig.commands.lenses.checked import head_hash
from depthsig.commands.lenses.fitted import FittedLens
from depthsig.commands.lenses.ready import ReadyFit
from depthsig.commands.lenses.training import Fit, HeldOut, Schedule, Trainer, capture
from depthsig.engine.memory import clean_tokens
from depthsig.errors import DepthsigWarning, InputError
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt

HELD_OUT = 0.2
HELD_OUT_TOKENS = 512
"""Held-out tokens that maps are judged on: enough, since differences are paired, and a readout of all costs."""


def fit_tuned(ready: ReadyFit, schedule: Schedule, batch_size: int | None, memory: int, show: Progress) -> FittedLens:
    """Fit it.

    Raises:
        InputError: for fewer than two different prompts.
    """
    model = ready.model
    train, held = _split(ready.prompts, schedule.seed)
    verdict = ready.certified()
    fits = _fitted(model, train, held, memory, batch_size if verdict.pad else 1, schedule, show)
    depths = _table(fits, model)
    tokens = {"train": sum(len(p.positions) for p in train), "held_out": sum(len(p.positions) for p in held)}
    _warn(depths, tokens["train"], model.trace.width)
    record = ready.record(
        loss="KL(final ‖ lens), nats, mean over held-out tokens; the same tokens chose among maps",
        tokens={**tokens, "judged": min(tokens["held_out"], HELD_OUT_TOKENS)},
        prompts={"train": [p.tokens_sha256 for p in train], "held_out": [p.tokens_sha256 for p in held]},
        depths=depths.to_dict(orient="records"),
    )
    weights, biases = zip(*(fits[d].map for d in sorted(fits)), strict=True)
    lens = TunedLens(weights, biases, config=_config(model), record=record)
    return FittedLens(lens, depths, record, model.checkpoint.name)


def _split(prompts: Sequence[TokenPrompt], seed: int) -> tuple[list[TokenPrompt], list[TokenPrompt]]:
    """Prompts to fit on, in random order, and those held out; what stands twice counts once."""
    once = list({p.tokens_sha256: p for p in reversed(prompts) if p.positions}.values())[::-1]
    if len(once) < 2:
        raise InputError(
            "fit-lens holds out a fifth of the prompts and needs two different ones of two tokens or more; "
            f"found {len(once)}"
        )
    order = np.random.default_rng(seed).permutation(len(once))
    held = max(1, round(HELD_OUT * len(once)))
    return [once[i] for i in order[held:]], [once[i] for i in order[:held]]


def _fitted(
    model: Model, train: Sequence[TokenPrompt], held: Sequence[TokenPrompt], budget: int, batch_size: int | None,
    schedule: Schedule, show: Progress,
) -> dict[int, Fit]:  # fmt: skip
    tokens = clean_tokens(model, budget)
    judged = capture(model, _first(held, HELD_OUT_TOKENS), tokens, batch_size)
    # A quarter of the budget, since pieces and whole are there at once; a quarter is for the readout.
    bytes_a_token = judged[:, 0].numel() * judged.element_size()
    groups = _groups(train, max(1, budget // 4 // bytes_a_token))

    def pool(group: Sequence[TokenPrompt]) -> Any:
        return lambda: capture(model, group, tokens, batch_size)

    with show.stage("fitting", schedule.steps) as tick, torch.no_grad():
        trainer = Trainer(model, HeldOut(model, judged[:, :HELD_OUT_TOKENS]), schedule, tick)
        return trainer.fit([pool(group) for group in groups])


def _first(prompts: Sequence[TokenPrompt], tokens: int) -> list[TokenPrompt]:
    """Prompts up to the one that brings the counted tokens to ``tokens``."""
    before = np.cumsum([0, *(len(p.positions) for p in prompts)])[:-1]
    return [p for p, count in zip(prompts, before, strict=True) if count < tokens]


def _groups(prompts: Sequence[TokenPrompt], tokens: int) -> list[list[TokenPrompt]]:
    """Prompts in groups of at most ``tokens`` counted tokens (or one prompt)."""
    groups: list[list[TokenPrompt]] = [[]]
    count = 0
    for prompt in prompts:
        if groups[-1] and count + len(prompt.positions) > tokens:
            groups.append([])
            count = 0
        groups[-1].append(prompt)
        count += len(prompt.positions)
    return groups


def _table(fits: dict[int, Fit], model: Model) -> pd.DataFrame:
    depths = sorted(fits)
    return pd.DataFrame({
        "depth": depths, "layer": [model.plan.layers[d] for d in depths],
        "plain": [fits[d].plain for d in depths], "tuned": [fits[d].best for d in depths],
        "kept": [fits[d].kept for d in depths],
    })  # fmt: skip


def _warn(depths: pd.DataFrame, tokens: int, width: int) -> None:
    plain = depths.loc[depths["kept"] == "identity", "depth"].tolist()
    if plain:
        shown = ", ".join(map(str, plain[:10])) + (" ..." if len(plain) > 10 else "")
        message = f"at depths {shown} no map did better on held-out prompts than the plain lens, which is kept there"
        warnings.warn(f"{message}; more prompts may help", DepthsigWarning, stacklevel=3)
    if tokens < width:
        message = f"maps of width {width} were fitted to {tokens} tokens only; more prompts make a better lens"
        warnings.warn(message, DepthsigWarning, stacklevel=3)


def _config(model: Model) -> dict[str, Any]:
    """The ``config.json`` that tuned-lens writes; a translator a step, where layers run several times."""
    return {
        "base_model_name_or_path": model.checkpoint.source, "d_model": model.trace.width,
        "num_hidden_layers": len(model.plan), "bias": True, "base_model_revision": model.checkpoint.revision,
        "unembed_hash": head_hash(model), "lens_type": LENS_TYPE,
    }  # fmt: skip
