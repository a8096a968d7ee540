"""What a GGUF file says of the computation, held against the config that transformers made of it.

transformers reads some keys of each architecture and drops the others without a word: rope factors, scales, windows.
Here every key of the architecture is either found in the config, applied to it where that is certain and exact, or
the file is refused by the key's name. A key that is not known here is one that would be dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from depthsig.checkpoint.gguf.gguf_header import GgufHeader
from depthsig.errors import UnsupportedModelError, shown

ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's factors: what each rotary frequency is divided by."""

_EPSILON = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_SAME: Mapping[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers", "n_layer", "num_layers"),
    "embedding_length": ("hidden_size", "n_embd"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_weights_norm": ("norm_topk_prob",),
    "vocab_size": ("vocab_size",),
    "ssm.conv_kernel": ("conv_kernel", "linear_conv_kernel_dim"),
    "ssm.state_size": ("state_size", "linear_key_head_dim"),
    "ssm.time_step_rank": ("time_step_rank", "linear_num_value_heads"),
    "ssm.group_count": ("linear_num_key_heads",),
    "shortconv.l_cache": ("conv_L_cache",),
    "full_attention_interval": ("full_attention_interval",),
    "use_parallel_residual": ("use_parallel_residual",),
}
"""Keys whose value a config must have under one of these names."""
_APPLIED: Mapping[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx"),
    "attention.layer_norm_rms_epsilon": _EPSILON,
    "attention.layer_norm_epsilon": _EPSILON,
    "attention.key_length": ("head_dim",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "residual_scale": ("residual_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "attention.scale": ("attention_multiplier",),
}
"""Keys that are written into the config under every one of these names that it has: each is used as it stands there,
and a width that does not fit shows in the shapes of the weights."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_weights_scale": (0, 1),
    "expert_weights_norm": (False,),
    "leading_dense_block_count": (0,),
    "pooling_type": (0,),
    "attention.head_count": (0,),
    "attention.head_count_kv": (0,),
    "feed_forward_length": (0,),
    "rope.dimension_count": (0,),
    "ssm.dt_b_c_rms": (False,),
    "tensor_data_layout": ("Meta AI original pth",),
}
"""Values that change nothing, for keys that a config may have no place for."""
_NEEDED = ("block_count", "embedding_length", "context_length")


def apply_keys(header: GgufHeader, config: Any, factors: np.ndarray | None) -> None:
    """Make the config say what the file says.

    Args:
        config: as transformers read it out of the file; changed in place.
        factors: of :data:`ROPE_FACTORS`, where the file has them.

    Raises:
        UnsupportedModelError: naming the first key that is in the file and could not be applied.
    """
    own = header.own()
    for key in _NEEDED:
        if key not in own and not (key == "context_length" and header.architecture == "bloom"):
            _refuse(header, key, "is missing")
    special: dict[str, Callable[[GgufHeader, Any, Any], bool]] = {
        "attention.head_count_kv": _key_value_heads, "attention.value_length": _value_length,
        "attention.sliding_window": _window, "feed_forward_length": _feed_forward, "rope.freq_base": _rope_base,
        "rope.dimension_count": _rope_width, "rope.dimension_sections": _rope_sections,
        "nextn_predict_layers": lambda *_: True, "ssm.inner_size": _inner_size,
        "block_count": _layers,
    }  # fmt: skip
    for key, value in own.items():
        if key.startswith("rope.scaling.") or key == "rope.scale_linear":
            continue
        kept = special[key](header, config, value) if key in special else _kept(key, config, value)
        if not kept and not _neutral(key, value):
            _refuse(header, key, f"is {shown(value)}, which transformers does not apply to {type(config).__name__}")
    _defaults(header, config, own)
    _rope_scaling(header, config, factors)


def _kept(key: str, config: Any, value: Any) -> bool:
    """Whether the config has the value, written there if need be."""
    for name in _APPLIED.get(key, ()):
        if _get(config, name) is not None and not _equal(_get(config, name), value):
            setattr(config, name, value)
    names = (*_SAME.get(key, ()), *_APPLIED.get(key, ()))
    return any(_equal(_get(config, name), value) for name in names)


def _defaults(header: GgufHeader, config: Any, own: Mapping[str, Any]) -> None:
    """What the file leaves out means llama.cpp's default, and not that of one checkpoint of the family."""
    if "attention.layer_norm_rms_epsilon" not in own and "attention.layer_norm_epsilon" not in own:
        _refuse(header, "attention.layer_norm_rms_epsilon", "is missing")
    heads = _get(config, "num_attention_heads")
    if "attention.head_count_kv" not in own and _get(config, "num_key_value_heads") not in (None, heads):
        config.num_key_value_heads = heads
    rope = _rope(config)
    if "rope.freq_base" not in own and rope is not None and header.architecture in ("llama", "qwen2", "phi3"):
        rope["rope_theta"] = 10000.0


def _layers(header: GgufHeader, config: Any, value: Any) -> bool:
    counted = value - int(header.own().get("nextn_predict_layers", 0))
    return any(_equal(_get(config, name), counted) for name in _SAME["block_count"])


def _key_value_heads(header: GgufHeader, config: Any, value: Any) -> bool:
    if isinstance(value, list):  # none where a layer has no attention
        kinds = ["full_attention" if heads else "conv" for heads in value]
        return max(value, default=0) == _get(config, "num_key_value_heads") and kinds == _get(config, "layer_types")
    if header.architecture == "falcon":
        found = 1 if _get(config, "multi_query") else _get(config, "num_kv_heads")
    else:
        found = _get(config, "num_key_value_heads") or _get(config, "num_attention_heads") or _get(config, "n_head")
    return _equal(found, value)


def _value_length(header: GgufHeader, config: Any, value: Any) -> bool:
    return _equal(header.own().get("attention.key_length", head_dim(config)), value)


def _window(header: GgufHeader, config: Any, value: Any) -> bool:
    limit = header.own().get("context_length")
    wide = isinstance(limit, int) and isinstance(value, int) and (value == 0 or value >= limit)
    return wide or _equal(_get(config, "sliding_window"), value)


def _feed_forward(header: GgufHeader, config: Any, value: Any) -> bool:
    names = ("intermediate_size", "n_inner", "ffn_hidden_size")
    found = next((_get(config, name) for name in names if _get(config, name)), None)
    if found is None or header.architecture == "bloom":
        found = 4 * int(header.own().get("embedding_length", 0))
    return _equal(found, value)


def _inner_size(header: GgufHeader, config: Any, value: Any) -> bool:
    heads, width = _get(config, "linear_num_value_heads"), _get(config, "linear_value_head_dim")
    return _equal(heads * width if heads and width else _get(config, "intermediate_size"), value)


def _rope_base(header: GgufHeader, config: Any, value: Any) -> bool:
    rope = _rope(config)
    if rope is None:
        return False
    if not _equal(rope.get("rope_theta"), value):
        rope["rope_theta"] = value
    return True


def _rope_width(header: GgufHeader, config: Any, value: Any) -> bool:
    rope, width = _rope(config), header.own().get("attention.key_length", head_dim(config))
    if rope is None or not width:
        return False
    share = rope.get("partial_rotary_factor", _get(config, "partial_rotary_factor"))
    return _equal(int(width * (1.0 if share is None else share)), value)


def _rope_sections(header: GgufHeader, config: Any, value: Any) -> bool:
    rope = _rope(config) or {}
    return isinstance(value, list) and [section for section in value if section] == rope.get("mrope_section")


def stretching(header: GgufHeader) -> tuple[str, float]:
    """Kind of rope scaling and its factor, ``none`` and 1 where nothing is scaled."""
    own = header.own()
    stated = [own[key] for key in ("rope.scaling.factor", "rope.scale_linear") if key in own]
    kind = own.get("rope.scaling.type", "linear" if stated else "none")  # as llama.cpp has it
    factor = stated[0] if stated else 1.0
    if kind == "none" or (kind == "linear" and _equal(factor, 1.0)):
        return "none", 1.0
    if not isinstance(factor, float) or not 0 < factor < math.inf:
        _refuse(header, "rope.scaling.factor", f"is {shown(factor)}, which stretches nothing")
    return str(kind), factor


def _rope_scaling(header: GgufHeader, config: Any, factors: np.ndarray | None) -> None:
    """Linear scaling and factors by frequency, as rope parameters that transformers computes alike."""
    rope, (kind, factor) = _rope(config), stretching(header)
    stretched = rope is not None and rope.get("rope_type") == kind and _equal(rope.get("factor"), factor)
    attention = header.own().get("rope.scaling.attn_factor", 1.0)
    if not stretched and not _equal(attention, 1.0):
        _refuse(header, "rope.scaling.attn_factor", f"is {shown(attention)}, which is not applied")
    plain = rope is not None and rope is config.rope_parameters and rope.get("rope_type", "default") == "default"
    given = factors is not None and not np.all(factors == 1.0)
    if kind != "none" and not stretched:
        if kind != "linear" or not plain or given:
            _refuse(header, "rope.scaling.type", f"is {shown(kind)} (factor {shown(factor)}), which is not applied")
        config.rope_parameters = {**config.rope_parameters, "rope_type": "linear", "factor": factor}
    if factors is not None and given:
        if not plain or not np.all(np.isfinite(factors) & (factors > 0)):
            _refuse(header, ROPE_FACTORS, "is there, and cannot be applied")
        # Both lists alike: the frequencies are divided by them at every length, which is what the file means.
        listed = [float(one) for one in factors]
        config.rope_parameters = {
            **config.rope_parameters, "rope_type": "longrope", "short_factor": listed, "long_factor": listed,
            "attention_factor": 1.0, "factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }  # fmt: skip


def head_dim(config: Any) -> int | None:
    """Width of a head, stated or width over heads."""
    heads, width = _get(config, "num_attention_heads"), _get(config, "hidden_size")
    return _get(config, "head_dim") or (width // heads if heads and width else None)


def _rope(config: Any) -> dict[str, Any] | None:
    """Rope parameters: those of full attention where kinds of layers have their own."""
    found = _get(config, "rope_parameters")
    if isinstance(found, dict) and isinstance(found.get("full_attention"), dict):
        return found["full_attention"]
    return found if isinstance(found, dict) else None


def _get(config: Any, name: str) -> Any:
    return getattr(config, name, None)


def _neutral(key: str, value: Any) -> bool:
    return any(_equal(one, value) for one in _NEUTRAL.get(key, ()))


def _equal(ours: Any, theirs: Any) -> bool:
    """Equal as numbers of the file's float32 are."""
    numbers = isinstance(ours, (int, float)) and isinstance(theirs, (int, float))
    if numbers and not isinstance(ours, bool) and not isinstance(theirs, bool):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    return bool(type(ours) is type(theirs) and ours == theirs)


def _refuse(header: GgufHeader, key: str, why: str) -> NoReturn:
    full = key if key == ROPE_FACTORS else f"{header.architecture}.{key}"
    raise UnsupportedModelError(
        f"{str(header.file)!r}: {shown(full)[1:-1]} {why}; the checkpoint that the file was made from works"
    )
