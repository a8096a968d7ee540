"""The reference family: its one command at smoke size, its costs and similarities, and what ships of it."""

from __future__ import annotations

import csv
import doctest
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import depthsig
from data.recipe import family
from data.recipe.compute import layer_flops, optimizer_flops, stored_layers, training_flops
from data.recipe.evaluate import plausible
from data.recipe.export import write_checkpoint
from data.recipe.recipe import ARMS, GROWN, read_recipe
from data.recipe.run import Run
from data.recipe.similarity import MATRICES, compare, cosines, summary, summary_table
from depthsig.metrics import weight_cosine
from depthsig.prompts.primitives import Item

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "data" / "recipe"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "data.recipe.family", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def digests(out: Path) -> dict[str, str]:
    paths = sorted((out / "checkpoints").glob("*/model.safetensors"))
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("family") / "out"
    subprocess.run(command("--smoke", "--out", str(out)), check=True, env=environment(), cwd=ROOT, timeout=600)
    return out


@pytest.mark.slow
def test_one_command_makes_everything(smoke):
    assert list(digests(smoke)) == sorted(f"family-{arm}" for arm in ARMS)
    sums = (smoke / "checkpoints" / "SHA256SUMS").read_text().split()
    assert dict(zip(sums[1::2], sums[::2], strict=True)) == {
        f"{name}/model.safetensors": digest for name, digest in digests(smoke).items()
    }
    assert [r["arm"] for r in rows_of(smoke / "results" / "arms.csv")] == list(ARMS)
    assert len(rows_of(smoke / "results" / "accuracy.csv")) == 4 * 7
    snapshots = rows_of(smoke / "results" / "snapshots.csv")
    layers = [int(r["layers"]) for r in snapshots if r["arm"] == "midas"]
    assert layers == [8, 12, 16, 20, 24, 24] and len(snapshots) == 4 * 6
    last = {f"family-{r['arm']}": r["sha256"] for r in snapshots if r["step"] == "24"}
    assert last == digests(smoke)  # what is exported is what the last step left
    assert (smoke / "results" / "similarity.svg").stat().st_size > 1000
    index = rows_of(smoke / "signatures" / "index.csv")
    assert len(index) == 4 * 2 + 3
    for row in index:
        signature = depthsig.Signature.load(smoke / "signatures" / row["name"])
        assert len(signature.plan) == int(row["steps"]) and not signature.profile("lens.kl")["value"].isna().any()
        assert "/" not in signature.info["checkpoint"]["id"]


@pytest.mark.slow
def test_finished_members_are_not_trained_again(smoke):
    before = {p: p.stat().st_mtime_ns for p in (smoke / "checkpoints").glob("*/*")}
    assert family.main(["train", "--smoke", "--out", str(smoke)]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (smoke / "checkpoints").glob("*/*")}
    other = family.members(smoke, smoke / "work", [2, 1], smoke=True)
    assert [m.finished for m in other] == [True] * 4 + [False] * 4


@pytest.mark.slow
@pytest.mark.long
def test_killed_in_the_middle_it_ends_with_the_same_weights(smoke, tmp_path):
    arguments = command("train", "--smoke", "--out", str(tmp_path))
    running = subprocess.Popen(arguments, env=environment(), cwd=ROOT, start_new_session=True)
    state = tmp_path / "work" / "seed2" / "family-baseline.work" / "state.pt"
    deadline = time.monotonic() + 300
    while not state.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert state.exists() and not digests(tmp_path)
    assert 0 < torch.load(state, weights_only=True)["step"] < 24
    subprocess.run(arguments, check=True, env=environment(), cwd=ROOT, timeout=600)
    assert digests(tmp_path) == digests(smoke)


def test_parts_need_trained_members(tmp_path, capsys):
    assert family.main(["tables", "--smoke", "--out", str(tmp_path)]) == 2
    assert "not trained yet: baseline, seed 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        family.main(["table", "--out", str(tmp_path)])
    assert "no part is called 'table'" in capsys.readouterr().err


@pytest.mark.parametrize("arm", ARMS)
def test_flops_are_those_that_torch_counts(arm, tmp_path):
    recipe = replace(read_recipe(RECIPE / f"family-{arm}.toml", smoke=True), steps=3)
    recipe = replace(recipe, growth=(1, 1, 1, 1, 2) if recipe.growth else ())
    run = Run(recipe, tmp_path)
    total = update = 0
    original = run.optimizer.step

    def counted(*arguments):
        nonlocal update
        with FlopCounterMode(display=False) as counter:
            original(*arguments)
        update += counter.get_total_flops()

    run.optimizer.step = counted
    for step in range(3):
        with FlopCounterMode(display=False) as counter:
            run.advance()
        total += counter.get_total_flops()
        assert len(run.model.blocks) == stored_layers(recipe, step)
    assert update == optimizer_flops(recipe)
    assert total - update == training_flops(recipe)


def test_costs_of_the_family():
    recipes = {arm: read_recipe(RECIPE / f"family-{arm}.toml") for arm in ARMS}
    assert {r.steps * r.tokens_per_step for r in recipes.values()} == {10_240_000}
    flops = {arm: training_flops(recipe) for arm, recipe in recipes.items()}
    assert flops["looped"] == flops["baseline"] > flops["midas"] == flops["lidas"]
    # 24 steps of 466,944 and the head's 66,048 operations a token, three times for forward and backward.
    assert layer_flops(recipes["baseline"].shape) == 466_944
    assert flops["baseline"] == 3 * 10_240_000 * (24 * 466_944 + 66_048)
    assert optimizer_flops(recipes["looped"]) * 2 == optimizer_flops(recipes["baseline"])


@pytest.mark.parametrize("name", ["compute", "evaluate", "grow", "similarity"])
def test_examples_in_the_recipes_docstrings(name):
    done = doctest.testmod(importlib.import_module(f"data.recipe.{name}"))
    assert done.attempted and not done.failed


def test_guesses_where_answers_are_long():
    assert plausible("addition", Item((("1+1=", "2"),), ())) == 0.1
    assert plausible("copying", Item((("abc>", "abc"),), ())) == 1 / 26
    assert plausible("copying", Item((("a dog>", "a dog"),), ())) == 1
    assert plausible("lookup", Item((("a4>a", "4"),), (), 0.25)) == 0.25


@pytest.mark.parametrize("arm", GROWN)
def test_similarity_of_copies(arm, tmp_path):
    recipe = replace(read_recipe(RECIPE / f"family-{arm}.toml", smoke=True), growth=(2, 3, 99, 99, 99))
    run = Run(recipe, tmp_path)
    for _ in range(2):
        run.advance()
    run.grow()
    write_checkpoint(run, tmp_path / "fresh")
    fresh = compare(tmp_path / "fresh", np.full((8, 8), 0.5), 4, {})
    assert [(r["source"], r["copy"], r["lag"]) for r in fresh] == [(0, 4, 4), (1, 5, 4), (2, 6, 4), (3, 7, 4)]
    assert all(r["cosine"] == 1 and r["baseline"] == 0.5 for r in fresh)
    run.grow = lambda: None
    run.advance()
    Run.grow(run)
    write_checkpoint(run, tmp_path / "later")
    later = compare(tmp_path / "later", np.eye(12), 4, {})
    copied = [r["cosine"] for r in later if r["copied_at"] == 3 * recipe.tokens_per_step]
    old = [r["cosine"] for r in later if r["copied_at"] == 2 * recipe.tokens_per_step]
    assert copied == [1] * 4 and all(0.2 < c < 1 for c in old)
    expected = weight_cosine([[getattr(b, n.split(".")[1].split("_")[0]) for n in MATRICES] for b in run.model.blocks])
    assert np.allclose(cosines(tmp_path / "later"), expected, atol=1e-3)  # stored in bfloat16


def test_summary_by_hand():
    rows = [
        {"arm": "midas", "seed": 1, "tokens": 5, "layers": 8, "cosine": c, "baseline": 0.1} for c in (0.2, 0.6)
    ]  # fmt: skip
    (found,) = summary(rows)
    assert (found["cosine"], found["least"], found["greatest"]) == (pytest.approx(0.4), 0.2, 0.6)
    assert "| midas | 1 | 0.00 M | 8 | 2 | 0.400 | 0.200 to 0.600 | 0.100 |" in summary_table(rows)
