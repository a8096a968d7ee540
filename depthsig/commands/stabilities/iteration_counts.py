"""The loss of every prompt with the loop run at other counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from depthsig.commands.opening import Given
from depthsig.engine.batch import make_batch
from depthsig.errors import CertificateError, InputError
from depthsig.model import Model
from depthsig.plan.declared import PlanOptions
from depthsig.plan.order import MAX_STEPS
from depthsig.plan.plan import SpanInfo
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt

_QUIET = Progress(False)


def counted_model(given: Given, model: Model, span: SpanInfo, seed: int) -> tuple[Callable[[int], Model], str]:
    """How the same model is had with its loop run at another count, and by what, in a word.

    Where steps are a chain that is the same at every pass, their order says it; elsewhere the model's own count does.

    Raises:
        InputError: where neither is at hand.
    """
    loops = model.plan.loops_that_run()
    if len(loops) > 1:
        raise InputError(f"{len(loops)} loops run, and which count is meant is not known")
    if model.is_chain and (not model.is_native or model.trace.varying is None):
        layers, block = model.plan.layers, model.plan.layers[span.start : span.start + span.size]

        def ordered(count: int) -> Model:
            run = [*layers[: span.start], *block * count, *layers[span.end :]]
            if len(run) > MAX_STEPS:
                raise InputError(f"--counts {count} runs more than {MAX_STEPS} steps; use fewer")
            return model.relabelled(order=",".join(map(str, run)))

        return ordered, "order"
    if isinstance(given.model, Model):
        raise InputError("its own count is set when it is loaded: give the checkpoint, not the loaded model")

    def own(count: int) -> Model:
        plan = PlanOptions(None, given.plan.loop, None, count)
        return replace(given, plan=plan).open(seed, _QUIET)

    return own, "the model's own count"


def prompt_losses(model: Model, prompts: Sequence[TokenPrompt]) -> Float[ndarray, "prompt"]:
    """Mean loss of the next token over measured positions, in nats; NaN where a state is no number."""
    found = np.full(len(prompts), np.nan)
    with torch.no_grad():
        for row, prompt in enumerate(prompts):
            at = [t for t in prompt.positions if t + 1 < prompt.n_tokens]
            if not at:
                continue
            try:
                run = model.clean(make_batch([prompt.ids], [0], model.device).ids)
            except CertificateError:
                continue
            logs = model.read(run.outputs[-1][:, at]).float().log_softmax(-1)[0]
            wanted = torch.tensor([prompt.ids[t + 1] for t in at], device=logs.device)
            found[row] = -float(logs.gather(-1, wanted[:, None]).double().mean())
    return found
