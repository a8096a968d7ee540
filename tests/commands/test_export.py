"""Exported checkpoints: equal logits, working caches, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import PROMPTS, build, byte_tokenizer
from looped_cases import CASES

import depthsig
from depthsig.cli.main import main
from depthsig.commands.export import export, mergekit_yaml
from depthsig.errors import DepthsigError, InputError, UnsupportedModelError
from depthsig.prompts.shipped import shipped_checkpoints

TOKENIZER = byte_tokenizer()
IDS = torch.tensor([TOKENIZER(PROMPTS[0]).input_ids])


@pytest.mark.parametrize(
    "family", ["llama", "llama_tied", "gemma3", "gpt2", "mistral", "qwen3", "neox_parallel", "cohere2"]
)
def test_loads_in_plain_transformers_with_equal_logits_and_a_cache(family: str, tmp_path: Path) -> None:
    module = build(family)
    model = depthsig.load(module, TOKENIZER, order="0:2,1:3x2,3")
    export(model, tmp_path / "out")
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert len(depthsig.load(loaded, TOKENIZER).plan) == 7
    wanted = model.read(model.clean(IDS).outputs[-1])
    with torch.no_grad():
        assert (loaded(IDS, use_cache=False).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        cache, steps = None, []
        for token in IDS[0]:
            out = loaded(token[None, None], past_key_values=cache, use_cache=True)
            cache, steps = out.past_key_values, [*steps, out.logits]
    assert (torch.cat(steps, 1) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    types = getattr(module.config, "layer_types", None)
    if types:
        assert loaded.config.layer_types == [types[i] for i in model.plan.layers]
    again = hf.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(PROMPTS[0]).input_ids == IDS[0].tolist()
    # Every occurrence has weights of its own.
    pointers = [p.data_ptr() for n, p in loaded.named_parameters() if "lm_head" not in n and "embed" not in n]
    assert len(pointers) == len(set(pointers))


def test_the_command_prints_mergekits_yaml(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = tmp_path / "source", tmp_path / "deep" / "out"
    build("llama").save_pretrained(source)
    TOKENIZER.save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "depthsig": {"order": "0:4", "prompts": "lookup"}}))
    assert main(["export", str(source), "--order", "0:3,1:4", "--out", str(out)]) == 0
    assert mergekit_yaml([0, 1, 2, 1, 2, 3], str(source)) in capsys.readouterr().out
    assert main(["export", "family-midas", "--order", "0:8,4:24", "--out", str(tmp_path / "shipped")]) == 0
    assert f"model: {shipped_checkpoints()['family-midas']}" in capsys.readouterr().out
    written = json.loads((out / "config.json").read_text())
    # The order is in the weights now; executed once more it would be another model.
    assert written["num_hidden_layers"] == 6 and written["depthsig"] == {"prompts": "lookup"}
    before = sorted(p.name for p in out.iterdir())
    assert main(["export", str(source), "--order", "0:3,1:4", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "exists already" in error and error.count("\n") == 1
    assert sorted(p.name for p in out.iterdir()) == before


@pytest.mark.parametrize("order", ["0:9", "4:2", "", "0:4x0", None])
def test_bad_orders_leave_nothing(order: str | None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = tmp_path / "source", tmp_path / "new" / "out"
    build("llama").save_pretrained(source)
    options = [] if order is None else ["--order", order]
    capsys.readouterr()
    assert main(["export", str(source), *options, "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not out.parent.exists()


def test_what_is_no_plain_stack_is_refused(tmp_path: Path) -> None:
    for kind in ("albert", "tied"):
        model = depthsig.load(CASES[kind].build(), TOKENIZER, order="0:1,0:2")
        with pytest.raises(UnsupportedModelError):
            export(model, tmp_path / "out")
    with pytest.raises(InputError, match="no order"):
        export(depthsig.load(build("llama"), TOKENIZER), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = depthsig.load(build("llama"), TOKENIZER, order="0:2,1:4")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("depthsig.commands.export._prove", full)
    with pytest.raises(DepthsigError, match="No space left"):
        export(model, tmp_path / "a" / "out")
    assert not (tmp_path / "a").exists()
