"""Weights that are changed after loading are not reported as those of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import depthsig
from depthsig.checkpoint.fingerprint import fingerprint
from depthsig.errors import InputError

PROMPTS = ["one two three", "four five"]


def _scale(weight: torch.Tensor) -> None:
    weight.mul_(-3)


def _swap_rows(weight: torch.Tensor) -> None:
    weight[[0, 1]] = weight[[1, 0]]


def _nudge(weight: torch.Tensor) -> None:
    weight.view(-1)[-1] += 1e-3


@pytest.mark.parametrize("change", [_scale, _swap_rows, _nudge], ids=lambda f: f.__name__)
def test_weights_changed_after_loading_are_refused(change: Callable[[torch.Tensor], None], checkpoint: Path) -> None:
    model = depthsig.load(checkpoint)
    depthsig.analyze(model, PROMPTS, metrics=["lens.kl"])
    change(model.checkpoint.module.lm_head.weight.data)
    with pytest.raises(InputError, match=r"lm_head\.weight.*was changed after"):
        depthsig.analyze(model, PROMPTS, metrics=["lens.kl"])
    changed = depthsig.load(model.checkpoint.module, model.tokenizer)
    assert depthsig.analyze(changed, PROMPTS, metrics=["lens.kl"]).info["checkpoint"]["content_hash"] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 3), (4, 2, 2), (0, 4)])
def test_weights_of_any_shape_have_a_fingerprint(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    module = nn.ParameterList([torch.ones(shape, dtype=dtype), torch.ones(9, dtype=dtype)[1:]])
    first = fingerprint(module)
    assert first == fingerprint(module)
    with torch.no_grad():
        for weight in module:
            weight *= 2
    assert [first[n] != d for n, d in fingerprint(module).items()] == [module[0].numel() > 0, True]
