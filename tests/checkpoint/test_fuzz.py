"""Damaged and hostile checkpoints: opened, or refused in one line; never anything else, and never for long."""

from __future__ import annotations

import json
import shutil
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from families import build, byte_tokenizer
from gguf_files import small_llama, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from depthsig.checkpoint.open import open_checkpoint
from depthsig.errors import InputError

LONGEST_S = 60

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.integers(-2, 300)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../../x", "/etc/hostname", "owner/name", "float8_e4m3fn", "full_attention", "llama", "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
ENTRIES = [
    "architectures", "attn_implementation", "auto_map", "depthsig", "dtype", "head_dim", "hidden_act", "hidden_size",
    "id2label", "intermediate_size", "is_encoder_decoder", "layer_types", "max_position_embeddings", "model_type",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "num_labels", "output_attentions",
    "output_hidden_states", "quantization_config", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "sliding_window", "text_config", "tie_word_embeddings", "torch_dtype", "transformers_weights", "use_cache",
    "vocab_size",
]  # fmt: skip
TOKENIZER_ENTRIES = [
    "add_bos_token", "added_tokens", "added_tokens_decoder", "auto_map", "bos_token", "chat_template", "decoder",
    "extra_special_tokens", "fast_tokenizer_files", "model", "model_max_length", "normalizer", "padding_side",
    "post_processor", "pre_tokenizer", "tokenizer_class", "tokenizer_file", "truncation", "vocab_file",
]  # fmt: skip
Spoil = Callable[[st.DataObject, Path], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "llama"
    build("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    write_gguf(small_llama(), folder / "small.gguf")
    return folder


def _spoil_json(data: st.DataObject, path: Path, entries: list[str]) -> None:
    content = json.loads(path.read_text())
    for name in data.draw(st.lists(st.sampled_from([*entries, *content]), min_size=1, max_size=3)):
        content[name] = data.draw(VALUES)
    text = json.dumps(content)
    path.write_text(
        data.draw(st.sampled_from([text] * 12 + [text[:-9], "[" * 10**5, f"[{text}]", "", '{"a":' * 10**5]))
    )


def spoil_config(data: st.DataObject, folder: Path) -> Path:
    _spoil_json(data, folder / "config.json", ENTRIES)
    return folder


def spoil_tokenizer(data: st.DataObject, folder: Path) -> Path:
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    _spoil_json(data, folder / name, TOKENIZER_ENTRIES)
    return folder


def spoil_index(data: st.DataObject, folder: Path) -> Path:
    if data.draw(st.booleans()):
        (folder / "model.safetensors").rename(folder / "other.safetensors")
    names = st.sampled_from(["model.safetensors", "other.safetensors", "../x", "/etc/hostname", "w.bin", "n" * 5000])
    content = data.draw(
        st.fixed_dictionaries({"metadata": VALUES, "weight_map": VALUES})
        | st.builds(lambda name: {"metadata": {}, "weight_map": {"lm_head.weight": name}}, names | VALUES)
    )
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def spoil_safetensors(data: st.DataObject, folder: Path) -> Path:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(header)))
    if data.draw(st.booleans()):
        header[data.draw(st.sampled_from([name, "x.weight", "../x", "lm_head.weight_scale_inv"]))] = header.pop(name)
    else:
        header[name] = {
            **header[name],
            data.draw(st.sampled_from(["dtype", "shape", "data_offsets"])): data.draw(VALUES),
        }
    text = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(text)] * 6 + [0, 2**63, len(text) - 8]))
    path.unlink()
    path.write_bytes(struct.pack("<Q", length) + text + raw[8 + len(json.dumps(header)) :])
    return folder


def spoil_gguf(data: st.DataObject, folder: Path) -> Path:
    path = folder / "small.gguf"
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, 2500))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))])
    return path


SPOILED: list[Spoil] = [spoil_config, spoil_tokenizer, spoil_index, spoil_safetensors, spoil_gguf]


def run(spoil: Spoil, saved: Path, work: Path, examples: int) -> Counter:
    """What became of so many spoiled checkpoints."""
    found: Counter = Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=examples < 100,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def check(data: st.DataObject) -> None:
        folder = work / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        place = spoil(data, Path(shutil.copytree(saved, folder)))
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                open_checkpoint(place)
        except InputError as error:
            found["refused"] += 1
            assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
        else:
            found["opened"] += 1
        assert time.perf_counter() - started < LONGEST_S

    check()
    print(spoil.__name__, dict(found))
    return found


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_spoiled_checkpoints(spoil: Spoil, saved: Path, tmp_path: Path) -> None:
    found = run(spoil, saved, tmp_path, 20)
    assert found["refused"] > 2, found


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_many_spoiled_checkpoints(spoil: Spoil, saved: Path, tmp_path: Path) -> None:
    found = run(spoil, saved, tmp_path, 2000)
    assert found.total() >= 1000, found
