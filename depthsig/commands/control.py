"""The control of a period: the same architecture, order and prompts with re-initialised weights.

Running the same weights several times makes a pattern by itself, whatever they have learnt.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from depthsig.checkpoint.loading import LoadOptions
from depthsig.errors import InputError
from depthsig.model import Model, open_model


def reinitialised(model: Model, seed: int = 0) -> Model:
    """The model's architecture with fresh weights, under the same order and labels.

    Weights are drawn as the architecture's own initialisation draws them, from a seed; torch's
    random state is left as it was.

    Raises:
        InputError: for models without a Hugging Face config, which says how to build them.
    """
    source = _configured(model.checkpoint.module, model.checkpoint.config)
    if source is None:
        raise InputError("the model has no config that it could be built from again")
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        fresh = type(source)._from_config(copy.deepcopy(source.config), dtype=model.dtype)
    fresh = fresh.to(model.device).eval()
    noise = 0 if model.random_state is None else model.random_state
    return open_model(fresh, model.tokenizer, LoadOptions(), model.declared.options(), seed=noise)


def _configured(module: nn.Module, config: Any) -> Any:
    """The Hugging Face model inside what is run, with the config that builds it."""
    if config is None:
        return None
    found = (m for m in module.modules() if isinstance(m, PreTrainedModel) and m.config is config)
    return next(found, None)
