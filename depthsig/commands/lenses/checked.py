"""Lenses and the model that they are used on: do they belong together?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from depthsig.checkpoint.jacobian.jacobians import JacobianLens, read_jacobian_lens
from depthsig.checkpoint.jacobian.lens_kinds import lens_kind
from depthsig.checkpoint.lens_folder import LENS_WORDS, check_lens_shape
from depthsig.checkpoint.translators import TunedLens, read_lens, unembed_hash
from depthsig.errors import DepthsigWarning
from depthsig.measure.request import Request
from depthsig.model import Model
from depthsig.prompts import TokenPrompt

Lens = TunedLens | JacobianLens


def opened(request: Request) -> Request:
    """The request with every lens read that it names a place of.

    Raises:
        InputError: for what is no lens, or a damaged one.
    """
    return replace(request, lens=[_open(lens) for lens in request.lenses.values()]) if request.lenses else request


def _open(lens: str | Path | Lens) -> Lens:
    if not isinstance(lens, (str, Path)):
        return lens
    return read_lens(lens) if lens_kind(lens) == "tuned" else read_jacobian_lens(lens)


def check_lens(lens: Lens, model: Model, prompts: Sequence[TokenPrompt] = ()) -> None:
    """Refuse a lens of another shape than the model; warn of one that was fitted for another, or on these prompts.

    Raises:
        InputError: unless the lens is one for every step, of the model's width.
    """
    check_lens_shape(
        str(lens), (len(lens), lens.width), len(model.plan), model.trace.width, ordered=model.plan.order is not None,
        kind=lens.kind,
    )  # fmt: skip
    for message in _doubts(lens, model, prompts):
        warnings.warn(message, DepthsigWarning, stacklevel=4)


def _doubts(lens: Lens, model: Model, prompts: Sequence[TokenPrompt]) -> list[str]:
    found = []
    expected, mark = lens.config.get("unembed_hash"), head_hash(model)
    if expected and mark and expected != mark:
        found.append(
            f"--lens {str(lens)!r} was fitted for a model with another unembedding "
            f"({lens.config.get('base_model_name_or_path')!r}); it may not fit this one"
        )
    layers = lens.record.get("layers")
    if layers is not None and list(layers) != list(model.plan.layers):
        found.append(f"--lens {str(lens)!r} was fitted to another order of layers than the one that runs now")
    fitted = set(lens.record.get("prompts", {}).get("train", ()))
    if lens.kind == "jacobian" and lens.config.get("target", "end") != "end":
        found.append(
            f"--lens {str(lens)!r} carries states to the end of their pass: its metrics are what the model would say "
            "there, and not at its own end"
        )
    seen = sum(p.tokens_sha256 in fitted for p in prompts)
    if seen:
        found.append(
            f"{seen} of {len(prompts)} prompts are among those that the {LENS_WORDS[lens.kind]} was fitted on; give "
            "others"
        )
    return found


def head_hash(model: Model) -> str | None:
    """tuned-lens' mark of the model, None where the head has no matrix."""
    weight = getattr(model.readout.head, "weight", None)
    return unembed_hash(weight) if isinstance(weight, Tensor) and weight.ndim == 2 else None
