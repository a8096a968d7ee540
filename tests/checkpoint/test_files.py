"""What of a checkpoint's files is read, run, hashed and reported."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from checkpoint_folders import change_weights, configure, opened, read_state, refused
from families import build
from safetensors.torch import save_file

import depthsig
from depthsig.checkpoint.files.limits import model_max
from depthsig.checkpoint.files.naming import name_of
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.open import open_checkpoint
from depthsig.commands.analysis.record import identity
from depthsig.errors import DepthsigWarning, InputError

COMMIT = "0123456789abcdef" * 2 + "01234567"
LORA = {"peft_type": "LORA", "base_model_name_or_path": "owner/other", "r": 2, "target_modules": ["q_proj"]}
EVIL = """import pathlib
from transformers import LlamaConfig as C, LlamaForCausalLM as M
pathlib.Path({!r}).write_text("ran")
"""


@pytest.fixture
def unpickled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torch.load is asked to open."""
    asked: list[str] = []
    load = torch.load

    def watch(file: Any, *args: Any, **options: Any) -> Any:
        asked.append(str(file))
        return load(file, *args, **options)

    monkeypatch.setattr(torch, "load", watch)
    return asked


def point_index(folder: Path, shard: str, *, index: str = "model.safetensors.index.json") -> None:
    state = read_state(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, shard)}))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "a/../../x.safetensors", "ABSOLUTE", "C:\\x", "..\\x", "file://x"]
)
def test_a_name_that_leads_out_is_not_followed(name: str, folder: Path) -> None:
    outside = folder.parent / "x.safetensors"
    shutil.copy(folder / "model.safetensors", outside)
    name = str(outside) if name == "ABSOLUTE" else name
    point_index(folder, name)
    assert "outside the checkpoint's folder" in refused(folder)
    (folder / "model.safetensors.index.json").unlink()
    configure(folder, transformers_weights=name)
    assert "outside the checkpoint's folder" in refused(folder)


@pytest.mark.parametrize("name", [3, None, "", "a\0b", "n" * 5000, ".", "missing.safetensors", ["a"]])
def test_a_name_that_is_none_is_named(name: Any, folder: Path) -> None:
    point_index(folder, name)
    assert "names" in refused(folder)


def test_a_link_of_the_file_system_is_followed_and_hashed(folder: Path, checkpoint: Path) -> None:
    outside = folder.parent / "blob"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)
    assert open_checkpoint(folder).content_hash == open_checkpoint(checkpoint).content_hash


def test_a_tokenizer_file_outside_is_refused_where_it_is_there(folder: Path) -> None:
    outside = Path(shutil.copy(folder / "tokenizer.json", folder.parent / "t.json"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_file": str(outside)}))
    assert "tokenizer_file" in refused(folder)
    path.write_text(json.dumps({**config, "tokenizer_file": "/no/such/machine/t.json"}))
    assert open_checkpoint(folder).tokenizer is not None


def _index_of_pickle(folder: Path) -> None:
    torch.save(read_state(folder / "model.safetensors"), folder / "w.bin")
    point_index(folder, "w.bin")


def _named_pickle(folder: Path) -> None:
    torch.save(read_state(folder / "model.safetensors"), folder / "adapter_model.bin")
    configure(folder, transformers_weights="adapter_model.bin")


def _pickle_alone(folder: Path) -> None:
    torch.save(read_state(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _pickled_index(folder: Path) -> None:
    torch.save(read_state(folder / "model.safetensors"), folder / "w.bin")
    point_index(folder, "w.bin", index="pytorch_model.bin.index.json")


def _pickle_called_safetensors(folder: Path) -> None:
    torch.save(read_state(folder / "model.safetensors"), folder / "model.safetensors")


def _adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    torch.save({}, folder / "adapter_model.bin")


PICKLES = [
    _index_of_pickle, _named_pickle, _pickle_alone, _pickled_index, _pickle_called_safetensors, _adapter_beside,
]  # fmt: skip


@pytest.mark.parametrize("make", PICKLES, ids=lambda make: make.__name__)
def test_no_pickle_without_the_flag(make: Callable[[Path], None], folder: Path, unpickled: list[str]) -> None:
    make(folder)
    refused(folder)
    assert unpickled == []


def test_pickles_with_the_flag(folder: Path, checkpoint: Path) -> None:
    _pickle_alone(folder)
    found = open_checkpoint(folder, options=LoadOptions(allow_pickle=True))
    assert torch.equal(found.module.lm_head.weight, open_checkpoint(checkpoint).module.lm_head.weight)


def test_a_trainers_files_are_no_part_of_the_model(folder: Path, checkpoint: Path) -> None:
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"):
        torch.save({}, folder / name)
    assert open_checkpoint(folder).content_hash == open_checkpoint(checkpoint).content_hash
    (folder / "model.safetensors").unlink()
    assert "optimizer" not in refused(folder) and "holds no weights" in refused(folder)


def test_distributed_checkpoints_are_refused_by_name(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "shard-00000-model-00001-of-00001.safetensors")
    assert "distributed" in refused(folder)


def test_the_hash_covers_shards_in_subfolders_and_nothing_unused(folder: Path) -> None:
    (folder / "sub").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "sub/w.safetensors")
    point_index(folder, "sub/w.safetensors")
    before = open_checkpoint(folder)
    (folder / "decoy.safetensors").unlink()
    (folder / "notes.bin").write_bytes(b"x")
    assert open_checkpoint(folder).content_hash == before.content_hash
    state = read_state(folder / "sub/w.safetensors")
    save_file({k: v + 1 for k, v in state.items()}, folder / "sub/w.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(folder).content_hash != before.content_hash


def test_work_is_gone_on_with_only_on_the_same_model_and_tokenizer(folder: Path) -> None:
    def of(model: depthsig.Model) -> Any:
        request = SimpleNamespace(record=dict, lenses={}, needed={})
        return identity(model, [], request)  # type: ignore[arg-type]

    before = of(depthsig.load(folder))
    assert of(depthsig.load(folder)) == before
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "clean_up_tokenization_spaces": True}))
    assert of(depthsig.load(folder)) != before
    module = build("llama")
    live = of(depthsig.load(module))
    assert live == of(depthsig.load(module))
    module.lm_head.weight.data[0, 0] += 1
    assert of(depthsig.load(module)) != live


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one repository; gives its snapshot."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache/models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    return Path(shutil.copytree(checkpoint, repository / "snapshots" / COMMIT))


def test_a_snapshot_is_called_by_its_repository(hub: Path, checkpoint: Path) -> None:
    found = open_checkpoint(hub)
    assert (found.name, found.repository, found.revision) == ("tiny", "owner/tiny", COMMIT)
    assert found.content_hash == open_checkpoint(checkpoint).content_hash


def test_a_hub_id_is_its_commit_and_its_files(hub: Path, checkpoint: Path) -> None:
    found = open_checkpoint("owner/tiny")
    assert (found.name, found.kind, found.repository, found.revision) == ("tiny", "hub", "owner/tiny", COMMIT)
    assert found.content_hash == open_checkpoint(checkpoint).content_hash and found.tokenizer is not None
    other = Path(shutil.copytree(hub, hub.parent / COMMIT[::-1]))
    change_weights(other, lambda s: s["lm_head.weight"].add_(1))
    (hub.parent.parent / "refs/main").write_text(COMMIT[::-1])
    moved = open_checkpoint("owner/tiny")
    assert moved.revision == COMMIT[::-1] and moved.content_hash != found.content_hash
    again = open_checkpoint("owner/tiny", options=LoadOptions(revision=COMMIT))
    assert again.content_hash == found.content_hash


@pytest.mark.parametrize("make", PICKLES, ids=lambda make: make.__name__)
def test_a_hub_id_is_looked_at_as_a_folder_is(make: Callable[[Path], None], hub: Path, unpickled: list[str]) -> None:
    make(hub)
    with pytest.raises(InputError):
        open_checkpoint("owner/tiny")
    assert unpickled == []


def test_names_that_a_person_recognises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run-a/checkpoint-500").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run-a/checkpoint-500")
    assert name_of(Path()) == name_of(Path("../checkpoint-500/")) == "run-a-checkpoint-500"
    assert name_of(tmp_path / "run-a") == "run-a" and name_of(Path("a/B.GGUF")) == "B"


def test_code_runs_only_where_it_is_allowed(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(str(mark)))
    configure(folder, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    with pytest.warns(DepthsigWarning, match="which is not run"):
        model = depthsig.load(folder)
    assert model.checkpoint.code == () and not mark.exists()
    out = depthsig.export(model, tmp_path / "out", order="0:2,1:4")
    assert not mark.exists() and list(out.glob("*.py")) == []
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    configure(folder, model_type="mystery")
    assert "--trust-remote-code" in refused(folder) and not mark.exists()


@pytest.mark.parametrize("entry", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_of_the_hub_are_code(entry: str, folder: Path) -> None:
    configure(folder, **{entry: "owner/kernel"})
    assert "--trust-remote-code" in refused(folder)
    configure(folder, **{entry: None, "text_config": {entry: {"": "owner/kernel"}}})
    assert "--trust-remote-code" in refused(folder)


def test_two_files_with_other_numbers_for_one_weight(folder: Path) -> None:
    state = read_state(folder / "model.safetensors")
    point_index(folder, "decoy.safetensors")
    index = folder / "model.safetensors.index.json"
    save_file({"lm_head.weight": state["lm_head.weight"] + 1}, folder / "z.safetensors", metadata={"format": "pt"})
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {**dict.fromkeys(state, "decoy.safetensors"), "x": "z.safetensors"}})
    )
    assert "lm_head.weight" in refused(folder)


HUGE = {
    "num_hidden_layers": 10**9, "vocab_size": 10**12, "hidden_size": 10**9, "intermediate_size": 10**10,
    "num_labels": 10**9, "num_attention_heads": 10**30,
}  # fmt: skip


@pytest.mark.parametrize("name", list(HUGE))
def test_a_config_of_another_size_than_the_files(name: str, folder: Path) -> None:
    configure(folder, **{name: HUGE[name]})
    assert name in refused(folder)


def test_a_config_that_describes_more_than_the_files_hold(folder: Path) -> None:
    configure(folder, hidden_size=2**12, intermediate_size=2**14, vocab_size=2**16)
    assert "describes more than" in refused(folder)


LIMITS = [
    ({"max_position_embeddings": 64}, 64),
    ({"n_positions": 64, "n_ctx": 32}, 32),
    ({"max_position_embeddings": 1000, "text_config": {"max_position_embeddings": 24}}, 24),
    ({"llm_config": SimpleNamespace(seq_length=48), "vision_config": {"max_position_embeddings": 4}}, 48),
    ({"decoder": {"text_config": {"max_context_length": 16}}}, 16),
    ({"alibi": True, "max_position_embeddings": 64}, None),
    ({"model_type": "bloom", "seq_length": 64}, None),
    ({"max_position_embeddings": float("nan"), "n_ctx": True, "max_seq_len": "9"}, None),
    ({"max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, 128),
    ({"max_position_embeddings": 128, "rope_scaling": {
        "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}}, 128),
    ({"max_position_embeddings": 128, "rope_parameters": {
        "rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 64}}, 128),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "wanted"), LIMITS, ids=str)
def test_the_longest_input_wherever_it_is_kept(entries: dict[str, Any], wanted: int | None) -> None:
    assert model_max(SimpleNamespace(**entries)) == wanted


def test_a_revision_goes_with_a_hub_id(folder: Path) -> None:
    assert "goes with a hub id" in refused(folder, revision="v2")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"vocab_size": 300}, r"'lm_head\.weight' is \d+×\d+ in its files, and would be 300×"),
        ({"num_hidden_layers": "x"}, "LlamaConfig .*'num_hidden_layers': TypeError: .* got str"),
        ({"layer_types": ["zork"] * 4}, "'validate_layer_type': ValueError: "),
        ({"num_key_value_heads": 0}, r"config\.json of .* does not build a LlamaForCausalLM \(ZeroDivisionError: "),
        ({"text_config": {"a": 1}}, "does not build a LlamaForCausalLM .*AttributeError"),
        ({"rope_parameters": {"rope_type": "zork", "rope_theta": 1e4}}, "does not build a Llama.*KeyError: 'zork'"),
        ({"dtype": "nn"}, "does not build a LlamaConfig .*cannot pickle"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(entries: dict[str, Any], told: str, folder: Path) -> None:
    configure(folder, **entries)
    assert re.search(told, refused(folder))


def test_an_entry_of_ours_that_would_be_passed_over(folder: Path) -> None:
    configure(folder, depthsig={"ordr": "0:2,1:4"})
    assert "unknown key 'ordr'; there are order, loop, grown" in refused(folder)


def test_outputs_of_finite_weights_that_are_not_finite(folder: Path) -> None:
    configure(folder, rms_norm_eps=-100.0)
    with pytest.raises(InputError, match=r"its weights are finite, so .* its config"):
        depthsig.load(folder)


def test_a_tokenizer_that_nobody_knows(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "Zork"}))
    opened(folder, "is a Zork, which transformers does not know")
