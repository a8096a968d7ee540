"""What a model has learned: held-out exact match and answer loss, task by task."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from scipy.stats import binomtest
from torch.nn import functional as F

from depthsig.prompts.primitives import TASKS, Item, items
from depthsig.prompts.words import LETTERS

from .corpus import batch
from .model import Llama
from .recipe import Recipe

HELD_OUT_SEED = 10_000
FRESH_SEED = 20_000


@dataclass(frozen=True)
class Score:
    """One task's held-out scores.

    Attributes:
        items: how many were asked.
        accuracy, low, high: greedy exact match with its 95 % Wilson interval.
        guess: accuracy of guessing among the plausible answers (:func:`plausible`).
        nats: mean loss of the answer's tokens.
        guess_nats: loss of spreading belief evenly over the plausible answers, for answers of one
            token; None where they are longer or not equally likely.
        unigram_nats: loss of knowing only how often each byte occurs in the task's answers.
    """

    task: str
    items: int
    accuracy: float
    low: float
    high: float
    guess: float
    nats: float
    guess_nats: float | None
    unigram_nats: float

    @property
    def learned(self) -> bool:
        """Surely better than guessing, at half a unigram model's loss or less."""
        return self.low > self.guess and self.nats <= self.unigram_nats / 2


def evaluate(model: Llama, n: int = 200, seed: int = HELD_OUT_SEED) -> list[Score]:
    """Scores on ``n`` held-out items of every built-in task."""
    return [_evaluate_task(model, task, list(islice(items(task, seed), n))) for task in TASKS]


def _evaluate_task(model: Llama, task: str, asked: list[Item]) -> Score:
    results = [_answer(model, item) for item in asked]
    right, n = sum(r for r, _ in results), len(asked)
    interval = binomtest(right, n).proportion_ci(method="wilson")
    chances = [plausible(task, item) for item in asked]
    even = all(item.guess for item in asked)
    return Score(
        task, n, right / n, float(interval.low), float(interval.high), float(np.mean(chances)),
        float(np.mean([loss for _, loss in results])), float(-np.mean(np.log(chances))) if even else None,
        unigram_entropy([item.pairs[-1][1] for item in asked]),
    )  # fmt: skip


def plausible(task: str, item: Item) -> float:
    """How often somebody who cannot do the task is right who guesses among the plausible answers.

    Where an item does not say so itself, its answer is long, and the guesser is granted all of it but one
    character. In a sum that leaves at best one chance in ten, whichever digit is missing; in a random
    string one in 26; and a letter missing from real words is taken to be always found.
    """
    if item.guess is not None:
        return item.guess
    if task == "addition":
        return 1 / 10
    return 1.0 if " " in item.pairs[-1][1] else 1 / len(LETTERS)


@torch.no_grad()
def _answer(model: Llama, item: Item) -> tuple[bool, float]:
    """Whether greedy decoding gives the answer, and the answer's mean loss in nats.

    Greedy decoding gives it exactly if each of its tokens is the most probable one after the ones
    before it, so one forward over text and answer tells.
    """
    text, answer = item.prompt.text.encode(), item.pairs[-1][1].encode()
    ids = torch.tensor([list(text + answer)])[:, : model.shape.context]
    logits = model(ids[:, :-1]).float()[0, len(text) - 1 :]
    target = ids[0, len(text) :]
    return bool((logits.argmax(-1) == target).all()), F.cross_entropy(logits, target).item()


@torch.no_grad()
def mixture_loss(model: Llama, recipe: Recipe, seed: int = FRESH_SEED, batches: int = 32) -> tuple[float, float]:
    """Loss on fresh batches of what was trained on last: of all tokens as weighted in training, and of answers.

    The batches depend on neither the arm nor its seed, so that arms are compared on the same ones.
    """
    shares = recipe.curriculum.shares(recipe.steps * recipe.tokens_per_step)
    weighted = answers = total = count = 0.0
    for step in range(batches):
        ids, weights = (torch.from_numpy(a) for a in batch(seed, step, recipe.rows, recipe.shape.context, shares))
        logits = model(ids[:, :-1]).float()
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        flat = weights.flatten()
        weighted += float((losses * flat).sum())
        total += float(flat.sum())
        answers += float(losses[flat == 1.0].sum())
        count += float((flat == 1.0).sum())
    return weighted / total, answers / count


def unigram_entropy(answers: list[str]) -> float:
    """Entropy in nats of the bytes of ``answers``.

    >>> round(unigram_entropy(["a", "b"]), 4)
    0.6931
    """
    counts = np.bincount(np.frombuffer("".join(answers).encode(), dtype=np.uint8))
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
