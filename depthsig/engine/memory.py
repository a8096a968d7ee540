"""How many tokens go through something at once, and how the memory budget is divided."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthsig.errors import InputError, shown, written

if TYPE_CHECKING:
    import torch

    from depthsig.engine.network import Network

EDITED_TOKENS = 512
"""Tokens of a batch whose edited runs' logits are all kept."""


@dataclass(frozen=True)
class Sizes:
    """How much goes through something at once on a kind of device.

    Attributes:
        step_tokens: through a step: enough for the matmuls' full speed; on a CPU, few enough for its cache.
        forward_tokens: through a whole forward of the model, whose rows go through every step together.
        readout_rows: rows of logits; on a CPU 256 rows of 50,000 words are 50 MB a buffer.
        chunk_bytes: of the states of all depths of some tokens; on a CPU they stay in cache.
        whole_blocks: whether rows of logits are compared all at once, in the dtype that the head gives
            (:mod:`depthsig.measure.blocks`), or a few dozen at a time in float32.
    """

    step_tokens: int
    forward_tokens: int
    readout_rows: int
    chunk_bytes: int
    whole_blocks: bool


CPU = Sizes(1024, 2048, 256, 24 << 20, whole_blocks=False)
GPU = Sizes(16384, 16384, 4096, 256 << 20, whole_blocks=True)


def sizes(device: torch.device) -> Sizes:
    """What suits a device."""
    return CPU if device.type == "cpu" else GPU


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
    tokens = max(1, min(_suited(network, 2), quarter // per_token))
    return Budget(tokens, quarter, readout_rows(network, memory))


def _suited(network: Network, parts: int = 1) -> int:
    """Tokens of a batch that are fast on the device; where layers are read from files, as many as there is memory for.

    A pass reads every layer, however few tokens it is for.
    """
    return MOST_MEMORY if network.is_streamed else sizes(network.device).step_tokens // parts


def forward_tokens(network: Network, memory: int) -> int:
    """Tokens that go through a whole forward together; as many as there is memory for where each reads all layers."""
    if not network.is_streamed:
        return sizes(network.device).forward_tokens
    # Some sixteen states of a token are there within a layer: queries, keys, values and what an MLP makes of it.
    return max(1, memory // (16 * network.trace.width * network.dtype.itemsize))


def readout_rows(network: Network, memory: int) -> int:
    """Rows read out at a time: clean and edited logits, and what is made of them, must fit a quarter of the memory."""
    return max(8, min(sizes(network.device).readout_rows, memory // 4 // row_bytes(network)))


def row_bytes(network: Network) -> int:
    """Bytes of a row that is read out, with what it is compared with."""
    # In float32 both, with probabilities and as much again while they are made; else both, as the head makes them.
    word = 4 * network.dtype.itemsize if sizes(network.device).whole_blocks else 6 * 4
    return word * max(1, network.readout.vocab)


def clean_tokens(network: Network, memory: int) -> int:
    """Tokens of a batch of clean runs: states and parts of every step must fit a quarter of the memory."""
    width = network.trace.width * (4 * len(network.plan) + 8)
    return max(1, min(_suited(network), memory // 4 // (width * network.dtype.itemsize)))
