"""A model whose steps from k on are one affine map of the state, so that its prefix of k steps lacks only that."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers as hf
from families import VOCAB, disturb
from torch import Tensor, nn

WIDTH, STEPS, DRIFTS_AT = 16, 4, 2


class Affine(nn.Module):
    """h ↦ A h + b, in the place of a layer."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return nn.functional.linear(hidden_states, self.weight, self.bias)


class Still(nn.Module):
    """A layer that adds nothing."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return hidden_states.clone()


def drifting(turned: float = 0.85) -> nn.Module:
    """A tiny Llama whose third layer turns every state, by an angle of that cosine, and shifts it; the fourth rests."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=STEPS, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = disturb(hf.LlamaForCausalLM(config).eval())
    draws = torch.Generator().manual_seed(1)
    half, sine = WIDTH // 2, math.sqrt(1 - turned**2)
    plane = turned * torch.eye(WIDTH)
    plane[:half, half:] -= sine * torch.eye(half)
    plane[half:, :half] += sine * torch.eye(half)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draws))[0]
    shift = 0.1 * torch.randn(WIDTH, generator=draws)
    model.model.layers[DRIFTS_AT] = Affine(basis @ plane @ basis.T, shift)
    model.model.layers[DRIFTS_AT + 1] = Still()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.randn(VOCAB, WIDTH, generator=draws))
        model.lm_head.weight.copy_(torch.randn(VOCAB, WIDTH, generator=draws) * 3 / math.sqrt(WIDTH))
    return model


def written_by(model: nn.Module, n: int, tokens: int, seed: int) -> list[list[int]]:
    """Sequences that the model itself has drawn: what it knows of them is all that there is to know."""
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (n, 1), generator=draws)
    with torch.no_grad():
        for _ in range(tokens - 1):
            p = model(ids, use_cache=False).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(p, 1, generator=draws)], dim=1)
    found: list[list[int]] = ids.tolist()
    return found
