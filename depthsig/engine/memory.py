"""How the memory budget is divided."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthsig.errors import InputError

if TYPE_CHECKING:
    from depthsig.engine.model import Model


def parse_memory(text: str | int) -> int:
    """Bytes of ``4GiB``, ``500MB`` or a plain number.

    >>> parse_memory("1GiB")
    1073741824
    """
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", str(text).lower())
    unit = match[2] if match else None
    if match and unit in ("k", "m", "g", "ki", "mi", "gi"):
        unit = unit + "b"
    if not match or unit not in units or float(match[1]) <= 0:
        raise InputError(f"--memory {text!r} is no amount of memory; write for example 4GiB or 800MB")
    return int(float(match[1]) * units[unit])


@dataclass(frozen=True)
class Budget:
    """What each piece of an edited run may take, in bytes or rows.

    Attributes:
        batch_tokens: padded tokens of a batch of prompts, whose clean run is kept.
        states: bytes of the states of the edits on their way.
        rows: rows read out at a time.
    """

    batch_tokens: int
    states: int
    rows: int


def divide(model: Model, memory: int) -> Budget:
    """Divide a budget: a quarter each for a batch's clean run, the edits' states and the readout.

    What is left over is for a step's own intermediate results.
    """
    import torch

    from depthsig.engine.run import CPU_BLOCK_TOKENS, GPU_BLOCK_TOKENS

    quarter = memory // 4
    half = model.dtype in (torch.bfloat16, torch.float16)
    size = 2 if half else 4
    # Inputs, attention and MLP of every step, and the updates in hand.
    per_token = model.trace.width * (3 * len(model.plan) + 8) * size
    block = CPU_BLOCK_TOKENS if model.device.type == "cpu" else GPU_BLOCK_TOKENS
    tokens = max(1, min(block // 2, quarter // per_token))
    # Clean and edited logits and probabilities, and as much again while they are made.
    rows = max(8, min(256, quarter // (6 * 4 * max(1, model.readout.vocab))))
    return Budget(tokens, quarter, rows)
