"""The control of a period: the same architecture, order and prompts with re-initialised weights.

Running the same weights several times makes a pattern by itself, whatever they have learnt.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from depthsig.checkpoint.loading import LoadOptions
from depthsig.errors import InputError
from depthsig.measure.request import Request
from depthsig.metrics.entries.runs import ON_A_LENS
from depthsig.model import Model, open_model
from depthsig.tables.periods import is_tested


def reinitialised(model: Model, seed: int = 0) -> Model:
    """The model's architecture with fresh weights, under the same order and labels.

    Weights are drawn as the architecture's own initialisation draws them, from a seed; torch's
    random state is left as it was.

    Raises:
        InputError: for models without a Hugging Face config, which says how to build them.
    """
    if model.is_streamed:
        raise InputError("its layers are read from files as they are needed, and fresh weights would be in none")
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


def control_request(request: Request) -> Request | None:
    """What is measured of a control: with ``--control`` all that fresh weights have, else what periods are tested on.

    None where nothing is left: a lens is fitted to trained weights, and says nothing about fresh ones.
    """
    tested = tuple(one.id for one in request.selected if one.on == "periods" or is_tested(one))
    if request.control or not tested:
        return request.without(*ON_A_LENS)
    return replace(request, metrics=tested, lens=None, calibration=None)


def _configured(module: nn.Module, config: Any) -> Any:
    """The Hugging Face model inside what is run, with the config that builds it."""
    if config is None:
        return None
    found = (m for m in module.modules() if isinstance(m, PreTrainedModel) and m.config is config)
    return next(found, None)
