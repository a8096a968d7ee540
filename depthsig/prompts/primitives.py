"""Generated reasoning primitives, each a prompt with its answer.

Copying, look-up, variable assignment of depth 0/1/2 (Saunshi et al. 2024, MIDAS), p-hop induction
(Saunshi et al. 2502.17416) and addition, in forms that a model of a few million parameters can
learn: the answer directly follows its key. Items are split into training and held-out ones by a
mixing hash of their own text, so that no item is ever on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from depthsig.prompts.prompt import Prompt

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
_NOUNS = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work number night point home water
room mother area money story fact month lot right study book eye job word business issue side kind
head house service friend father power hour game line end member law car city community name
president team minute idea body information back parent face others level office door health person
art war history party result change morning reason research girl guy moment air teacher force
education
"""
WORDS = tuple(_NOUNS.split())

Generator = Callable[[np.random.Generator], Prompt]


def held_out(item: Prompt, share: int = 16) -> bool:
    """Whether an item belongs to the held-out split: one in ``share``, by a mixing hash.

    A hash that is linear in the operands would leave out sums of one last digit only.
    """
    digest = hashlib.blake2b(item.full.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % share == 0


def generate(task: str, n: int, seed: int, split: str = "heldout") -> list[Prompt]:
    """``n`` items of a task, of the ``heldout`` or the ``train`` split.

    >>> generate("addition", 1, seed=0) == generate("addition", 1, seed=0)
    True
    """
    rng = np.random.default_rng([seed, *task.encode()])
    make = TASKS[task].make
    found: list[Prompt] = []
    while len(found) < n:
        item = make(rng)
        if held_out(item) == (split == "heldout"):
            found.append(item)
    return found


def _pick(rng: np.random.Generator, pool: Sequence[str], k: int) -> list[str]:
    return [pool[i] for i in rng.choice(len(pool), size=k, replace=False)]


def copying(rng: np.random.Generator) -> Prompt:
    """``abcdefg>def``: a random string, or real words, and its continuation from a random place."""
    if rng.random() < 0.5:
        letters = rng.integers(0, 26, size=int(rng.integers(24, 40)))
        text = "".join(LETTERS[i] for i in letters)
    else:
        text = " ".join(_pick(rng, WORDS, int(rng.integers(5, 9))))
    return Prompt(f"{text}>", text)


def lookup(rng: np.random.Generator) -> Prompt:
    """``a4k7x2...>k7``: keys with values, and the value of one of them."""
    keys = _pick(rng, LETTERS, int(rng.integers(8, 15)))
    values = [DIGITS[i] for i in rng.integers(0, 10, size=len(keys))]
    chosen = int(rng.integers(len(keys)))
    table = "".join(k + v for k, v in zip(keys, values, strict=True))
    return Prompt(f"{table}>{keys[chosen]}", values[chosen])


def variables(depth: int) -> Generator:
    """``a4;xa;yx>y4``: variables assigned through ``depth`` others, shuffled among distractors."""

    def make(rng: np.random.Generator) -> Prompt:
        chains = int(rng.integers(4, 7)) if depth else int(rng.integers(6, 11))
        names = _pick(rng, LETTERS, chains * (depth + 1))
        values = [DIGITS[i] for i in rng.choice(10, size=chains, replace=False)]
        lines: list[str] = []
        for level in range(depth + 1):
            order = rng.permutation(chains)
            for c in order:
                source = values[c] if level == 0 else names[(level - 1) * chains + c]
                lines.append(f"{names[level * chains + c]}{source};")
        chosen = int(rng.integers(chains))
        return Prompt("".join(lines) + f">{names[depth * chains + chosen]}", values[chosen])

    return make


def phop(rng: np.random.Generator, hops: int = 2, length: int = 40) -> Prompt:
    """p-hop induction: look for the last symbol's last occurrence before, step one on, repeat.

    The answer is the symbol reached after ``hops`` hops; sequences where a hop fails are redrawn.
    """
    while True:
        symbols = rng.integers(0, 6, size=length)
        at = length - 1
        for _ in range(hops):
            before = np.flatnonzero(symbols[:at] == symbols[at])
            if not len(before):
                break
            at = int(before[-1]) + 1
        else:
            text = "".join(LETTERS[i] for i in symbols)
            return Prompt(f"{text}>", LETTERS[symbols[at]])


def addition(rng: np.random.Generator) -> Prompt:
    """``12+35=47;``: worked sums, and one more to finish."""
    shown = [_sum(rng) for _ in range(int(rng.integers(3, 6)))]
    a, b = (int(x) for x in rng.integers(0, 100, size=2))
    return Prompt("".join(shown) + f"{a}+{b}=", f"{a + b}")


def _sum(rng: np.random.Generator) -> str:
    a, b = (int(x) for x in rng.integers(0, 100, size=2))
    return f"{a}+{b}={a + b};"


def word_problem(rng: np.random.Generator) -> Prompt:
    """A templated problem of one or two steps; used in training only."""
    names = ("Ann", "Ben", "Eva", "Tom", "Mia", "Leo")
    things = ("apples", "books", "coins", "stones", "cards")
    name, other = _pick(rng, list(names), 2)
    thing = things[int(rng.integers(len(things)))]
    a, b, c = (int(x) for x in rng.integers(1, 10, size=3))
    text = f"{name} has {a} {thing}. {other} gives {name} {b} more."
    total = a + b
    if rng.random() < 0.5:
        c = min(c, total)
        text += f" {name} loses {c}."
        total -= c
    return Prompt(f"{text} How many {thing} has {name}? ", f"{total}")


@dataclass(frozen=True)
class Task:
    """A generator with a line of description, and the cost of guessing.

    ``candidates`` is how many answers are plausible to somebody who cannot do the task: its
    accuracy and loss are to be held against 1/candidates and ln(candidates), not against chance
    over the whole vocabulary. None where answers are long.
    """

    make: Generator
    description: str
    candidates: int | None = None


TASKS: dict[str, Task] = {
    "copying": Task(copying, "copy a random string or real words"),
    "lookup": Task(lookup, "look a key's value up in a table", 10),
    "variables0": Task(variables(0), "value of a variable, assigned directly", 10),
    "variables1": Task(variables(1), "value of a variable, assigned through another one", 6),
    "variables2": Task(variables(2), "value of a variable, assigned through two others", 6),
    "phop": Task(phop, "p-hop induction, two hops", 6),
    "addition": Task(addition, "sums of two-digit numbers"),
}
TRAINING_ONLY: dict[str, Task] = {
    "word_problem": Task(word_problem, "templated word problems of one or two steps"),
}
