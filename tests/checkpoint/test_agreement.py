"""What a config says and what its files hold, against what is run: told or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from checkpoint_folders import change_weights, configure, opened, read_state, refused
from families import build
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import depthsig
from depthsig.checkpoint.files.entries import other_class, unapplied_rope, unknown_entries
from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.open import open_checkpoint
from depthsig.errors import DepthsigWarning, UnsupportedModelError


def test_weights_without_a_place_are_told(folder: Path) -> None:
    change_weights(
        folder, lambda s: s.update({"model.layers.9.mlp.up_proj.weight": torch.zeros(3), "zeta": torch.zeros(2)})
    )
    opened(folder, r"holds 2 weights that LlamaForCausalLM does not use \(first: model\.layers\.9\.mlp")
    with pytest.warns(DepthsigWarning, match="holds 2 weights"):
        signature = depthsig.analyze(depthsig.load(folder), ["some text"], metrics=["lens.kl"])
    assert any("holds 2 weights" in message for message in signature.info["warnings"])


def test_tables_of_older_versions_are_not_worth_a_word(folder: Path) -> None:
    rotary = open_checkpoint(folder).module.model.rotary_emb.inv_freq
    tables = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": rotary.bfloat16(),
        "model.layers.0.attn.masked_bias": torch.tensor(-1e9),
        "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool).tril(),
        "model.position_ids": torch.arange(4),
    }
    change_weights(folder, lambda s: s.update(tables))
    assert open_checkpoint(folder).notes == ()


def _fp8(state: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    state[name] = state[name].to(torch.float8_e4m3fn)


def _int8(state: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    state[name] = state[name].to(torch.int8)


def _scale(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.0.mlp.up_proj.weight_scale_inv"] = torch.ones(1, 1)


def _gptq(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.0.mlp.up_proj.qweight"] = torch.ones(4, 4, dtype=torch.int32)


def _mlx(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.0.mlp.up_proj.scales"] = torch.ones(4, 4)


@pytest.mark.parametrize("change", [_fp8, _int8, _scale, _gptq, _mlx], ids=lambda c: c.__name__)
def test_quantised_weights_that_nothing_explains(change: Callable[..., None], folder: Path) -> None:
    change_weights(folder, change)
    with pytest.raises(UnsupportedModelError, match=r"no quantization_config.*up_proj|up_proj.*no quantization_config"):
        open_checkpoint(folder)


def test_heads_that_the_config_and_the_files_see_otherwise(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    found = opened(folder, "ties the head to the embeddings")
    held = read_state(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(found.module.lm_head.weight, held) == ("which is used" in found.notes[0])
    change_weights(folder, lambda s: s.pop("lm_head.weight"))
    assert open_checkpoint(folder).notes == ()
    configure(folder, tie_word_embeddings=False)
    assert "lm_head.weight" in refused(folder)


@pytest.mark.parametrize(
    ("name", "value"), [("final_logit_softcapping", 30.0), ("residual_multiplier", 0.2), ("sliding_window", 8)]
)
def test_entries_that_the_family_does_not_read_are_told(name: str, value: Any, folder: Path) -> None:
    configure(folder, **{name: value})
    opened(folder, f"says {name} = {value}, which LlamaForCausalLM does not read")


def test_entries_that_nothing_knows_are_told_and_those_about_training_are_not(folder: Path) -> None:
    configure(folder, attn_soft_cap=30.0, deep_norm={"alpha": 2}, pretraining_tp=2, temperature=0.5, unsloth_fixed=True)
    opened(folder, "entries that LlamaForCausalLM does not know: attn_soft_cap, deep_norm")


@pytest.mark.parametrize("family", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_a_family_knows_the_entries_that_it_writes(family: str) -> None:
    try:
        config = CONFIG_MAPPING[family]()
    except StrictDataclassError:
        pytest.skip("has no default")
    written = cast("Files", SimpleNamespace(config=json.loads(config.to_json_string(use_diff=False))))
    module = cast("nn.Module", SimpleNamespace(config=config))
    assert [*unknown_entries(written, module, "x"), *unapplied_rope(written, module, "x")] == []


@pytest.mark.parametrize("name", ["embed_tokens.weight", "norm.weight", "layers.0.mlp.down_proj.weight"])
def test_two_names_that_lead_to_one_weight(name: str, folder: Path) -> None:
    full = f"model.{name}"
    change_weights(folder, lambda s: s.update({name: s[full].clone()}))
    assert open_checkpoint(folder).notes == ()
    change_weights(folder, lambda s: s.update({name: s[full] + 1}))
    told = refused(folder)
    assert f"{full} and {name}" in told or f"{name} and {full}" in told


def test_experts_that_are_held_twice(tmp_path: Path) -> None:
    build("mixtral").save_pretrained(tmp_path)
    assert open_checkpoint(tmp_path).notes == ()  # whose experts are many tensors for one
    name = next(name for name in read_state(tmp_path / "model.safetensors") if ".experts." in name)
    change_weights(tmp_path, lambda s: s.update({name.removeprefix("model."): s[name] + 1}))
    assert refused(tmp_path)  # by transformers itself


ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
UNAPPLIED = [
    ({"rope_theta": 500000}, "says rope_theta = 500000, which is not applied"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5, which LlamaForCausalLM does not read"),
    ({"rope_parameters": {**ROPE, "factor": 8.0}}, "the rope type 'default' does not read: factor"),
    ({"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0, "z": 1, "a": 1}}, "does not read: a, z"),
    ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_type = 'default', which is not applied"),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "told"), UNAPPLIED, ids=str)
def test_rope_entries_that_change_nothing(entries: dict[str, Any], told: str, folder: Path) -> None:
    configure(folder, rope_parameters=ROPE)
    configure(folder, **entries)
    opened(folder, told)


def test_an_older_name_beside_the_new_one(tmp_path: Path) -> None:
    build("neox_parallel").save_pretrained(tmp_path)
    configure(tmp_path, rotary_pct=0.25, rotary_emb_base=10000)
    assert open_checkpoint(tmp_path).notes == ()
    configure(tmp_path, rotary_pct=0.5)
    opened(tmp_path, "rotary_pct = 0.5, which is not applied")


@pytest.mark.parametrize("theta", [0, -10000.0])
def test_a_base_that_gives_no_frequencies(theta: float, folder: Path) -> None:
    configure(folder, rope_parameters={**ROPE, "rope_theta": theta})
    assert "rotary frequencies that are not finite" in refused(folder)


def test_tables_that_are_not_those_of_the_model(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    size = open_checkpoint(folder).module.model.rotary_emb.inv_freq.numel()
    change_weights(folder, lambda s: s.update({name: torch.full((size,), 0.1)}))
    opened(folder, "holds rotary frequencies")
    change_weights(folder, lambda s: (s.pop(name), s.update({"model.layers.0.self_attn.bias": torch.ones(16)})))
    opened(folder, r"holds 1 weight .*self_attn\.bias")


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_norms_that_are_no_floats(kind: torch.dtype, folder: Path) -> None:
    change_weights(folder, lambda s: s.update({"model.norm.weight": s["model.norm.weight"].to(kind)}))
    assert "model.norm.weight" in refused(folder)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (["MistralForCausalLM"], "names the class MistralForCausalLM .*but LlamaForCausalLM is run"),
        (["LlamaForSequenceClassification"], "names the class LlamaForSequenceClassification"),
        (["LlamaModel"], "names the class LlamaModel"),
        ("x", "no list of classes"),
        ([3], "no list of classes"),
    ],
    ids=str,
)
def test_a_class_that_is_not_run(named: Any, told: str, folder: Path) -> None:
    configure(folder, architectures=named)
    opened(folder, told)


def test_a_family_that_the_class_contradicts(folder: Path) -> None:
    configure(folder, model_type="mistral", sliding_window=2)
    opened(folder, "names the class LlamaForCausalLM .*but MistralForCausalLM is run")


YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}
LONG = {"long_factor": [1.0] * 48, "short_factor": [1] * 48, "type": "longrope"}
LLAMA3 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
PUBLISHED: list[tuple[str, str, dict[str, Any]]] = [
    ("LlamaForCausalLM", "llama", {"rope_theta": 500000.0, "rope_scaling": LLAMA3, "mlp_bias": False}),
    ("Qwen2ForCausalLM", "qwen2", {"rope_theta": 1000000.0, "rope_scaling": {**YARN, "factor": 4.0}}),
    ("Qwen3ForCausalLM", "qwen3", {"rope_theta": 1000000, "rope_scaling": None, "max_window_layers": 36}),
    ("Gemma2ForCausalLM", "gemma2", {"rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096}),
    ("Gemma3ForCausalLM", "gemma3_text", {
        "rope_theta": 1000000, "rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window_pattern": 6}),
    ("Gemma3ForConditionalGeneration", "gemma3", {"text_config": {
        "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}),
    ("Phi3ForCausalLM", "phi3", {
        "rope_scaling": LONG, "original_max_position_embeddings": 4096, "max_position_embeddings": 131072}),
    ("GPTNeoXForCausalLM", "gpt_neox", {"rotary_pct": 0.25, "rotary_emb_base": 10000}),
    ("GPT2LMHeadModel", "gpt2", {"n_ctx": 1024, "n_positions": 1024}),
    ("OlmoForCausalLM", "olmo", {"rope_theta": 10000.0, "rope_scaling": None, "clip_qkv": None}),
    ("DeepseekV3ForCausalLM", "deepseek_v3", {"rope_theta": 10000, "rope_scaling": {**YARN, "mscale": 1.0}}),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "kind", "entries"), PUBLISHED, ids=str)
def test_published_configs_are_not_worth_a_word(architecture: str, kind: str, entries: dict[str, Any]) -> None:
    entries = {"architectures": [architecture], "model_type": kind, **entries}
    config = CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(entries)))
    files = cast("Files", SimpleNamespace(config=entries))
    module = cast("nn.Module", type(architecture, (), {"config": config})())
    checks = (unknown_entries, unapplied_rope, other_class)
    assert [note for check in checks for note in check(files, module, "x")] == []
