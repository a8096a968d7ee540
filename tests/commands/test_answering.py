"""Answers item by item: exact match against greedy generation, pairing over shots and models, what does not fit."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import build, byte_tokenizer
from torch.nn import functional as F

import depthsig
from depthsig.cli.main import main
from depthsig.commands.repeats.answering import answered, fitting
from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts import load_prompts


@pytest.fixture(scope="module")
def baseline() -> depthsig.Model:
    return depthsig.load("family-baseline")


def greedy(model: depthsig.Model, text: str, n: int) -> list[int]:
    """What Hugging Face's own greedy decoding gives after a text."""
    ids = torch.tensor([model.tokenizer(text).input_ids])
    with torch.no_grad():
        out = model.module.generate(ids, max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, ids.shape[1] :].tolist()


def plain(model: depthsig.Model, text: str, answer: str) -> tuple[float, bool]:
    """Loss of an answer and whether greedy decoding gives it, one prompt at a time, with plain PyTorch."""
    goal = torch.tensor(model.tokenizer(answer).input_ids)
    ids = torch.tensor([model.tokenizer(text).input_ids + goal.tolist()])
    with torch.no_grad():
        logits = model.module(ids, use_cache=False).logits[0, -len(goal) - 1 : -1]
    return float(F.cross_entropy(logits, goal)), greedy(model, text, len(goal)) == goal.tolist()


@pytest.mark.parametrize(("task", "shots"), [("variables1", 0), ("variables1", 2), ("copying", 0), ("phop", 1)])
def test_exact_is_what_greedy_decoding_gives(baseline: depthsig.Model, task: str, shots: int) -> None:
    found = answered(baseline, task, shots=shots, n=8)
    prompts = load_prompts(task, 8, shots=shots)
    by_hand = [plain(baseline, p.text, str(p.answer)) for p in prompts]
    assert found.fits.all() and found.exact.tolist() == [exact for _, exact in by_hand]
    assert found.loss == pytest.approx([loss for loss, _ in by_hand], rel=1e-4, abs=1e-6)
    assert found.accuracy == np.mean([exact for _, exact in by_hand])


def test_exact_needs_every_token_and_greedy_says_which(tmp_path: Path) -> None:
    """A tiny model that only writes letters; answers are its own, or its own with another last or first letter."""
    module = build("llama")
    tokenizer = byte_tokenizer()
    letters = tokenizer("abcdefghijklmnopqrstuvwxyz").input_ids
    with torch.no_grad():
        module.lm_head.weight[[i for i in range(272) if i not in letters]] = 0
    model = depthsig.load(module, tokenizer)
    entries = []
    for number, text in enumerate(
        ["ab", "some words", "x" * 30, "12+3=", "a longer prompt than these", "and one more"]
    ):
        said = tokenizer.decode(greedy(model, text, 3))
        other = "a" if "a" not in said else "b" if "b" not in said else "c"
        entries.append({"text": text, "answer": [said, said[:2] + other, other + said[1:]][number % 3]})
    path = tmp_path / "own.json"
    path.write_text(json.dumps([*entries, {"text": "no answer"}]))
    found = answered(model, path)
    assert found.exact.tolist() == [plain(model, e["text"], e["answer"])[1] for e in entries]
    assert found.exact.tolist() == [1, 0, 0, 1, 0, 0] and len(found.items) == 6
    with pytest.raises(InputError, match="has no answers"):
        answered(model, "wikitext")


def test_items_pair_over_shots_models_and_what_fits(baseline: depthsig.Model) -> None:
    none, three = answered(baseline, "lookup", n=12), answered(baseline, "lookup", shots=3, n=12)
    other = answered(depthsig.load("family-midas"), "lookup", shots=3, n=12)
    assert none.items == three.items == other.items and len(set(none.items)) == 12
    assert 0 < three.fits.sum() < 12 == none.fits.sum()  # of 128 tokens
    assert (np.isnan(three.loss) == ~three.fits).all() and (np.isnan(three.exact) == ~three.fits).all()
    assert (other.fits == three.fits).all() and (other.loss[other.fits] != three.loss[three.fits]).any()
    counts = fitting(baseline, "lookup", n=12)
    assert counts[0] == 12 and counts[3] == three.fits.sum() and counts[8] == 0
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    frame = three.frame()
    assert list(frame.columns) == ["task", "shots", "item", "fits", "loss", "exact"] and len(frame) == 12


def test_what_never_fits_says_what_would(baseline: depthsig.Model) -> None:
    with pytest.raises(InputError, match=r"--shots 4: no prompt fits .* in 128 tokens .*; 1 fit for 5 of 5 prompts"):
        answered(baseline, "phop", shots=4, n=5)
    with pytest.raises(InputError, match=r"in 40 tokens .*larger --max-tokens.* 0 fit for"):
        answered(baseline, "lookup", shots=2, n=5, max_tokens=40)


OPTIONS = {"n": 5, "metrics": ["lens.target_nll"], "positions": "answer", "progress": False}


def test_analysis_measures_the_last_answer_after_the_examples(baseline: depthsig.Model, tmp_path: Path) -> None:
    found = depthsig.analyze(baseline, "variables0", shots=2, **OPTIONS, out=tmp_path / "two")
    prompts = load_prompts("variables0", 5, shots=2)
    losses = [plain(baseline, p.text, str(p.answer))[0] for p in prompts]
    samples = found.samples_table.query("metric == 'lens.target_nll' and index == 24 and agg == 'mean'")
    assert samples.sort_values("prompt")["value"].to_numpy() == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert found.info["options"]["shots"] == 2 and found.prompts["n_tokens"].min() > 60
    none = depthsig.analyze(baseline, "variables0", **OPTIONS, out=tmp_path / "none")
    assert none.info["options"]["shots"] == 0 and none.info["identity"] != found.info["identity"]
    with pytest.raises(InputError, match=r"differ in --shots: 2 .*, 0"):
        depthsig.compare([found, none])


def test_without_shots_prompts_are_what_they_were(baseline: depthsig.Model) -> None:
    before = baseline.tokens(load_prompts("lookup", 5))
    found = depthsig.analyze(baseline, "lookup", shots=0, **OPTIONS).prompts
    assert found["sha256"].tolist() == [p.sha256 for p in before]
    assert found["tokens_sha256"].tolist() == [p.tokens_sha256 for p in before]


def test_prompts_that_do_not_fit_with_their_examples_are_left_out(baseline: depthsig.Model) -> None:
    with pytest.warns(DepthsigWarning, match="3 of 5 prompts are left out: with 3 examples"):
        found = depthsig.analyze(baseline, "lookup", shots=3, **OPTIONS)
    assert len(found.prompts) == 2 and (found.prompts["n_tokens"] <= 128).all()
    with pytest.raises(InputError, match="--shots 8: no prompt fits with its examples in 128 tokens"):
        depthsig.analyze(baseline, "lookup", shots=8, **OPTIONS)
    for shots, said in ((9, "from 0 to 8"), (-1, "from 0 to 8"), ("2", "whole number")):
        with pytest.raises(InputError, match=said):
            depthsig.analyze(baseline, "lookup", shots=shots, **OPTIONS)


def test_the_command_takes_and_records_shots(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "s"
    asked = ["analyze", "family-midas", "--prompts", "addition", "-n", "2", "--metrics", "lens.kl", "--shots", "1",
             "--no-control", "--no-progress"]  # fmt: skip
    assert main([*asked, "--out", str(out)]) == 0
    assert tomllib.loads((out / "run.toml").read_text())["shots"] == 1
    assert "--shots 1" in (out / "report.html").read_text()  # how it is made again
    capsys.readouterr()
    for bad, said in ((["--shots", "9"], "from 0 to 8"), (["--shots", "1", "--prompts", "wikitext"], "no answers")):
        assert main([*asked, *bad]) == 2
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err


def test_repeats_are_judged_after_examples(baseline: depthsig.Model, tmp_path: Path) -> None:
    found = depthsig.repeat(
        baseline, "variables1", span="4:8", n=5, shots=2, seed=3, out=tmp_path / "r", progress=False
    )
    own = answered(baseline, "variables1", shots=2, n=5, seed=3)
    assert found.scores.base_loss["variables1"] == pytest.approx(own.loss, rel=1e-5, abs=1e-7)
    assert found.scores.base_accuracy["variables1"].tolist() == own.exact.tolist()
    assert json.loads((tmp_path / "r" / "repeat.json").read_text())["shots"] == 2
    with pytest.raises(InputError, match="--shots 5: no prompt fits"):
        depthsig.repeat(baseline, "phop", span="4:8", n=5, shots=5, progress=False)
