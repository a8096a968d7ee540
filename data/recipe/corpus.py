"""Training batches: generated primitives in a staged, blended curriculum.

A batch depends on the seed and its step only, so a run that was killed goes on with the data it
would have had. Answers weigh 1, everything else 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthsig.prompts.primitives import TASKS, TRAINING_ONLY, held_out

SEPARATOR = 10  # a line break ends every item
OTHER_WEIGHT = 0.1

STAGES: tuple[dict[str, float], ...] = (
    {"lookup": 0.6, "copying": 0.4},
    {"lookup": 0.25, "copying": 0.15, "variables0": 0.2, "variables1": 0.25, "addition": 0.05, "phop": 0.1},
    {
        "lookup": 0.14, "copying": 0.1, "variables0": 0.1, "variables1": 0.18, "variables2": 0.2,
        "phop": 0.14, "addition": 0.08, "word_problem": 0.06,
    },
)  # fmt: skip
"""Task shares of each stage: the induction circuit first, then chains of one, then everything."""


@dataclass(frozen=True)
class Curriculum:
    """Where stages begin (in tokens) and over how many tokens each is blended in.

    An abrupt switch at full rate costs more than a stage: loss 1.0 to 3.5.
    """

    starts: tuple[int, ...] = (0, 600_000, 1_600_000)
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
    ids = np.zeros((rows, context + 1), dtype=np.int64)
    weights = np.zeros((rows, context), dtype=np.float32)
    names, probabilities = list(shares), np.array(list(shares.values()))
    makers = {**TASKS, **TRAINING_ONLY}
    for row in range(rows):
        text, mask = _fill(rng, names, probabilities / probabilities.sum(), makers, context + 1)
        ids[row] = text
        weights[row] = mask[1:]
    return ids, weights


def _fill(rng, names, probabilities, makers, length):  # type: ignore[no-untyped-def]
    text = np.zeros(0, dtype=np.int64)
    mask = np.zeros(0, dtype=np.float32)
    while len(text) < length:
        item = makers[names[int(rng.choice(len(names), p=probabilities))]].make(rng)
        if held_out(item):
            continue
        body, answer = item.text.encode(), (item.answer or "").encode()
        ids = np.frombuffer(body + answer + bytes([SEPARATOR]), dtype=np.uint8).astype(np.int64)
        # The line break after an answer says where it ends, so it is learned as part of it.
        weight = np.full(len(ids), OTHER_WEIGHT, dtype=np.float32)
        weight[len(body) :] = 1.0
        text, mask = np.concatenate([text, ids]), np.concatenate([mask, weight])
    return text[:length], mask[:length]
