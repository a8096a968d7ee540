"""What an analysis of a model would take that is not here: bytes, memory, FLOPs and hours, from its config alone.

``python tests/benchmarks/on_paper.py [CONFIG.json]``; without a file, of Llama-3-70B's shape. The model is built
without weights; depthsig's own counts of parameters and its own division of memory are used, and rates that are stated.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from depthsig.checkpoint.anatomy.components import module_lists
from depthsig.checkpoint.costs.counted import Costs, count_costs
from depthsig.checkpoint.hooks import resolve
from depthsig.engine.memory import clean_tokens, divide

LLAMA_3_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What is assumed of it.

    Attributes:
        memory: ``--memory`` of each card, in bytes.
        rate: FLOPs a second that a card reaches in bfloat16.
        reading: bytes a second that reach a card.
    """

    cards: int = 8
    memory: int = 48 << 30
    rate: float = 4e14
    reading: float = 3e9


@dataclass(frozen=True)
class Paper:
    """A card's share of an analysis of lens and skip.

    Attributes:
        once: bytes that stay on the card. layer: of one. passes: over all layers.
        flops: of a card.
    """

    costs: Costs
    once: int
    layer: int
    layers: int
    batch: int
    passes: int
    flops: float
    machine: Machine

    @property
    def read(self) -> int:
        """Bytes that a card reads."""
        return self.once + self.passes * self.layer * self.layers

    @property
    def card(self) -> int:
        """Bytes that a card holds: what stays, two layers, and ``--memory``."""
        return self.once + 2 * self.layer + self.machine.memory

    def __str__(self) -> str:
        reading, computing = self.read / self.machine.reading / 3600, self.flops / self.machine.rate / 3600
        return "\n".join([
            f"{self.costs.parameters:,} parameters; a pass reads {self.layers * self.layer / 1e9:.1f} GB, once "
            f"{self.once / 1e9:.1f} GB",
            f"memory of a card: {self.once / 1e9:.1f} + 2 x {self.layer / 1e9:.2f} + {self.machine.memory / 1e9:.1f} "
            f"= {self.card / 1e9:.1f} GB",
            f"edited batches of {self.batch} tokens; {self.passes} passes a card, {self.read / 1e12:.1f} TB",
            f"FLOPs: {self.flops * self.machine.cards:.2e} in all, {self.flops:.2e} a card",
            f"hours: reading {reading:.1f}, computing {computing:.1f}; one goes on while the other does, so about "
            f"{max(reading, computing):.1f}",
        ])  # fmt: skip


def on_paper(config: dict[str, Any], prompts: int, tokens: int, machine: Machine) -> Paper:
    """An analysis of lens and skip, scope current, in bfloat16, with prompts divided among cards."""
    told = AutoConfig.for_model(**config)
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(told, dtype=torch.bfloat16)
    layers = list(resolve(module, module_lists(module)[0]))
    steps, width, words = len(layers), told.hidden_size, told.vocab_size
    calls = dict.fromkeys((name for name, _ in module.named_modules()), 1)
    costs = count_costs(module, layers, module.get_output_embeddings(), range(steps), calls, told)
    layer = sum(p.nbytes for p in layers[0].parameters())
    once = sum(p.nbytes for p in module.parameters()) - steps * layer
    network: Any = SimpleNamespace(
        trace=SimpleNamespace(width=width), plan=range(steps), dtype=torch.bfloat16, device=torch.device("cuda"),
        is_streamed=True, readout=SimpleNamespace(vocab=words),
    )  # fmt: skip
    share = -(-prompts // machine.cards)
    budget = divide(network, machine.memory)
    edited = -(-share // max(1, budget.batch_tokens // tokens))
    groups = -(-steps // max(1, budget.states // (budget.batch_tokens * width * 2)))
    clean = -(-share // max(1, clean_tokens(network, machine.memory) // tokens))
    certificates, finding = 13, 8
    assert costs.matmul_flops is not None
    assert costs.attention_flops is not None
    head = 2 * words * width
    forward = costs.matmul_flops - head + tokens * costs.attention_flops
    runs = 2 + (steps - 1) / 2  # clean twice, and every layer skipped: from the skip on
    readouts = (steps + 1) + steps + 1
    flops = share * tokens * (runs * forward + readouts * head)
    return Paper(
        costs, once, layer, steps, budget.batch_tokens, finding + certificates + clean + edited * (1 + groups), flops,
        machine,
    )  # fmt: skip


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else LLAMA_3_70B
    print(on_paper(given, 10_000, 256, Machine()))
