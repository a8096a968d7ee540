"""Tiny random models of many families, made so that errors show.

Norm weights and biases are random, matrices are large enough for attention and MLP to matter, and
soft-caps and multipliers bite. ``PLACES`` is written from each family's modelling code: where the
parts are, what comes after the head. The product finds these on its own; the oracle is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

VOCAB = 272


@dataclass(frozen=True)
class Places:
    """Where things are, as paths; ``attn`` and ``mlp`` inside a layer."""

    layers: str
    norm: str | None
    attn: str | None = None
    mlp: str | None = None
    parallel: bool = False
    scale: float = 1.0
    after: Callable[[Tensor], Tensor] = lambda logits: logits


def _common(**extra: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, **extra,
    }  # fmt: skip


KV = {"num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}
FALCON = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
LLAMA = Places("model.layers", "model.norm", "self_attn", "mlp")
POST = Places("model.layers", "model.norm", "post_attention_layernorm", "post_feedforward_layernorm")


def _parallel(places: Places) -> Places:
    return Places(places.layers, places.norm, places.attn, places.mlp, parallel=True)


FAMILIES: dict[str, tuple[Callable[[], Any], Places]] = {
    "gpt2": (
        lambda: hf.GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2),
        Places("transformer.h", "transformer.ln_f", "attn", "mlp"),
    ),
    "gpt_neo": (
        lambda: hf.GPTNeoConfig(
            vocab_size=VOCAB, hidden_size=32, num_layers=4, num_heads=4, window_size=4, max_position_embeddings=128,
            attention_types=[[["global", "local"], 2]], bos_token_id=1, eos_token_id=2,
        ),
        Places("transformer.h", "transformer.ln_f", "attn", "mlp"),
    ),
    "gptj": (
        lambda: hf.GPTJConfig(**GPT2, rotary_dim=4, bos_token_id=1, eos_token_id=2),
        Places("transformer.h", "transformer.ln_f", "attn", "mlp", parallel=True),
    ),
    "neox_parallel": (
        lambda: hf.GPTNeoXConfig(**_common(use_parallel_residual=True)),
        Places("gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "mlp", parallel=True),
    ),
    "neox_sequential": (
        lambda: hf.GPTNeoXConfig(**_common(use_parallel_residual=False)),
        Places("gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "mlp"),
    ),
    "llama": (lambda: hf.LlamaConfig(**_common(), **KV), LLAMA),
    "llama_tied": (lambda: hf.LlamaConfig(**_common(tie_word_embeddings=True), **KV), LLAMA),
    "mistral": (lambda: hf.MistralConfig(**_common(sliding_window=5), **KV), LLAMA),
    "qwen2": (lambda: hf.Qwen2Config(**_common(), **KV), LLAMA),
    "qwen3": (lambda: hf.Qwen3Config(**_common(head_dim=8), **KV), LLAMA),
    "gemma": (lambda: hf.GemmaConfig(**_common(head_dim=8), **KV), LLAMA),
    "gemma2": (
        lambda: hf.Gemma2Config(
            **_common(head_dim=8, final_logit_softcapping=1.0, attn_logit_softcapping=2.0, sliding_window=5), **KV
        ),
        Places(POST.layers, POST.norm, POST.attn, POST.mlp, after=lambda x: torch.tanh(x)),
    ),
    "gemma3": (lambda: hf.Gemma3TextConfig(**_common(head_dim=8, sliding_window=5), **KV), POST),
    "olmo2": (lambda: hf.Olmo2Config(**_common(), **KV), POST),
    "phi": (
        lambda: hf.PhiConfig(**_common()),
        Places("model.layers", "model.final_layernorm", "self_attn", "mlp", parallel=True),
    ),
    "phi3": (lambda: hf.Phi3Config(**_common(), **KV), LLAMA),
    "falcon_new": (
        lambda: hf.FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=True),
        Places("transformer.h", "transformer.ln_f", "self_attention", "mlp", parallel=True),
    ),
    "falcon_multi_query": (
        lambda: hf.FalconConfig(**FALCON, multi_query=True, parallel_attn=True),
        Places("transformer.h", "transformer.ln_f", "self_attention", "mlp", parallel=True),
    ),
    "falcon_alibi": (
        lambda: hf.FalconConfig(**FALCON, alibi=True, parallel_attn=False, multi_query=False),
        Places("transformer.h", "transformer.ln_f", "self_attention", "mlp"),
    ),
    "granite": (
        lambda: hf.GraniteConfig(
            **_common(residual_multiplier=0.4, logits_scaling=3.0, embedding_multiplier=2.5, attention_multiplier=0.5),
            **KV,
        ),
        Places(LLAMA.layers, LLAMA.norm, LLAMA.attn, LLAMA.mlp, scale=0.4, after=lambda x: x / 3.0),
    ),
    "cohere": (
        lambda: hf.CohereConfig(**_common(logit_scale=3.0), **KV),
        Places(LLAMA.layers, LLAMA.norm, LLAMA.attn, LLAMA.mlp, parallel=True, after=lambda x: x * 3.0),
    ),
    "cohere2": (
        lambda: hf.Cohere2Config(**_common(logit_scale=3.0, sliding_window=5), **KV),
        Places(LLAMA.layers, LLAMA.norm, LLAMA.attn, LLAMA.mlp, parallel=True, after=lambda x: x * 3.0),
    ),
    "mixtral": (lambda: hf.MixtralConfig(**_common(num_local_experts=4, num_experts_per_tok=2), **KV), LLAMA),
    "opt": (
        lambda: hf.OPTConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, ffn_dim=64,
            word_embed_proj_dim=32, max_position_embeddings=128,
        ),
        Places("model.decoder.layers", "model.decoder.final_layer_norm", "self_attn", "fc2"),
    ),
    "opt_350m": (  # norms sit on the residual stream, so the parts do not add up to the update
        lambda: hf.OPTConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, ffn_dim=64,
            word_embed_proj_dim=16, do_layer_norm_before=False, max_position_embeddings=128,
        ),
        Places("model.decoder.layers", "model.decoder.project_out"),
    ),
    "bloom": (
        lambda: hf.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=4, n_head=4),
        Places("transformer.h", "transformer.ln_f", "self_attention.dense", "mlp.dense_4h_to_h"),
    ),
    "mpt": (
        lambda: hf.MptConfig(vocab_size=VOCAB, d_model=32, n_layers=4, n_heads=4, max_seq_len=128),
        Places("transformer.blocks", "transformer.norm_f", "attn", "ffn.down_proj"),
    ),
    "mamba2": (
        lambda: hf.Mamba2Config(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=4, state_size=8, num_heads=8, head_dim=8, expand=2,
            n_groups=1, chunk_size=8, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        Places("backbone.layers", "backbone.norm_f"),
    ),
}  # fmt: skip


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model of the family, in evaluation mode."""
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[name][0]()).eval()
    return disturb(model, seed).to(dtype)


def disturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random norm weights and biases, and matrices that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("A_log", "dt_bias", ".D")):
                continue
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
            else:
                p.mul_(4.0)
    return model


def places(name: str) -> Places:
    """Where the family keeps things."""
    return FAMILIES[name][1]


def byte_tokenizer(*, bos: bool = False, left: bool = False, pad: bool = False) -> hf.PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 words and two special ones, in memory."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i + 2 for i, c in enumerate(alphabet)} | {"<s>": 0, "<p>": 1}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<p>" if pad else None,
        padding_side="left" if left else "right",
    )  # fmt: skip


class LoopedLlama(hf.LlamaForCausalLM):
    """A Llama whose layers 1 and 2 run three times: 0 | 1 2 1 2 1 2 | 3."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        a, b, c, d = self.model.layers
        self.model.layers = nn.ModuleList([a, b, c, b, c, b, c, d])
        self.model.config.num_hidden_layers = 8


def looped_model(seed: int = 0) -> nn.Module:
    """A model that runs modules more than once in one forward."""
    torch.manual_seed(seed)
    return disturb(LoopedLlama(hf.LlamaConfig(**_common(), **KV)).eval(), seed)


PROMPTS = [
    "The quick brown fox jumps over the lazy dog.",
    "ab",
    "Depth is what a model makes of it; loops, blocks, and growth.",
    "café ☕ and naïve text",
    "12+34=46;",
    "a4;b7;x2;>b7 and once more: k1;k2;k3;>k2",
]
