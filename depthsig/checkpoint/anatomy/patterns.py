"""Patterns over layers that a config itself describes: alternating attention, experts every n layers.

They give a model a depth-wise period of their own, which a block period must not be mistaken for.
"""

from __future__ import annotations

from typing import Any

_EVERY = {
    "decoder_sparse_step": "experts", "interleave_moe_layer_step": "experts", "moe_layer_freq": "experts",
    "moe_layer_interval": "experts", "expert_layer_period": "experts", "attn_layer_period": "attention",
    "sliding_window_pattern": "full attention", "global_attn_every_n_layers": "global attention",
    "full_attention_interval": "full attention", "no_rope_layer_interval": "no rotary positions",
    "cross_attention_interval": "cross-attention",
}  # fmt: skip
"""Config fields that say "every n layers", and what comes then."""


def layer_patterns(config: Any, layers: int) -> list[dict[str, Any]]:
    """Fields of a config that differ from layer to layer: ``{"name", "values"}``, one value a layer.

    Lists (and strings, one letter a layer) with an entry for every layer are taken as they are;
    "every n layers" fields are spelt out, counting as these architectures do: layer i is meant
    where (i + 1) mod n = 0, shifted by a field for the offset where there is one.

    >>> from types import SimpleNamespace
    >>> found = layer_patterns(SimpleNamespace(decoder_sparse_step=2, layer_types=["a", "b", "a", "b"]), 4)
    >>> [(p["name"], p["values"]) for p in found]
    [('layer_types', ['a', 'b', 'a', 'b']), ('decoder_sparse_step', ['', 'experts', '', 'experts'])]
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    entries = {} if text is None else {k: v for k, v in vars(text).items() if not k.startswith("_")}
    found = []
    for name, value in entries.items():
        if isinstance(value, (list, tuple, str)) and len(value) == layers > 1 and "token" not in name:
            values = [str(v) for v in value]
            if len(set(values)) > 1 and (not isinstance(value, str) or "pattern" in name):
                found.append({"name": name, "values": values})
    for name, what in _EVERY.items():
        every = entries.get(name)
        if isinstance(every, int) and not isinstance(every, bool) and 1 < every <= layers:
            offset = entries.get(name.replace("_period", "_offset"))
            first = offset if name.endswith("_period") and isinstance(offset, int) else every - 1
            found.append({"name": name, "values": [what if i % every == first else "" for i in range(layers)]})
    return found
