"""Training batches: generated primitives in a staged, blended curriculum, with some real text.

A batch depends on the seed and its step only, so a run that was killed goes on with the data it
would have had. Answers weigh 1, everything else 0.1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from depthsig.prompts.primitives import SEPARATOR, TASKS, TRAINING_ONLY, Item, belongs

OTHER_WEIGHT = 0.1
TEXT = "gsm8k"
EXCERPT = 96  # bytes of a piece of real text

STAGES: tuple[dict[str, float], ...] = (
    {"lookup": 0.6, "copying": 0.4},
    {
        "lookup": 0.17, "copying": 0.15, "variables0": 0.13, "variables1": 0.33, "phop1": 0.12,
        "addition1": 0.05, "word_problem": 0.05,
    },
    {
        "lookup": 0.06, "copying": 0.06, "variables0": 0.04, "variables1": 0.14, "variables2": 0.2,
        "phop1": 0.08, "phop": 0.16, "addition1": 0.03, "addition": 0.16, "word_problem": 0.04, TEXT: 0.03,
    },
)  # fmt: skip
"""Task shares of each stage: the induction circuit first, then chains of one, then everything."""


@dataclass(frozen=True)
class Curriculum:
    """Where stages begin (in tokens) and over how many tokens each is blended in.

    An abrupt switch at full rate costs more than a stage: loss 1.0 to 3.5.
    """

    starts: tuple[int, ...] = (0, 600_000, 2_000_000)
    blend: int = 500_000

    def shares(self, tokens: int) -> dict[str, float]:
        """Task probabilities after ``tokens`` tokens."""
        shares = dict(STAGES[0])
        for start, stage in zip(self.starts[1:], STAGES[1:], strict=True):
            weight = min(1.0, max(0.0, (tokens - start) / self.blend))
            names = dict.fromkeys([*shares, *stage])
            shares = {n: (1 - weight) * shares.get(n, 0.0) + weight * stage.get(n, 0.0) for n in names}
        return shares


def batch(seed: int, step: int, rows: int, context: int, shares: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [row, context + 1] and loss weights of the predicted tokens [row, context]."""
    rng = np.random.default_rng([seed, step])
    names = list(shares)
    probabilities = np.array(list(shares.values())) / sum(shares.values())
    filled = [_row(rng, names, probabilities, context + 1) for _ in range(rows)]
    return np.stack([ids for ids, _ in filled]), np.stack([weights[1:] for _, weights in filled])


def _row(
    rng: np.random.Generator, names: list[str], probabilities: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Items one after another until ``length`` tokens are full; the last one may be cut."""
    parts: list[tuple[bytes, float]] = []
    missing = length
    while missing > 0:
        item = _item(rng, names[int(rng.choice(len(names), p=probabilities))])
        parts += item
        missing -= sum(len(text) for text, _ in item)
    ids = np.frombuffer(b"".join(text for text, _ in parts), dtype=np.uint8).astype(np.int64)
    weights = np.repeat([w for _, w in parts], [len(text) for text, _ in parts]).astype(np.float32)
    return ids[:length], weights[:length]


def _item(rng: np.random.Generator, task: str) -> list[tuple[bytes, float]]:
    """One training item as (bytes, weight) pieces."""
    if task == TEXT:
        return [(_excerpt(rng), OTHER_WEIGHT)]
    make = {**TASKS, **TRAINING_ONLY}[task].make
    item: Item = make(rng)
    while not belongs(item, "train"):
        item = make(rng)
    found: list[tuple[bytes, float]] = []
    for text, answer in item.pairs:
        found += [(text.encode(), OTHER_WEIGHT), (answer.encode(), 1.0)]
    return [*found, (SEPARATOR.encode(), OTHER_WEIGHT)]


def _excerpt(rng: np.random.Generator) -> bytes:
    """Some bytes from a random place of the real text, ended like an item."""
    text = real_text()
    start = int(rng.integers(len(text) - EXCERPT))
    return text[start : start + EXCERPT] + SEPARATOR.encode()


@cache
def real_text() -> bytes:
    """Questions and worked answers of the shipped part of GSM8K's training split."""
    path = Path(__file__).with_name("gsm8k_train_subset.jsonl")
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return "\n\n".join(f"{e['question']}\n{e['answer']}" for e in entries).encode()
