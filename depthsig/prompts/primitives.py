"""Generated reasoning primitives, each a prompt with its answer.

Copying, look-up, variable assignment of depth 0/1/2 (Saunshi et al. 2024, MIDAS), p-hop induction
(Saunshi et al. 2502.17416) and addition, in forms that a model of a few million parameters can
learn: the answer directly follows its key. Most prompts ask several questions and show all answers
but the last. Items are split into training and held-out ones by a mixing hash, so that nothing
asked for in a held-out prompt was ever an answer in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from depthsig.errors import InputError
from depthsig.prompts.prompt import Prompt
from depthsig.prompts.words import LETTERS, NAMES, THINGS, WORDS

SEPARATOR = "\n"
"""What ends an item where others follow, as in training."""
HELD_OUT_SHARE = 16
"""One item in this many is held out."""


@dataclass(frozen=True)
class Item:
    """A generated item.

    Attributes:
        pairs: (text, answer) pairs, in order; the last answer is the one that is asked for.
        keys: what must not be on both sides of the split, the asked one last: the whole text for
            random tables and strings, the two operands for a sum.
        guess: how often somebody who cannot do the task is right who guesses among the plausible
            answers, None where answers are long. Accuracy is to be held against this, not against
            chance over the whole alphabet.
    """

    pairs: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    guess: float | None = None

    @property
    def prompt(self) -> Prompt:
        """Everything up to the last answer, and that answer."""
        shown = "".join(text + answer for text, answer in self.pairs[:-1])
        text, answer = self.pairs[-1]
        return Prompt(shown + text, answer)


Generator = Callable[[np.random.Generator], Item]


def held_out(key: str, share: int = HELD_OUT_SHARE) -> bool:
    """Whether a key belongs to the held-out split: one in ``share``, by a mixing hash.

    A hash that is linear in the operands would leave out sums of one last digit only.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % share == 0


def belongs(item: Item, split: str) -> bool:
    """Whether an item may be used in a split; one of mixed keys can be of neither.

    Training items hold no held-out key at all; in held-out ones the asked key is held out.
    """
    if split == "train":
        return not any(held_out(key) for key in item.keys)
    return held_out(item.keys[-1])


def items(task: str, seed: int, split: str = "heldout") -> Iterator[Item]:
    """An endless stream of a task's items, of the ``heldout`` or the ``train`` split.

    Raises:
        InputError: for an unknown task or split.

    >>> next(items("addition", seed=0)) == next(items("addition", seed=0))
    True
    """
    every = {**TASKS, **TRAINING_ONLY}
    if task not in every:
        raise InputError(f"no generator is called {task!r}; there are {', '.join(every)}")
    if split not in ("train", "heldout"):
        raise InputError(f"split is {split!r}; it is 'train' or 'heldout'")
    rng = np.random.default_rng([seed, *task.encode()])
    while True:
        item = every[task].make(rng)
        if belongs(item, split):
            yield item


def generate(task: str, n: int, seed: int, split: str = "heldout") -> list[Prompt]:
    """``n`` prompts of a task; the first ones are the same for every ``n``.

    Raises:
        InputError: for an unknown task or split.

    >>> generate("addition", 1, seed=0) == generate("addition", 2, seed=0)[:1]
    True
    """
    stream = items(task, seed, split)
    return [next(stream).prompt for _ in range(n)]


def copying(rng: np.random.Generator) -> Item:
    """``abcdefg>abcdefg``: a random string, or real words, and the same again."""
    if rng.random() < 0.5:
        text = "".join(LETTERS[i] for i in rng.integers(0, 26, size=int(rng.integers(16, 33))))
    else:
        text = " ".join(_pick(rng, WORDS, int(rng.integers(3, 7))))
    return Item(((f"{text}>", text),), (text,))


def lookup(rng: np.random.Generator) -> Item:
    """``a4k7x2>k7>a4``: keys with values, and the values of one to four of them."""
    keys = _pick(rng, LETTERS, int(rng.integers(8, 17)))
    values = [str(i) for i in rng.integers(0, 10, size=len(keys))]
    table = "".join(k + v for k, v in zip(keys, values, strict=True))
    asked = rng.choice(len(keys), size=int(rng.integers(1, 5)), replace=False)
    return _questions(table, [(keys[i], values[i]) for i in asked], guess=1 / len(set(values)))


def variables(depth: int, fewest: int, most: int) -> Generator:
    """``a4;b7;xa;yb>x4``: variables assigned through ``depth`` others, among distractors.

    Args:
        depth: steps from the asked variable to the one that holds a digit.
        fewest, most: how many chains there are, and so how many digits to choose from.
    """

    def make(rng: np.random.Generator) -> Item:
        chains = int(rng.integers(fewest, most + 1))
        # names[level][chain] is assigned to names[level - 1][chain], and at level 0 to a digit.
        letters = _pick(rng, LETTERS, chains * (depth + 1))
        names = [letters[d * chains : (d + 1) * chains] for d in range(depth + 1)]
        digits = [str(i) for i in rng.choice(10, size=chains, replace=False)]
        sources = [digits, *names]
        lines = [names[d][c] + sources[d][c] for d in range(depth + 1) for c in rng.permutation(chains)]
        asked = rng.choice(chains, size=int(rng.integers(1, max(1, chains // 2) + 1)), replace=False)
        # A chain that was asked for is out, so fewer digits are left for the last one.
        guess = 1 / (chains - len(asked) + 1)
        return _questions(";".join(lines), [(names[-1][c], digits[c]) for c in asked], guess=guess)

    return make


def phop(hops: int, symbols: int = 6, length: int = 40) -> Generator:
    """``...cab...c>a``, p-hop induction: find the last symbol's previous occurrence, step one on, repeat.

    There are as many ``>`` as hops. Paths are redrawn where a hop fails or a symbol comes twice: in
    plain random strings the answer to two hops is the last symbol itself 46 % of the time, and that is
    learned instead of hopping.
    """

    def make(rng: np.random.Generator) -> Item:
        while True:
            drawn = rng.integers(0, symbols, size=length)
            path = hop_path(drawn, hops)
            if len(set(path)) == hops + 1:
                text = "".join(LETTERS[i] for i in drawn)
                return Item(((text + ">" * hops, LETTERS[path[-1]]),), (text,), _vote(drawn, path))

    return make


def hop_path(symbols: np.ndarray, hops: int) -> list[int]:
    """The last symbol and those that each hop leads to; it ends early where a hop fails.

    >>> hop_path(np.array([0, 1, 2, 0]), 1)  # 0 occurred before, and 1 followed it
    [0, 1]
    """
    at = len(symbols) - 1
    path = [int(symbols[at])]
    for _ in range(hops):
        before = np.flatnonzero(symbols[:at] == symbols[at])
        if not len(before):
            break
        at = int(before[-1]) + 1
        path.append(int(symbols[at]))
    return path


def _vote(symbols: np.ndarray, path: list[int]) -> float:
    """Chance of being right with all hops done but the last, and the most frequent follower taken."""
    followers = symbols[1:][symbols[:-1] == path[-2]]
    counts = np.bincount(followers, minlength=int(symbols.max()) + 1)
    counts[path[:-1]] = 0  # the way here is known not to lead to itself
    best = counts == counts.max()
    return float(best[path[-1]] / best.sum())


def addition(below: int) -> Generator:
    """``12+35=47;8+64=72``: worked sums of numbers under ``below``, and one more to finish."""

    def make(rng: np.random.Generator) -> Item:
        operands = [tuple(sorted(rng.integers(0, below, size=2).tolist())) for _ in range(int(rng.integers(3, 6)))]
        flipped = [(a, b) if rng.random() < 0.5 else (b, a) for a, b in operands]
        pairs = [(f"{';' if i else ''}{a}+{b}=", str(a + b)) for i, (a, b) in enumerate(flipped)]
        return Item(tuple(pairs), tuple(f"{a}+{b}" for a, b in operands))

    return make


def word_problem(rng: np.random.Generator) -> Item:
    """A templated problem of one or two steps; used in training only."""
    name, other = _pick(rng, NAMES, 2)
    thing = THINGS[int(rng.integers(len(THINGS)))]
    a, b, c = (int(x) for x in rng.integers(1, 10, size=3))
    text, total = f"{name} has {a} {thing}. {other} gives {name} {b} more.", a + b
    if rng.random() < 0.5:
        c = min(c, total)
        text, total = f"{text} {name} loses {c}.", total - c
    return Item(((f"{text} How many {thing} has {name}? ", str(total)),), (text,))


def _pick(rng: np.random.Generator, pool: Sequence[str], k: int) -> list[str]:
    return [pool[i] for i in rng.choice(len(pool), size=k, replace=False)]


def _questions(table: str, asked: list[tuple[str, str]], guess: float) -> Item:
    pairs = [(f"{table if i == 0 else ''}>{key}", value) for i, (key, value) in enumerate(asked)]
    return Item(tuple(pairs), (table,), guess)


@dataclass(frozen=True)
class Task:
    """A generator with a line of description."""

    make: Generator
    description: str


TASKS: dict[str, Task] = {
    "copying": Task(copying, "copy a random string or real words"),
    "lookup": Task(lookup, "look a key's value up in a table"),
    "variables0": Task(variables(0, 4, 10), "value of a variable, assigned directly"),
    "variables1": Task(variables(1, 2, 5), "value of a variable, assigned through another one"),
    "variables2": Task(variables(2, 2, 4), "value of a variable, assigned through two others"),
    "phop": Task(phop(2), "p-hop induction, two hops"),
    "addition": Task(addition(100), "sums of numbers of up to two digits"),
}
"""The generated built-in prompts."""
TRAINING_ONLY: dict[str, Task] = {
    "phop1": Task(phop(1), "p-hop induction, one hop"),
    "addition1": Task(addition(10), "sums of one-digit numbers"),
    "word_problem": Task(word_problem, "templated word problems of one or two steps"),
}
"""Generators that only help to train."""
