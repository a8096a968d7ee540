"""A tuned lens and the model that it is used on: do they belong together?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from depthsig.checkpoint.lens_folder import check_lens_shape
from depthsig.checkpoint.translators import TunedLens, read_lens, unembed_hash
from depthsig.errors import DepthsigWarning, InputError, shown
from depthsig.model import Model
from depthsig.prompts import TokenPrompt


def open_lens(lens: Any) -> TunedLens | None:
    """The lens in a folder, or the lens that was given; None where there is none.

    Raises:
        InputError: for anything else, and for what is no folder of a tuned lens.
    """
    if lens is None or isinstance(lens, TunedLens):
        return lens
    if not isinstance(lens, (str, Path)):
        raise InputError(f"lens is {shown(lens)}; it is the folder of a tuned lens, or `depthsig.fit_lens(...).lens`")
    return read_lens(lens)


def check_lens(lens: TunedLens, model: Model, prompts: Sequence[TokenPrompt] = ()) -> None:
    """Refuse a lens of another shape than the model; warn of one that was fitted for another, or on these prompts.

    Raises:
        InputError: unless the lens has a translator for every step, of the model's width.
    """
    check_lens_shape(
        str(lens), (len(lens), lens.width), len(model.plan), model.trace.width, ordered=model.plan.order is not None
    )
    for message in _doubts(lens, model, prompts):
        warnings.warn(message, DepthsigWarning, stacklevel=4)


def _doubts(lens: TunedLens, model: Model, prompts: Sequence[TokenPrompt]) -> list[str]:
    found = []
    expected, mark = lens.config.get("unembed_hash"), head_hash(model)
    if expected and mark and expected != mark:
        found.append(
            f"--lens {str(lens)!r} was fitted for a model with another unembedding "
            f"({lens.config.get('base_model_name_or_path')!r}); its translators may not fit this one"
        )
    layers = lens.record.get("layers")
    if layers is not None and list(layers) != list(model.plan.layers):
        found.append(f"--lens {str(lens)!r} was fitted to another order of layers than the one that runs now")
    fitted = set(lens.record.get("prompts", {}).get("train", ()))
    seen = sum(p.tokens_sha256 in fitted for p in prompts)
    if seen:
        found.append(f"{seen} of {len(prompts)} prompts are among those that the tuned lens was fitted on; give others")
    return found


def head_hash(model: Model) -> str | None:
    """tuned-lens' mark of the model, None where the head has no matrix."""
    weight = getattr(model.readout.head, "weight", None)
    return unembed_hash(weight) if isinstance(weight, Tensor) and weight.ndim == 2 else None
