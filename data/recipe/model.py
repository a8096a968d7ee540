"""The model that is trained: a small Llama, written for speed on a CPU and exported exactly.

Plain matmul-softmax attention: scaled_dot_product_attention's backward pass is 42 % of a step on
a CPU. One block is compiled once and shared by all layers.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; ``order`` is the execution order of its layers (None: one after another)."""

    vocab: int = 258
    width: int = 128
    heads: int = 4
    hidden: int = 352
    layers: int = 16
    context: int = 128
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    order: tuple[int, ...] | None = None


class Block(nn.Module):
    """One decoder layer: RMSNorm, rotary attention, RMSNorm, SwiGLU."""

    def __init__(self, shape: Shape, depth: int) -> None:
        super().__init__()
        d, h = shape.width, shape.hidden
        self.heads, self.eps = shape.heads, shape.norm_eps
        self.norm1, self.norm2 = (nn.Parameter(torch.ones(d)) for _ in range(2))
        std, out_std = 0.049, 0.049 / math.sqrt(2 * depth)
        for name, rows, cols, s in (
            ("q", d, d, std), ("k", d, d, std), ("v", d, d, std), ("o", d, d, out_std),
            ("gate", h, d, std), ("up", h, d, std), ("down", d, h, out_std),
        ):  # fmt: skip
            setattr(self, name, nn.Parameter(torch.randn(rows, cols) * s))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        b, t, d = x.shape
        y = F.rms_norm(x, (d,), self.norm1, self.eps)
        q, k, v = (F.linear(y, w).view(b, t, self.heads, -1).transpose(1, 2) for w in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1]) + mask
        y = scores.softmax(-1).to(v.dtype) @ v
        x = x + F.linear(y.transpose(1, 2).reshape(b, t, d), self.o)
        y = F.rms_norm(x, (d,), self.norm2, self.eps)
        return x + F.linear(F.silu(F.linear(y, self.gate)) * F.linear(y, self.up), self.down)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-b, a], dim=-1) * sin.to(x.dtype)


class Llama(nn.Module):
    """Token ids [row, token] to logits [row, token, vocab]; the head is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        depth = len(shape.order) if shape.order else shape.layers
        self.embed = nn.Parameter(torch.randn(shape.vocab, shape.width) * 0.049)
        self.blocks = nn.ModuleList(Block(shape, depth) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        self.compiled: dict[str, object] = {}
        size = shape.width // shape.heads
        inverse = shape.rope_theta ** (-torch.arange(0, size, 2).float() / size)
        angles = torch.arange(shape.context).float()[:, None] * inverse[None]
        angles = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        mask = torch.full((shape.context, shape.context), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = F.embedding(ids, self.embed)
        run = self.compiled.get("block", Block.forward)
        for layer in self.shape.order or range(len(self.blocks)):
            x = run(self.blocks[layer], x, self.cos[:t], self.sin[:t], self.mask[:t, :t])  # type: ignore[operator]
        return F.linear(F.rms_norm(x, (x.shape[-1],), self.norm, self.shape.norm_eps), self.embed)

    def compile_block(self) -> None:
        """Compile one block's forward; parameters are its inputs, so all layers share the code."""
        self.compiled["block"] = torch.compile(Block.forward)

    def insert_copies(self, at: int, sources: list[int]) -> None:
        """Insert deep copies of the layers ``sources`` before position ``at``."""
        blocks = list(self.blocks)
        copies = [copy.deepcopy(blocks[i]) for i in sources]
        self.blocks = nn.ModuleList([*blocks[:at], *copies, *blocks[at:]])


_NAMES = {
    "norm1": "input_layernorm.weight", "norm2": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight", "k": "self_attn.k_proj.weight", "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight", "gate": "mlp.gate_proj.weight", "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}  # fmt: skip


def hugging_face_state(model: Llama) -> dict[str, Tensor]:
    """The weights under LlamaForCausalLM's names."""
    state = {"model.embed_tokens.weight": model.embed, "model.norm.weight": model.norm}
    for i, block in enumerate(model.blocks):
        state |= {f"model.layers.{i}.{theirs}": getattr(block, ours) for ours, theirs in _NAMES.items()}
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def hugging_face_config(shape: Shape, depthsig: dict) -> dict:
    """config.json of the exported checkpoint."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.vocab,
        "hidden_size": shape.width, "intermediate_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads, "hidden_act": "silu",
        "max_position_embeddings": shape.context, "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta, "tie_word_embeddings": True, "attention_bias": False,
        "mlp_bias": False, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 257,
        "dtype": "bfloat16", "depthsig": depthsig,
    }  # fmt: skip
