"""A Jacobian lens: the mean, over prompts, of how a state moves the model's last one (Gurnee et al. 2026)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthsig.checkpoint.jacobian.jacobians import JacobianLens
from depthsig.commands.lenses.checked import head_hash
from depthsig.commands.lenses.fitted import FittedLens
from depthsig.commands.lenses.jacobian_table import depth_records, jacobian_table
from depthsig.commands.lenses.partial_sums import PartialSums
from depthsig.commands.lenses.ready import ReadyFit
from depthsig.engine.gradients.differentiable import refuse_without_gradients
from depthsig.engine.gradients.jacobian_sums import JacobianSums, Room, targets_of
from depthsig.engine.room.halving import no_room
from depthsig.errors import DepthsigError, DepthsigWarning, InputError, NoRoomError
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt
from depthsig.terms import counted

SKIP, TARGET = 16, "end"
JACOBIAN_PROMPTS = 100
"""Built-in prompts to fit on, where their number is left to us: with so many a lens is of use, the authors found."""

JACOBIAN_TYPE = "jacobian_lens"
ESTIMATOR = "mean over prompts of (1/|V|) Σ_{t∈V} Σ_{t'∈V, t'≥t} ∂h_t'/∂h_d,t"


@dataclass(frozen=True)
class Averaged:
    """Which derivative is averaged.

    Attributes:
        skip: leading positions left out. target: ``end`` or ``pass``, as in
            :func:`~depthsig.engine.gradients.jacobian_sums.targets_of`.
    """

    skip: int = SKIP
    target: str = TARGET


def fit_jacobian(
    ready: ReadyFit, averaged: Averaged, memory: int, place: Callable[[str, str], str | Path] | None, resume: bool,
    show: Progress,
) -> FittedLens:  # fmt: skip
    """Fit it.

    Args:
        ready: its prompts are replaced by those that are long enough.
        place: where the lens will be saved, beside which unfinished work is kept; None: nowhere.

    Raises:
        InputError: where no prompt is long enough, or ``target`` does not go with the plan.
        CertificateError: where the numbers cannot be trusted. NoRoomError: where one row takes too much.
    """
    model = ready.model
    refuse_without_gradients(model)
    targets = targets_of(model.plan, averaged.target)
    ready.prompts = long_enough(ready.prompts, averaged.skip)
    out = None if place is None else place(f"{model.checkpoint.name}-lens", ready.identity)
    kept = PartialSums(out, ready.identity, resume)
    try:
        ready.certified()
        jacobians = _means(model, ready.prompts, averaged, targets, memory, kept, show)
        depths = jacobian_table(jacobians, model.plan.records())
    except DepthsigError as error:
        kept.leave() if isinstance(error, NoRoomError) else kept.clear()
        raise
    except BaseException:
        kept.leave()
        raise
    # The last position is no source, and no target.
    tokens = sum(p.n_tokens - averaged.skip - 1 for p in ready.prompts)
    record = ready.record(
        loss=ESTIMATOR, tokens={"train": tokens}, n_prompts=len(ready.prompts),
        prompts={"train": [p.tokens_sha256 for p in ready.prompts]}, depths=depth_records(depths),
    )  # fmt: skip
    lens = JacobianLens(jacobians, config=_config(ready, averaged), record=record)
    return FittedLens(lens, depths, record, model.checkpoint.name)


def long_enough(prompts: Sequence[TokenPrompt], skip: int) -> list[TokenPrompt]:
    """The prompts with a position after the leading ones and before the last; a warning tells of others.

    Raises:
        InputError: where there is none.
    """
    found = [p for p in prompts if p.n_tokens > skip + 1]
    longest = max((p.n_tokens for p in prompts), default=0)
    if not found:
        raise InputError(
            f"a Jacobian lens takes positions after the first {skip} and before the last, and the longest of "
            f"{counted(len(prompts), 'prompt')} has {counted(longest, 'token')}; give longer ones, or a smaller "
            "--skip-first"
        )
    if len(found) < len(prompts):
        short = len(prompts) - len(found)
        message = f"{short} of {len(prompts)} prompts have at most {skip + 1} tokens and take no part"
        warnings.warn(message, DepthsigWarning, stacklevel=4)
    return found


def _means(
    model: Model, prompts: Sequence[TokenPrompt], averaged: Averaged, targets: dict[int, list[int]], memory: int,
    kept: PartialSums, show: Progress,
) -> tuple[Tensor, ...]:  # fmt: skip
    """J of every depth, in as many turns of depths as the memory asks for."""
    turns = _turns(model, memory)
    longest = max(prompts, key=lambda p: p.n_tokens)
    found: list[Tensor] = []
    with show.stage("fitting", len(prompts) * len(turns)) as tick:
        for depths in turns:
            sums = JacobianSums(model, targets, depths, averaged.skip)
            done = kept.load(sums)
            if done is None:
                tick(sums.prompts)
                _sum(sums, prompts, _room(model, longest, targets, depths, memory), kept, tick)
                done = kept.finished(sums)
            else:
                tick(len(prompts))
            found += done
    return tuple(found)


def _sum(
    sums: JacobianSums, prompts: Sequence[TokenPrompt], room: Room, kept: PartialSums, tick: Callable[[float], None]
) -> None:
    for prompt in prompts[sums.prompts :]:
        sums.add(prompt.ids, room.rows(prompt.n_tokens), tick)
        kept.store(sums)


def _room(
    model: Model, longest: TokenPrompt, targets: dict[int, list[int]], depths: range, memory: int
) -> Room:  # fmt: skip
    """How many rows go together; half of the memory is for the sums."""
    try:
        room = Room.of(model, longest.ids, targets, depths, memory // 2)
    except torch.cuda.OutOfMemoryError:
        raise no_room("a prompt with all that is kept for its gradients", model.dtype) from None
    one = room.token_bytes * longest.n_tokens
    if one > room.memory:
        message = (
            f"one row of a prompt of {longest.n_tokens} tokens takes {one >> 20:,} MiB for its gradients, more than "
            f"half of --memory, {room.memory >> 20:,} MiB; it is run by itself, and --max-tokens makes it smaller"
        )
        warnings.warn(message, DepthsigWarning, stacklevel=5)
    return room


def _turns(model: Model, memory: int) -> list[range]:
    """Depths that are summed together: as many as half of the memory holds the sums of."""
    steps, each = len(model.plan), 4 * model.trace.width**2
    together = max(1, memory // 2 // each)
    if together < steps:
        message = (
            f"the sums of {steps} Jacobians of width {model.trace.width} take {steps * each >> 20:,} MiB, more than "
            f"half of --memory; {together} at a time are summed, and all prompts are gone through "
            f"{-(-steps // together)} times"
        )
        warnings.warn(message, DepthsigWarning, stacklevel=5)
    return [range(first, min(first + together, steps)) for first in range(0, steps, together)]


def _config(ready: ReadyFit, averaged: Averaged) -> dict[str, Any]:
    """What the file says of itself; TransformerLens keeps it, and reads ``target_layer`` and ``estimator``."""
    model = ready.model
    return {
        "base_model_name_or_path": model.checkpoint.source, "base_model_revision": model.checkpoint.revision,
        "d_model": model.trace.width, "num_hidden_layers": len(model.plan), "unembed_hash": head_hash(model),
        "lens_type": JACOBIAN_TYPE, "estimator": JACOBIAN_TYPE, "n_prompts": len(ready.prompts),
        "fit_dtype": str(model.dtype).removeprefix("torch."), "skip_first_positions": averaged.skip,
        "max_seq_len": ready.asked.get("max_tokens"), "target": averaged.target,
    }  # fmt: skip
