"""What a model has learned: held-out exact match and answer loss, task by task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from model import Llama
from scipy.stats import binomtest
from torch.nn import functional as F

from depthsig.prompts.primitives import TASKS, Item, items


@dataclass(frozen=True)
class Score:
    """One task's held-out scores.

    Attributes:
        accuracy, low, high: greedy exact match with its 95 % Wilson interval.
        nll: mean loss of the answer's tokens, in nats.
        unigram: loss of knowing only how often each byte occurs in the task's answers.
        guess: accuracy of guessing among the plausible answers; None where they are long.
    """

    task: str
    accuracy: float
    low: float
    high: float
    nll: float
    unigram: float
    guess: float | None


def evaluate(model: Llama, n: int = 200, seed: int = 10_000) -> list[Score]:
    """Scores on ``n`` held-out items of every built-in task."""
    return [_evaluate_task(model, task, list(islice(items(task, seed), n))) for task in TASKS]


def _evaluate_task(model: Llama, task: str, asked: list[Item]) -> Score:
    results = [_answer(model, item) for item in asked]
    right, n = sum(r for r, _ in results), len(asked)
    interval = binomtest(right, n).proportion_ci(method="wilson")
    chances = [item.guess for item in asked if item.guess is not None]
    return Score(
        task, right / n, interval.low, interval.high, float(np.mean([loss for _, loss in results])),
        unigram_entropy([item.pairs[-1][1] for item in asked]), float(np.mean(chances)) if chances else None,
    )  # fmt: skip


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


def unigram_entropy(answers: list[str]) -> float:
    """Entropy in nats of the bytes of ``answers``.

    >>> round(unigram_entropy(["a", "b"]), 4) == round(math.log(2), 4)
    True
    """
    counts = np.bincount(np.frombuffer("".join(answers).encode(), dtype=np.uint8))
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    head = "| task | accuracy | guessing | nats | unigram nats |\n|---|---|---|---|---|"
    return "\n".join([head, *map(_line, scores)])


def _line(s: Score) -> str:
    guess = "-" if s.guess is None else f"{s.guess:.2f}"
    interval = f"{s.accuracy:.2f} [{s.low:.2f}, {s.high:.2f}]"
    return f"| {s.task} | {interval} | {guess} | {s.nll:.2f} | {s.unigram:.2f} |"


def perplexity(answer_losses: list[float]) -> tuple[float, float]:
    """Mean loss in nats, and its exponential."""
    mean = sum(answer_losses) / max(1, len(answer_losses))
    return mean, math.exp(mean)
