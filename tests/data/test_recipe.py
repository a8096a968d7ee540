"""The training recipe at smoke size: it runs, resumes, grows and exports exactly."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.recipe.corpus import STAGES, TEXT, Curriculum, batch
from data.recipe.evaluate import unigram_entropy
from data.recipe.export import export, tokenizer_json
from data.recipe.grow import insertion
from data.recipe.model import Llama, Shape, hugging_face_config, hugging_face_state
from data.recipe.optim import Optimizer, orthogonalise
from data.recipe.recipe import read_recipe
from data.recipe.run import Run
from data.recipe.train import default_folder, main, train
from depthsig.prompts.primitives import TASKS, TRAINING_ONLY

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "data" / "recipe"
CONFIGS = sorted(RECIPE.glob("*.toml"))
MIDAS = RECIPE / "family-midas.toml"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smoke(path: Path = MIDAS, steps: int = 12):
    recipe = read_recipe(path, smoke=True)
    return replace(recipe, steps=steps, growth=tuple(g * steps // recipe.steps for g in recipe.growth))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_runs_exports_and_equals_hugging_face(path, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(smoke(path, steps=8), tmp_path / "work", compile_block=False)
    export(run, tmp_path / "out", scored=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "a4k7é>k7 語"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == list(text.encode()) and tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        if run.recipe.order:  # Hugging Face runs what is stored, once
            run.model.shape = replace(run.model.shape, order=None)
        assert torch.allclose(model(ids).logits, run.model(ids), atol=1e-5)
    _check_config(run, json.loads((tmp_path / "out" / "config.json").read_text()))


def _check_config(run: Run, config: dict) -> None:
    declared = config["depthsig"]
    assert declared["prompts"] == "lookup"
    assert config["num_hidden_layers"] == len(run.model.blocks) == run.recipe.shape.layers
    assert declared.get("order") == run.recipe.order
    if run.recipe.growth:
        assert declared["grown"] == f"0:{run.recipe.shape.layers}/{run.recipe.block}"
        tokens = [entry["tokens"] for entry in declared["history"]]
        assert tokens == [g * run.recipe.tokens_per_step for g in run.recipe.growth]


@pytest.mark.parametrize("stop", [3, 7])
def test_a_run_that_was_put_down_ends_with_the_same_weights(tmp_path, stop):
    recipe = smoke()
    through = train(recipe, tmp_path / "a", compile_block=False)
    train(recipe, tmp_path / "b", compile_block=False, stop_at=stop)
    resumed = train(recipe, tmp_path / "b", compile_block=False)
    assert resumed.step == through.step == recipe.steps
    assert resumed.history == through.history and resumed.log == through.log
    expected = weights(through)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_killed_run_goes_on_from_what_it_saved(tmp_path, monkeypatch):
    recipe, step = smoke(), Run.advance

    def die(run):
        if run.step == 7:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(Run, "advance", die)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "b", compile_block=False, save_every=5)
    monkeypatch.undo()
    resumed = train(recipe, tmp_path / "b", compile_block=False)
    through = train(recipe, tmp_path / "a", compile_block=False)
    expected = weights(through)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


def test_state_of_another_recipe_is_refused(tmp_path):
    train(smoke(), tmp_path, compile_block=False, stop_at=1)
    with pytest.raises(ValueError, match="another recipe"):
        train(replace(smoke(), seed=3), tmp_path, compile_block=False)


def test_command_line_puts_down_and_resumes(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(MIDAS), "--smoke", "--out", str(out)]
    assert main([*arguments, "--minutes", "1e-9"]) == 0
    assert not out.exists() and "put down at step 1" in capsys.readouterr().out
    assert main(arguments) == 2 and "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    rows = list(csv.DictReader((out / "loss.csv").open()))
    assert list(rows[0]) == ["step", "tokens", "layers", "loss", "answer_loss"]
    assert "| lookup |" in (out / "README.md").read_text()


def test_another_seed_has_other_weights_and_data(tmp_path):
    found = []
    for seed in (1, 2):
        out = tmp_path / str(seed)
        assert main([str(MIDAS), "--smoke", "--seed", str(seed), "--out", str(out), "--minutes", "1e-9"]) == 0
        state = torch.load(tmp_path / f"{seed}.work" / "state.pt", weights_only=True)
        found.append((state["log"], state["model"]["embed"]))
    assert found[0][0] != found[1][0] and not torch.equal(found[0][1], found[1][1])
    recipe = read_recipe(MIDAS)
    assert default_folder(recipe, None).name == "family-midas" != default_folder(recipe, 2).name


def test_an_abandoned_run_writes_nothing(tmp_path):
    run = train(smoke(), tmp_path / "work", compile_block=False, save_every=1, abandoned=lambda: True)
    assert run.step == 0 and not (tmp_path / "work").exists()


def test_the_program_runs_from_the_root():
    command = [sys.executable, "-m", "data.recipe.train", "--help"]
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT)
    assert "--resume" in done.stdout


def test_insertions_by_hand():
    assert insertion("midas", 4, 4) == insertion("lidas", 4, 4) == (4, [0, 1, 2, 3])
    assert insertion("midas", 8, 4) == (4, [0, 1, 2, 3])
    assert insertion("lidas", 8, 4) == (6, [2, 3, 4, 5])  # astride two blocks
    assert insertion("midas", 12, 4) == insertion("lidas", 12, 4) == (8, [4, 5, 6, 7])
    assert insertion("midas", 20, 4) == (12, [8, 9, 10, 11])
    with pytest.raises(ValueError, match="does not grow"):
        insertion("looped", 8, 4)


@pytest.mark.parametrize(("arm", "order"), [("midas", "012301234567"), ("lidas", "012345234567")])
def test_growth_copies_layers_and_their_optimizer_state(arm, order, tmp_path):
    recipe = replace(smoke(), arm=arm, growth=(1, 50, 60, 70, 80))
    run = Run(recipe, tmp_path)
    run.grow()
    run.grow = lambda: None
    run.advance(), run.advance()
    old = [
        {n: (p.clone(), run.optimizer.state[p]["m"].clone()) for n, p in b.named_parameters()} for b in run.model.blocks
    ]
    Run.grow(run)
    assert len(run.model.blocks) == 12 and run.model.shape.layers == 12
    for block, source in zip(run.model.blocks, order, strict=True):
        for name, p in block.named_parameters():
            weight, momentum = old[int(source)][name]
            assert torch.equal(p, weight) and torch.equal(run.optimizer.state[p]["m"], momentum)
    # Copies are layers of their own.
    assert len({p.data_ptr() for p in run.model.blocks.parameters()}) == 12 * 9
    assert len({s["m"].data_ptr() for s in run.optimizer.state.values()}) == 12 * 9 + 2


def test_a_loop_runs_its_layers_as_ordered():
    torch.manual_seed(0)
    shape = Shape(width=32, hidden=64, layers=3, context=16)
    stored = Llama(shape)
    looped = Llama(replace(shape, order=(0, 1, 1, 2)))
    looped.load_state_dict(stored.state_dict())
    unrolled = Llama(replace(shape, layers=4))
    unrolled.load_state_dict({**looped.state_dict(), **_renamed(looped, {3: 2, 2: 1})})
    ids = torch.arange(10)[None]
    assert torch.equal(looped(ids), unrolled(ids)) and not torch.equal(looped(ids), stored(ids))


def _renamed(model: Llama, layers: dict[int, int]) -> dict[str, torch.Tensor]:
    return {f"blocks.{new}.{n}": p for new, old in layers.items() for n, p in model.blocks[old].named_parameters()}


def test_muon_orthogonalises():
    torch.manual_seed(0)
    for shape in ((2, 16, 48), (2, 48, 16)):
        singular = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert singular.min() > 0.5 and singular.max() < 1.4


def test_adam_first_step_is_the_rate():
    model = torch.nn.Module()
    model.norm = torch.nn.Parameter(torch.ones(4))
    model.norm.grad = torch.tensor([1.0, -2.0, 3.0, -4.0])
    Optimizer(adam_lr=0.1).step(model, scale=0.5)
    assert torch.allclose(model.norm.detach(), 1 - 0.05 * torch.tensor([1.0, -1, 1, -1]), atol=1e-4)


def test_rates_and_growth():
    recipe = read_recipe(MIDAS)
    assert recipe.rate(0) == pytest.approx(1 / recipe.warmup)
    assert recipe.rate(recipe.steps // 2) == 1
    assert recipe.rate(recipe.steps - 1) == pytest.approx(3 / recipe.steps)
    assert [g / recipe.steps for g in recipe.growth] == [0.15, 0.3, 0.45, 0.6, 0.75]
    assert len(read_recipe(MIDAS).growth) == 5
    assert len(read_recipe(RECIPE / "family-looped.toml").shape.order) == 24


def test_bad_configs(tmp_path):
    text = MIDAS.read_text()
    for old, new, message in (("midas", "tower", "arm is 'tower'"), ("layers = 24", "layers = 22", "whole number")):
        path = tmp_path / "bad.toml"
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_recipe(path)


def test_stages_are_tasks_and_blend():
    for stage in STAGES:
        assert sum(stage.values()) == pytest.approx(1)
        assert set(stage) <= {*TASKS, *TRAINING_ONLY, TEXT}
    plan = Curriculum(starts=(0, 100, 300), blend=100)
    assert {k: v for k, v in plan.shares(100).items() if v} == STAGES[0]
    assert plan.shares(150)["lookup"] == pytest.approx((STAGES[0]["lookup"] + STAGES[1]["lookup"]) / 2)
    assert {k: v for k, v in plan.shares(10_000).items() if v} == pytest.approx(STAGES[2])


def test_batches_depend_on_seed_and_step_alone():
    shares = Curriculum().shares(10**9)
    ids, weight = batch(1, 5, 4, 64, shares)
    again, _ = batch(1, 5, 4, 64, shares)
    other, _ = batch(1, 6, 4, 64, shares)
    assert np.array_equal(ids, again) and not np.array_equal(ids, other)
    assert ids.shape == (4, 65) and weight.shape == (4, 64)
    assert set(np.unique(weight)) == {np.float32(0.1), np.float32(1)}


def test_answers_weigh_one():
    ids, weight = batch(0, 0, 8, 96, {"addition1": 1.0})
    for row, w in zip(ids, weight, strict=True):
        text = bytes(row.tolist()).decode()
        marked = "".join(c if m == 1 else " " for c, m in zip(text[1:], w, strict=True)).split()
        shown = [part.split("=")[1] for part in text.replace("\n", ";").split(";") if "=" in part]
        assert marked == [s for s in shown if s]


def test_unigram_entropy_by_hand():
    assert unigram_entropy(["ab", "aa"]) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


def test_every_byte_is_a_token():
    vocabulary = tokenizer_json()["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(256))
    counts = Counter(map(len, vocabulary))
    assert counts == {1: 256}


def test_config_and_state_fit_each_other():
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = Shape(width=32, hidden=64, layers=2, context=16)
    config = {k: v for k, v in hugging_face_config(shape, {}).items() if k not in ("dtype", "depthsig")}
    model = LlamaForCausalLM(LlamaConfig(**config))
    missing, unexpected = model.load_state_dict(hugging_face_state(Llama(shape)), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
