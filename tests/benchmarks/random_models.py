"""Models with random weights in the shapes of known ones: what a weight is costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models
from torch import Tensor, nn

SHAPES: dict[str, Callable[[], Any]] = {
    "SmolLM2": lambda: hf.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    "Llama-3.2-1B": lambda: hf.LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    "Qwen3-8B": lambda: hf.Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=8192, tie_word_embeddings=False,
    ),
}  # fmt: skip
"""The configs of SmolLM2-135M, Llama-3.2-1B and Qwen3-8B, as far as they matter for time."""

SMALL = {
    "vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def random_model(shape: str, dtype: torch.dtype, device: torch.device, *, small: bool = False) -> nn.Module:
    """A causal language model of a shape, on its device; with ``small`` one of that family for tests."""
    config = SHAPES[shape]()
    if small:
        config = type(config)(**SMALL, tie_word_embeddings=config.tie_word_embeddings)
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    torch.manual_seed(0)
    with device:
        return hf.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def bytes_of(shape: str, dtype: torch.dtype) -> int:
    """Bytes of a shape's weights."""
    with torch.device("meta"):
        module = hf.AutoModelForCausalLM.from_config(SHAPES[shape](), dtype=dtype)
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def random_ids(prompts: int, tokens: int, vocab: int, device: torch.device) -> Tensor:
    """Prompts of random token ids ``[prompt, token]``: what a token says costs nothing."""
    generator = torch.Generator().manual_seed(prompts * tokens)
    return torch.randint(5, vocab, (prompts, tokens), generator=generator).to(device)


def number_tokenizer(vocab: int) -> hf.PreTrainedTokenizerFast:
    """A tokenizer of numbers, for libraries that ask for one before they take token ids."""
    words = {str(i): i for i in range(vocab)}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), unk_token="0", eos_token="1"
    )
