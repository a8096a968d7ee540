"""Prompts by name, by file, or as given."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from depthsig.errors import DepthsigWarning, InputError, shown
from depthsig.prompts.files import is_file_name, read_prompts
from depthsig.prompts.primitives import TASKS, generate
from depthsig.prompts.prompt import Prompt
from depthsig.prompts.shipped import data_path
from depthsig.prompts.shots import before_generated, before_others
from depthsig.prompts.tokens import as_prompt
from depthsig.untrusted import is_there

DEFAULT_N = 20
MOST_GENERATED = 100_000
"""More prompts than this would be made for hours before the first is measured."""

BUILTIN: dict[str, str] = {
    "gsm8k": "grade-school maths, question and gold answer (200 of the GSM8K test set, MIT)",
    "wikitext": "paragraphs of Wikipedia (200 of the WikiText-2 validation set, CC BY-SA)",
    **{name: f"{task.description} (generated)" for name, task in TASKS.items()},
}
"""Name and description of every built-in set."""


def builtin_prompts(name: str, n: int | None = DEFAULT_N, seed: int = 0) -> list[Prompt]:
    """The first ``n`` prompts of a built-in set; generated ones depend on ``seed``.

    Generated ones are held-out items: none was an answer in the training of the checkpoints that
    ship. None takes all of a set that is finite, and 20 generated ones.

    Raises:
        InputError: for an unknown name, or an ``n`` below 1 or without end.

    >>> builtin_prompts("gsm8k", 1)[0].answer[-7:]
    '#### 18'
    """
    if n is not None and n < 1:
        raise InputError(f"the number of prompts is {n}; 1 is the least")
    if name in TASKS:
        if n is not None and n > MOST_GENERATED:
            raise InputError(f"the number of prompts is {shown(n)}; at most {MOST_GENERATED:,} are generated")
        return generate(name, DEFAULT_N if n is None else n, seed)
    if name not in BUILTIN:
        raise InputError(f"no built-in prompts are called {name!r}; there are {', '.join(BUILTIN)}")
    found = _gsm8k() if name == "gsm8k" else _wikitext()
    if n is not None and n > len(found):
        message = f"{name} has {len(found)} prompts, {n} were asked for; the generated ones have any number"
        warnings.warn(message, DepthsigWarning, stacklevel=2)
    return found[:n]


def _gsm8k() -> list[Prompt]:
    """Question, line break, gold answer; the calculator annotations are part of the data."""
    entries = [json.loads(line) for line in _lines("gsm8k.jsonl")]
    return [Prompt(entry["question"] + "\n", entry["answer"]) for entry in entries]


def _wikitext() -> list[Prompt]:
    return [Prompt(line) for line in _lines("wikitext.txt")]


def _lines(name: str) -> list[str]:
    """Lines of a file that ships; only newlines end one."""
    return data_path("prompts", name).read_bytes().decode("utf-8").removesuffix("\n").split("\n")


def load_prompts(source: Any, n: int | None = DEFAULT_N, seed: int = 0, shots: int = 0) -> list[Prompt]:
    """Prompts from a built-in name, a file (:func:`depthsig.prompts.read_prompts`), or a sequence.

    Args:
        source: a name (which wins over a file of that name), a path, or a sequence of strings,
            dicts, token ids or :class:`Prompt`. Text that is neither a name nor a file and holds white
            space is one prompt, which a warning says.
        n: the first n (None: all of a sequence or file; 20 generated ones).
        seed: of generated prompts, and of the choice of examples.
        shots: so many solved examples before each (:mod:`depthsig.prompts.shots`); which prompts are asked does not
            depend on it.

    Raises:
        InputError: if nothing usable is there, or there are no examples.

    >>> [p.text for p in load_prompts(["One", "Two", "Three"], n=2)]
    ['One', 'Two']
    """
    if shots:
        return _with_examples(source, n, seed, shots)
    if isinstance(source, (str, Path)):
        return _by_name(source, n, seed)
    if isinstance(source, (Mapping, Prompt, bytes)) or not isinstance(source, Iterable):
        raise InputError(
            f"prompts are a name, a file, or a list of strings, dicts or token ids; found {type(source).__name__}"
        )
    if n is not None and n < 1:
        raise InputError(f"the number of prompts is {n}; 1 is the least")
    found = [as_prompt(value) for value in source]
    if not found:
        raise InputError("the list of prompts is empty; give at least one string, dict or list of token ids")
    return found[:n]


def _with_examples(source: Any, n: int | None, seed: int, shots: int) -> list[Prompt]:
    """Prompts with solved examples before them: generated apart, or of what is not asked in a set that ends."""
    with warnings.catch_warnings():
        if n is not None:
            warnings.simplefilter("ignore", DepthsigWarning)  # what is left out is where examples come from
        every = load_prompts(source, n if _is_task(source) else None, seed)
    if _is_task(source):
        return before_generated(str(source), every, shots, seed)
    return before_others(every[:n], every[n:] if n is not None else [], shots, seed, str(source))


def _is_task(source: Any) -> bool:
    return isinstance(source, (str, Path)) and str(source) in TASKS


def _by_name(source: str | Path, n: int | None, seed: int) -> list[Prompt]:
    name = str(source)
    if name in BUILTIN:
        return builtin_prompts(name, n, seed)
    if is_there(source):
        return read_prompts(source, n)
    if isinstance(source, str) and any(c.isspace() for c in source.strip()) and not is_file_name(source):
        warnings.warn(
            f"{shown(source)} is neither a file nor built-in prompts; it is taken as one prompt",
            DepthsigWarning,
            stacklevel=3,
        )
        return [as_prompt(source)]
    raise InputError(
        f"{shown(name)} is neither a file nor built-in prompts; there are {', '.join(BUILTIN)}; text of several words "
        "is one prompt"
    )
