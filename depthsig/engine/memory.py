"""How many tokens go through something at once, and how the memory budget is divided."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthsig.errors import InputError, shown, written

if TYPE_CHECKING:
    import torch

    from depthsig.engine.network import Network

CPU_BLOCK_TOKENS, GPU_BLOCK_TOKENS = 1024, 16384
"""Tokens that go through a step at once: enough for the matmuls' full speed, few enough for cache."""

CPU_FORWARD_TOKENS = 2048
"""Tokens of a whole forward of the model: all its rows go through every step together."""

EDITED_TOKENS = 512
"""Tokens of a batch whose edited runs' logits are all kept."""

READOUT_ROWS = 256
"""Rows read out at a time: enough for the head's full speed, and 50 MB a buffer of 50,000 words."""


def block_tokens(device: torch.device) -> int:
    """Tokens that go through a step at once on a device."""
    return CPU_BLOCK_TOKENS if device.type == "cpu" else GPU_BLOCK_TOKENS


def forward_tokens(device: torch.device) -> int:
    """Tokens of a whole forward on a device."""
    return CPU_FORWARD_TOKENS if device.type == "cpu" else GPU_BLOCK_TOKENS


MOST_MEMORY = 1 << 50
"""Bytes, of memory that a machine may have."""


def parse_memory(text: str | int) -> int:
    """Bytes of ``4GiB``, ``500MB`` or a plain number.

    Raises:
        InputError: for anything else, and for nothing at all.

    >>> parse_memory("1GiB")
    1073741824
    """
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    given = written(text)
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmg]?i?b?)\s*", given.lower()) if given.isascii() else None
    unit = match[2] if match else None
    if match and unit in ("k", "m", "g", "ki", "mi", "gi"):
        unit = unit + "b"
    found = int(float(match[1]) * units[unit]) if match and unit in units else 0
    if not 1 <= found <= MOST_MEMORY:
        raise InputError(f"--memory {shown(text)} is no amount of memory; write for example 4GiB or 800MB")
    return found


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


def divide(network: Network, memory: int) -> Budget:
    """Divide a budget: a quarter each for a batch's clean run, the edits' states and the readout.

    What is left over is for a step's own intermediate results.
    """
    quarter = memory // 4
    # Inputs, attention and MLP of every step, and the updates in hand.
    per_token = network.trace.width * (3 * len(network.plan) + 8) * network.dtype.itemsize
    tokens = max(1, min(block_tokens(network.device) // 2, quarter // per_token))
    # Clean and edited logits and probabilities, and as much again while they are made.
    rows = max(8, min(READOUT_ROWS, quarter // (6 * 4 * max(1, network.readout.vocab))))
    return Budget(tokens, quarter, rows)


def clean_tokens(network: Network, memory: int) -> int:
    """Tokens of a batch of clean runs: states and parts of every step must fit a quarter of the memory."""
    width = network.trace.width * (4 * len(network.plan) + 8)
    return max(1, min(block_tokens(network.device), memory // 4 // (width * network.dtype.itemsize)))
