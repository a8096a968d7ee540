"""Small tokenizers made on the spot, for tests that need no download."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = ["the answer is 12  13 seven\n\n"] * 50


@cache
def byte_tokenizer(bos: bool = False, eos: bool = False, merges: int = 0, padding_side: str = "right"):
    """A byte-level tokenizer: one token a byte, or a few merges learned from ``CORPUS``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=258 + merges, initial_alphabet=alphabet, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    template = " ".join(filter(None, ["<s>" if bos else "", "$A", "</s>" if eos else ""]))
    added = [(s, tokenizer.token_to_id(s)) for s in specials if s in template]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=template, special_tokens=added),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", padding_side=padding_side
    )
