"""Training on a device does what training on a CPU does, and what it leaves is exported like any run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from data.recipe.recipe import ARMS, Recipe, read_recipe, smaller
from data.recipe.run import Run
from data.recipe.side_by_side import train_side_by_side

RECIPE = Path(__file__).resolve().parents[2] / "data" / "recipe"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card"))]


def short(arm: str) -> Recipe:
    return smaller(read_recipe(RECIPE / f"family-{arm}.toml"), 8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("arm", ARMS)
def test_it_trains_as_the_plain_run_does(arm, device, tmp_path, monkeypatch):
    # Without rounding to bfloat16 both are the same arithmetic, and must end at the same weights.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    recipe = short(arm)
    plain = Run(recipe, tmp_path / "plain")
    for _ in range(recipe.steps):
        plain.advance()
    (found,) = train_side_by_side([(recipe, tmp_path / "found")], device, processes=1)
    expected = torch.tensor([[row["loss"], row["answer_loss"]] for row in plain.log])
    losses = torch.tensor([[row["loss"], row["answer_loss"]] for row in found.log])
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    assert [row["layers"] for row in found.log] == [row["layers"] for row in plain.log]
    assert found.history == plain.history
    for (name, a), b in zip(plain.model.named_parameters(), found.model.cpu().parameters(), strict=True):
        assert float((a - b).detach().norm() / a.detach().norm()) < 1e-4, name
