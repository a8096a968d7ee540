"""Prompts in other words: the same task with the same solution, for claims that must survive it.

Generated primitives get other symbols: the letters (and, where they are values, the digits) that an item uses
change places among themselves, in its answer too, so that a table stays a table and a path a path, in the
symbols that a model was trained on. Words that are to be copied become other words, and sums the same sums with
some operands exchanged. Everything else gets a neutral sentence before it, and word problems other names and
things as well, consistently. White space, quotes and the like are left alone: they are no rewording.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from depthsig.arguments import check_arguments
from depthsig.errors import InputError, shown
from depthsig.prompts.prompt import Prompt
from depthsig.prompts.tokens import as_prompt
from depthsig.prompts.words import WORDS

_SYMBOLS = re.compile(r"[a-z0-9;>\n]*[a-z][a-z0-9;>\n]*>[a-z0-9;>\n]*")
"""Tables, assignments, strings to copy or to hop through: letters and digits with ``>`` among them."""
_COPIED_WORDS = re.compile(r"[a-z]+(?: [a-z]+)+>")
_SUMS = re.compile(r"(?:\d+\+\d+=\d*[;\n]?)+")
_SUM = re.compile(r"(\d+)\+(\d+)=")

_WOMENS_NAMES = """
Amanda Amy Ann Beatrice Brittany Carla Cecilia Cindy Debra Dorothy Elaine Eliza Elvira Emily Ethel Eva Gretchen
Janet Jennie Jenna Jessica Jill Judy Julia Laura Mandy Marcia Marie Marilyn Marissa Mary Melanie Mia Olivia Polly
Rachel Rosie Sally Samantha Sandra Sara Sarah Siobhan Sophia Suzy Sylvie Wendi
"""
_MENS_NAMES = """
Aaron Allen Amir Ben Billy Bobby Brandon Brian Carl Carlos Charlie Cody Daniel Dave David Dylan Fred Gerald Greg
Harry Henry Jake Jamal James Jerome Jimmy John Johnny Joseph Josh Leo Lloyd Lucas Peter Raymond Seth Stephen Steve
Ted Tim Tom Tommy Vincent Walt Zaid
"""
_THINGS = (
    # Of one kind, counted alike, and with the same article.
    ("lemon", "pear", "plum", "banana"), ("apple", "apricot", "avocado"), ("cookie", "cupcake", "muffin"),
    ("pen", "pencil", "marker"), ("cat", "rabbit", "hamster"), ("car", "truck", "van"), ("shirt", "hat", "scarf"),
    ("coin", "card", "stone"),
)  # fmt: skip
_PLURALS = {"scarf": "scarves"}
_BEFORE_TEXT = ("Here is a text. ", "The following text was written down. ", "Please read what follows. ")
_BEFORE_PROBLEM = ("Here is a problem. ", "Please read the following carefully. ", "Consider this problem. ")


def reword(prompts: Iterable[Any], seed: int = 0) -> list[Prompt]:
    """Prompts in other words, each with its answer changed alike.

    What a prompt becomes depends on its own text and the seed, not on the others. One in which nothing can be
    changed (a string of one letter, a sum of equal numbers) stays as it is.

    Args:
        prompts: strings, dicts with ``text`` and ``answer``, or :class:`Prompt`.
        seed: another one gives other words.

    Raises:
        InputError: for what is no prompt, and for token ids, which have no words.

    >>> one, = reword([{"text": "a4k7x2>k7>a", "answer": "4"}], seed=1)
    >>> sorted(one.text) == sorted("a4k7x2>k7>a"), one.text != "a4k7x2>k7>a"
    (False, True)
    >>> reword(["Depth matters."])[0].text.endswith("Depth matters.")
    True
    """
    check_arguments(reword, locals())
    if isinstance(prompts, (str, bytes, Mapping, Prompt)) or not isinstance(prompts, Iterable):
        raise InputError(f"prompts to reword are a list of strings or dicts; found {shown(prompts)}")
    return [_reworded(as_prompt(prompt), seed) for prompt in prompts]


def _reworded(prompt: Prompt, seed: int) -> Prompt:
    if prompt.ids is not None:
        raise InputError("prompts given as token ids cannot be reworded; give their text")
    digest = hashlib.blake2b(prompt.full.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng([seed, *digest])
    change = _primitive(prompt, rng)
    if change is not None:
        return Prompt(change(prompt.text), None if prompt.answer is None else change(prompt.answer))
    change, problem = _names_and_things(prompt.full, rng)
    before = _BEFORE_PROBLEM if problem else _BEFORE_TEXT
    sentence = before[int(rng.integers(len(before)))]
    return Prompt(sentence + change(prompt.text), None if prompt.answer is None else change(prompt.answer))


def _primitive(prompt: Prompt, rng: np.random.Generator) -> Callable[[str], str] | None:
    """What changes a generated item and its answer; None where the prompt is none."""
    text = prompt.text
    if _SYMBOLS.fullmatch(text):
        letters, digits = (sorted({c for c in text if kind(c)}) for kind in (str.isalpha, str.isdigit))
        return _characters({**cycle(letters, rng), **cycle(digits, rng)})
    if _COPIED_WORDS.fullmatch(text):
        words = sorted({*WORDS, *re.findall("[a-z]+", text)})
        return _words(cycle(words, rng))
    if _SUMS.fullmatch(text):
        sums = _SUM.findall(text)
        unequal = [i for i, (a, b) in enumerate(sums) if a != b]
        chosen = {i for i in unequal if rng.random() < 0.5} or set(unequal)
        return _exchanged(chosen)
    return None


def cycle(words: Sequence[str], rng: np.random.Generator) -> dict[str, str]:
    """Every word for another of them, none for itself, no two for one; a single one stays.

    >>> found = cycle(["a", "b", "c"], np.random.default_rng(0))
    >>> sorted(found.values()), any(a == b for a, b in found.items())
    (['a', 'b', 'c'], False)
    """
    order = [words[i] for i in rng.permutation(len(words))]
    return dict(zip(order, [*order[1:], *order[:1]], strict=True))


def _characters(change: Mapping[str, str]) -> Callable[[str], str]:
    table = str.maketrans(dict(change))
    return lambda text: text.translate(table)


def _words(change: Mapping[str, str]) -> Callable[[str], str]:
    """Whole words, as they are written in ``change``."""
    pattern = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, change), key=len, reverse=True))})\b")
    return lambda text: pattern.sub(lambda found: change[found.group()], text)


def _exchanged(which: set[int]) -> Callable[[str], str]:
    """Sums by their number, with operands exchanged."""

    def change(text: str) -> str:
        count = iter(range(len(text)))
        return _SUM.sub(lambda m: f"{m[2]}+{m[1]}=" if next(count) in which else m[0], text)

    return change


def _names_and_things(full: str, rng: np.random.Generator) -> tuple[Callable[[str], str], bool]:
    """What changes names and things, and whether there are any in the text."""
    change = {**cycle(_WOMENS_NAMES.split(), rng), **cycle(_MENS_NAMES.split(), rng)}
    for kind in _THINGS:
        for one, other in cycle(kind, rng).items():
            change |= {one: other, _plural(one): _plural(other)}
            change |= {one.capitalize(): other.capitalize(), _plural(one).capitalize(): _plural(other).capitalize()}
    replaced = _words(change)
    return replaced, replaced(full) != full


def _plural(word: str) -> str:
    return _PLURALS.get(word, f"{word}s")
