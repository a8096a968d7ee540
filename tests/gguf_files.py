"""Small GGUF files of a Llama, as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers as hf
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from torch import nn

_ENDS = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}  # fmt: skip
_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def small_llama(intermediate: int = 48, **settings: Any) -> nn.Module:
    """A Llama of two layers whose frequencies differ: its heads are 16 wide."""
    config = hf.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=intermediate, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False, **settings,
    )  # fmt: skip
    return hf.LlamaForCausalLM(config).eval()


def write_gguf(
    module: Any, path: Path, *, keys: Mapping[str, Any] | None = None, extra: Mapping[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (), architecture: str = "llama", kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> Path:  # fmt: skip
    """Write a Llama.

    Args:
        keys: of the architecture, beside or in the place of the usual ones; a leading ``=`` means the whole name.
        extra: further tensors. without: keys and tensors that are left out.
        kind: how the matrices are packed.
    """
    config = module.config
    writer = GGUFWriter(str(path), architecture)
    usual: dict[str, Any] = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": 10000.0,
        "rope.dimension_count": config.head_dim, "vocab_size": config.vocab_size,
    }  # fmt: skip
    for key, value in {**usual, **(keys or {})}.items():
        if key not in without:
            _add(writer, key.removeprefix("=") if key.startswith("=") else f"{architecture}.{key}", value)
    for name, tensor in module.state_dict().items():
        gguf, values = _renamed(name), tensor.float().numpy()
        if gguf.endswith(("attn_q.weight", "attn_k.weight")):
            heads = config.num_attention_heads if "attn_q" in gguf else config.num_key_value_heads
            half = values.reshape(heads, 2, -1, values.shape[1])
            values = half.swapaxes(1, 2).reshape(values.shape)
        if gguf not in without:
            packed = quantize(np.ascontiguousarray(values), kind if values.ndim > 1 else GGMLQuantizationType.F32)
            writer.add_tensor(gguf, packed, raw_dtype=kind if packed.dtype == np.uint8 else None)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(n: int) -> dict[str, Any]:
    """The keys of a byte-level tokenizer of so many tokens, some of them merged."""
    letters = [chr(c) for c in range(ord("A"), ord("A") + n - 8)]
    special = ["<|im_start|>", "<|im_end|>"]
    merges = [(letters[i], letters[i + 1]) for i in range(0, 12, 2)]
    tokens = [*special, *letters, *("".join(pair) for pair in merges)]
    return {
        "=tokenizer.ggml.model": "gpt2", "=tokenizer.ggml.tokens": tokens,
        "=tokenizer.ggml.token_type": [3, 3, *[1] * (n - 2)], "=tokenizer.ggml.merges": [" ".join(m) for m in merges],
        "=tokenizer.ggml.bos_token_id": 0, "=tokenizer.ggml.eos_token_id": 1,
        "=tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip


def _renamed(name: str) -> str:
    if name in _ENDS:
        return _ENDS[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
