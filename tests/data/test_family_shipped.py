"""The family that ships is what its recipe made, knows what its cards say, and passes every certificate."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import depthsig
from data.recipe.compute import optimizer_flops, training_flops
from data.recipe.corpus import batch
from data.recipe.evaluate import evaluate
from data.recipe.family import BLOCKS, SEEDS
from data.recipe.model import _NAMES, Llama
from data.recipe.recipe import ARMS, GROWN, Recipe, read_recipe
from data.recipe.results import arms_table, read_results, tasks_table
from data.recipe.run import Run
from data.recipe.signatures import SIGNATURE, add_costs, costs_of, size, training_of
from data.recipe.similarity import at_lag, copies, cosines, read_rows, summary_table
from depthsig.commands.check import check
from depthsig.prompts import data_path, shipped_checkpoints

DATA = Path(__file__).resolve().parents[2] / "data"
RESULTS, SIGNATURES, CHECKPOINTS = DATA / "results", DATA / "signatures", DATA / "checkpoints"
FOLDERS = {arm: CHECKPOINTS / f"family-{arm}" for arm in ARMS}


def recipe_of(arm: str) -> Recipe:
    return replace(read_recipe(DATA / "recipe" / f"family-{arm}.toml"), seed=SEEDS[0])


def shipped(arm: str) -> Llama:
    """The shipped weights in the recipe's own model."""
    model, state = Llama(recipe_of(arm).shape), load_file(FOLDERS[arm] / "model.safetensors")
    own = {"embed": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
    for i in range(len(model.blocks)):
        own |= {f"blocks.{i}.{ours}": state[f"model.layers.{i}.{theirs}"] for ours, theirs in _NAMES.items()}
    model.load_state_dict(own)
    return model.eval()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_hashes_are_those_recorded():
    lines = (CHECKPOINTS / "SHA256SUMS").read_text().splitlines()
    recorded = {name: value for value, name in (line.split() for line in lines)}
    snapshots = {(r["arm"], r["seed"], r["step"]): r["sha256"] for r in rows_of(RESULTS / "snapshots.csv")}
    arms = {(r["arm"], r["seed"]): r["sha256"] for r in rows_of(RESULTS / "arms.csv")}
    for arm, folder in FOLDERS.items():
        found = digest(folder / "model.safetensors")
        assert recorded[f"family-{arm}/model.safetensors"] == found == read_results(folder)["sha256"]
        assert found in (folder / "README.md").read_text()
        seed = str(recipe_of(arm).seed)
        assert snapshots[arm, seed, "5000"] == arms[arm, seed] == found
    assert len(recorded) == 4
    assert sum(size(folder) for folder in FOLDERS.values()) < 40e6


@pytest.mark.parametrize(
    "arm", [pytest.param(arm, marks=[pytest.mark.slow] if arm in ("baseline", "looped") else []) for arm in ARMS]
)
def test_the_log_is_that_of_these_weights_and_data(arm):
    """The last logged batches, made anew, cost the shipped weights what the log says; so does the first."""
    recipe, log = recipe_of(arm), rows_of(FOLDERS[arm] / "loss.csv")
    assert [int(r["step"]) for r in log] == list(range(0, 5000, 10))
    assert [int(r["layers"]) for r in log][:: 499] == [recipe.block if arm in GROWN else recipe.shape.layers,
                                                      recipe.shape.layers]  # fmt: skip
    model, shares = shipped(arm), recipe.curriculum.shares(recipe.steps * recipe.tokens_per_step)
    for row in log[-3:]:
        arrays = batch(recipe.seed, int(row["step"]), recipe.rows, recipe.shape.context, shares)
        ids, weights = (torch.from_numpy(a) for a in arrays)
        with torch.no_grad():
            logits = model(ids[:, :-1])
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = float((losses * weights.flatten()).sum() / weights.sum())
        assert loss == pytest.approx(float(row["loss"]), abs=0.02)
        assert float(losses[weights.flatten() == 1].mean()) == pytest.approx(float(row["answer_loss"]), abs=0.02)
    run = Run(recipe, Path("unused"))
    run.advance()
    assert run.log[0]["loss"] == pytest.approx(float(log[0]["loss"]), abs=0.01)


@pytest.mark.parametrize("arm", ARMS)
def test_certificates_and_look_up(arm):
    model = depthsig.load(f"family-{arm}")
    assert len(model.plan) == 24 and shipped_checkpoints()[f"family-{arm}"] == data_path("checkpoints", f"family-{arm}")
    assert [c.name for c in check(model) if not c.passed] == []
    signature = depthsig.analyze(model, "lookup", metrics=["lens.target_nll"], positions="answer")
    assert signature.profile("lens.target_nll")["value"].iloc[-1] < 1


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learned_three_tasks(arm):
    scores = {s["task"]: s for s in read_results(FOLDERS[arm])["scores"]}
    learned = [t for t, s in scores.items() if s["low"] > s["guess"] and s["nats"] <= s["unigram_nats"] / 2]
    assert len(learned) >= 3 and {"lookup", "variables0"} <= set(learned)
    assert all(s["items"] == 500 and s["learned"] == (t in learned) for t, s in scores.items())
    # Not only said, but so: on fewer of the items.
    for score in evaluate(shipped(arm), 40):
        said = scores[score.task]
        assert score.low <= said["high"] and score.high >= said["low"]
        assert score.nats == pytest.approx(said["nats"], abs=0.3)


def test_tables_say_what_the_results_say():
    arms, accuracy = rows_of(RESULTS / "arms.csv"), rows_of(RESULTS / "accuracy.csv")
    assert [(r["arm"], int(r["seed"])) for r in arms] == [
        *((a, s) for s in SEEDS for a in ARMS), *((a, SEEDS[0]) for a in BLOCKS)
    ]  # fmt: skip
    for row in arms:
        recipe = recipe_of(row["arm"])
        assert int(row["tokens"]) == recipe.steps * recipe.tokens_per_step == 10_240_000
        assert int(row["training_flops"]) == training_flops(recipe)
        assert int(row["optimizer_flops"]) == optimizer_flops(recipe)
        assert (int(row["steps"]), int(row["layers"])) == (24, recipe.shape.layers)
    found = [read_results(FOLDERS[arm]) for arm in ARMS]
    for result in found:
        state = load_file(FOLDERS[result["arm"]] / "model.safetensors")
        assert result["parameters"] == sum(t.numel() for t in state.values())
        mine = [r for r in accuracy if r["arm"] == result["arm"] and int(r["seed"]) == result["seed"]]
        for row, score in zip(mine, result["scores"], strict=True):
            assert row["task"] == score["task"] and float(row["accuracy"]) == score["accuracy"]
    readme, tables = (DATA / "README.md").read_text(), (RESULTS / "tables.md").read_text()
    for text in tables.strip().split("\n\n"):
        assert text in readme
    assert arms_table(found).splitlines()[2] in tables
    assert tasks_table(found).splitlines()[-1] in tables


@pytest.mark.parametrize("arm", GROWN)
def test_copies_are_more_alike_than_the_baselines_layers(arm):
    config = json.loads((FOLDERS[arm] / "config.json").read_text())["depthsig"]
    assert config["grown"] == "0:24/4" and [len(e["copied_from"]) for e in config["history"]] == [4] * 5
    rows = read_rows(RESULTS / "similarity.csv")
    seed = str(recipe_of(arm).seed)
    last = [r for r in rows if (r["arm"], r["seed"], r["step"]) == (arm, seed, "5000")]
    mine, baseline = cosines(FOLDERS[arm]), cosines(FOLDERS["baseline"])
    made = copies(config["history"], 4)
    assert [(int(r["source"]), int(r["copy"]), int(r["copied_at"])) for r in last] == made and len(made) == 20
    for row in last:
        i, j = int(row["source"]), int(row["copy"])
        assert float(row["cosine"]) == pytest.approx(mine[i, j], abs=1e-5)
        assert float(row["baseline"]) == pytest.approx(at_lag(baseline, abs(i - j)), abs=1e-5)
    assert np.mean([float(r["cosine"]) for r in last]) > 5 * abs(np.mean([float(r["baseline"]) for r in last]))
    assert summary_table(rows) + "\n" == (RESULTS / "similarity.md").read_text()


def test_signatures_are_of_these_weights():
    index = rows_of(SIGNATURES / "index.csv")
    assert {p.parent.name for p in SIGNATURES.glob("*/signature.json")} == {r["name"] for r in index}
    known = {(r["arm"], r["seed"], r["step"]): r["sha256"] for r in rows_of(RESULTS / "snapshots.csv")}
    for row in index:
        assert known[row["arm"], row["seed"], row["step"]] == row["sha256"]
        signature = depthsig.Signature.load(SIGNATURES / row["name"])
        assert not str((signature.info.get("given") or {}).get("source") or "").startswith(
            "/"
        )  # a path of another machine
        assert len(signature.plan) == int(row["steps"]) and all(c["passed"] for c in signature.info["certificates"])
        assert np.isfinite(signature.profile("skip.output_l2")["value"]).all()
    ends = {(r["arm"], r["seed"], r["prompts"]) for r in index if r["step"] == "5000"}
    assert len(ends) == (len(ARMS) * len(SEEDS) + len(BLOCKS)) * 2
    along = [r["arm"] for r in index if r["step"] != "5000"]
    assert {arm: along.count(arm) for arm in along} == {"baseline": 5, "midas": 5, "lidas": 5}
    assert size(SIGNATURES) < 24e6


def test_a_saved_signature_is_what_analysis_gives():
    saved = depthsig.Signature.load(SIGNATURES / f"midas-seed{SEEDS[0]}-lookup")
    again = depthsig.analyze("family-midas", "lookup", n=20, metrics=["lens.kl", "skip.output_l2"])
    for metric in ("lens.kl", "skip.output_l2"):
        assert np.allclose(saved.profile(metric)["value"], again.profile(metric)["value"], rtol=1e-3, atol=1e-5)


def test_models_are_listed_with_what_they_are():
    from typer.testing import CliRunner

    from depthsig.cli.main import app

    shown = CliRunner().invoke(app, ["models"])
    assert shown.exit_code == 0
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.stdout.splitlines()}
    assert lines["family-looped"] == "looped 12 layers 24 steps 2.44 M parameters"
    assert lines["family-midas"] == "midas 24 layers 24 steps 4.86 M parameters"
    about = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    for arm, folder in FOLDERS.items():
        assert about[f"family-{arm}"]["parameters"] == read_results(folder)["parameters"]
        assert Path(about[f"family-{arm}"]["path"]) == folder


def test_signatures_hold_what_their_models_cost(tmp_path):
    """What the recipe's step puts in is what opening the weights gives, and what the table of arms says."""
    arms = {(r["arm"], r["seed"]): r for r in rows_of(RESULTS / "arms.csv")}
    for row in rows_of(SIGNATURES / "index.csv"):
        info = json.loads((SIGNATURES / row["name"] / SIGNATURE).read_text())
        costs, recipe = info["costs"], recipe_of(row["arm"])
        assert list(info)[3:5] == ["checkpoint", "costs"] and costs["context"] == 128
        assert costs["training_tokens"] == int(row["tokens"])
        assert costs | training_of(recipe, int(row["step"])) == costs
        if row["step"] == "5000":
            for name in ("parameters", "training_flops"):
                assert costs[name] == int(arms[row["arm"], row["seed"]][name])
        else:
            per_layer = (int(arms["midas", "2"]["parameters"]) - 258 * 128 - 128) // 24
            assert costs["parameters"] == info["checkpoint"]["n_layers"] * per_layer + 258 * 128 + 128
    for arm in ("looped", "midas"):
        info = json.loads((SIGNATURES / f"{arm}-seed2-lookup" / SIGNATURE).read_text())
        model = depthsig.load(f"family-{arm}")
        assert info["costs"] == {**model.costs.record(), **model.checkpoint.trained} == costs_of(recipe_of(arm), 5000)
    (tmp_path / SIGNATURE).write_text(json.dumps(info))
    add_costs(tmp_path, {"parameters": 1})
    assert json.loads((tmp_path / SIGNATURE).read_text()) == info | {"costs": {"parameters": 1}}
