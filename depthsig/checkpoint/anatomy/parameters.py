"""A layer's weight matrices by the groups the field speaks of: q, k, v, o, gate, up, down.

Fused projections are split where their layout is known; what is known of it is written here, from
each family's modelling code. Norms and biases are left out; whatever is not recognised keeps its
own name, and counts in ``all``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from depthsig.checkpoint.anatomy.offloaded import stored

Pieces = dict[str, Tensor]

_ATTENTION = re.compile(r"attn|attention|mixer", re.I)
_GROUPS = {
    "q": r"(q_proj|wq|query|q_lin)",
    "k": r"(k_proj|wk|key|k_lin)",
    "v": r"(v_proj|wv|value|v_lin)",
    "gate": r"(gate_proj|w1)",
    "up": r"(up_proj|w3|fc1|c_fc|fc_in|dense_h_to_4h|linear_fc1)",
    "down": r"(down_proj|w2|fc2|fc_out|dense_4h_to_h|linear_fc2)",
    "o": r"(o_proj|wo|out_proj)",
}
_AMBIGUOUS = {"c_proj": ("o", "down"), "dense": ("o", "up")}
"""Names that attention and MLP both use: (in attention, in the MLP)."""


def weight_groups(layer: nn.Module, config: Any) -> dict[str, list[Tensor]]:
    """The weight matrices of one layer by group, in the order the module lists them.

    Experts stand in their groups one after the other, as the module keeps them.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in stored(layer):
        if parameter is None or parameter.ndim < 2 or re.search(r"norm|bias|(^|\.)ln", name, re.I):
            continue
        for group, tensor in _pieces(name, parameter, config).items():
            groups.setdefault(group, []).append(tensor)
    return groups


def _pieces(name: str, weight: Tensor, config: Any) -> Pieces:
    path = name.split(".")
    leaf = path[-2] if path[-1] == "weight" and len(path) > 1 else path[-1]
    if leaf in _FUSED:
        return _FUSED[leaf](weight, config)
    if leaf in _AMBIGUOUS:
        in_attention = any(_ATTENTION.search(piece) for piece in path[:-2])
        return {_AMBIGUOUS[leaf][0 if in_attention else 1]: weight}
    if leaf == "gate":  # a mixture's router, and no gate projection
        return {"router": weight}
    for group, pattern in _GROUPS.items():
        if re.fullmatch(pattern, leaf):
            return {group: weight}
    return {leaf: weight}


def _thirds(dim: int) -> Callable[[Tensor, Any], Pieces]:
    def split(weight: Tensor, config: Any) -> Pieces:
        return dict(zip("qkv", weight.tensor_split(3, dim=dim), strict=True))

    return split


def _by_heads(weight: Tensor, config: Any) -> Pieces:
    """NeoX, BLOOM and Falcon: rows are grouped by head (or by key-value group)."""
    heads = int(config.num_attention_heads)
    size = int(config.hidden_size) // heads
    if getattr(config, "new_decoder_architecture", False):
        groups = int(getattr(config, "num_kv_heads", heads))
        rows = weight.reshape(groups, -1, size, weight.shape[-1])
        return {"q": rows[:, :-2], "k": rows[:, -2], "v": rows[:, -1]}
    if getattr(config, "multi_query", False):
        q, k, v = weight.split([heads * size, size, size])
        return {"q": q, "k": k, "v": v}
    rows = weight.reshape(heads, 3, size, weight.shape[-1])
    return {"q": rows[:, 0], "k": rows[:, 1], "v": rows[:, 2]}


def _stacked(weight: Tensor, config: Any) -> Pieces:
    """Phi-3 and its kin: queries, then keys, then values, with fewer key-value heads."""
    heads = int(config.num_attention_heads)
    kv = int(getattr(config, "num_key_value_heads", None) or heads)
    size = weight.shape[0] // (heads + 2 * kv)
    q, k, v = weight.split([heads * size, kv * size, kv * size])
    return {"q": q, "k": k, "v": v}


def _gate_up(weight: Tensor, config: Any) -> Pieces:
    gate, up = weight.chunk(2, dim=-2)
    return {"gate": gate, "up": up}


_FUSED: dict[str, Callable[[Tensor, Any], Pieces]] = {
    "c_attn": _thirds(1),  # GPT-2: Conv1D keeps [in, out]
    "Wqkv": _thirds(0),  # MPT
    "query_key_value": _by_heads,
    "qkv_proj": _stacked,
    "gate_up_proj": _gate_up,
}
