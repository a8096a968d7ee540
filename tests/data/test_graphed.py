"""Training on a device does what training on a CPU does, and what it leaves is exported like any run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from data.recipe import family
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


def test_what_it_leaves_is_exported_like_any_run(tmp_path, monkeypatch):
    members = family.members(tmp_path / "out", tmp_path / "work", [2], smoke=True, arms=("midas",))
    recipe = members[0].recipe
    train_side_by_side([(recipe, members[0].work)], "cpu", snapshot_every=12, processes=1)
    monkeypatch.setattr(Run, "advance", lambda self: pytest.fail("it was at its end"))
    family.train_all(members, jobs=1)
    assert members[0].finished
    names = [path.name for path in members[0].snapshots]
    assert names == ["000012", "000024"] and len((members[0].folder / "loss.csv").read_text().splitlines()) == 4
    last, exported = (folder / "model.safetensors" for folder in (members[0].snapshots[-1], members[0].folder))
    assert last.read_bytes() == exported.read_bytes()


def test_runs_side_by_side_are_equally_long(tmp_path):
    with pytest.raises(ValueError, match=r"equally long; these have \[4, 8\] steps"):
        train_side_by_side([(smaller(short("midas"), n), tmp_path / str(n)) for n in (4, 8)], "cpu", processes=1)
