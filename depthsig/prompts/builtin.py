"""Prompts by name, by file, or as given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depthsig.errors import InputError
from depthsig.prompts.files import read_prompts
from depthsig.prompts.primitives import TASKS, generate
from depthsig.prompts.prompt import Prompt
from depthsig.prompts.shipped import data_path
from depthsig.prompts.tokens import as_prompt

BUILTIN: dict[str, str] = {
    "gsm8k": "grade-school maths, question and gold answer (200 of the GSM8K test set, MIT)",
    "wikitext": "paragraphs of Wikipedia (200 of the WikiText-2 validation set, CC BY-SA)",
    **{name: f"{task.description} (generated)" for name, task in TASKS.items()},
}
"""Name and description of every built-in set."""


def builtin_prompts(name: str, n: int | None = 20, seed: int = 0) -> list[Prompt]:
    """The first ``n`` prompts of a built-in set; generated ones depend on ``seed``.

    Raises:
        InputError: for an unknown name.

    >>> builtin_prompts("lookup", 2, seed=1)[0].answer
    '7'
    """
    if name in TASKS:
        return generate(name, 20 if n is None else n, seed)
    if name == "gsm8k":
        return _gsm8k()[:n]
    if name == "wikitext":
        lines = data_path("prompts", "wikitext.txt").read_text(encoding="utf-8").splitlines()
        return [Prompt(line) for line in lines][:n]
    raise InputError(f"no built-in prompts are called {name!r}; there are {', '.join(BUILTIN)}")


def _gsm8k() -> list[Prompt]:
    """Question, line break, gold answer; the calculator annotations are part of the data."""
    lines = data_path("prompts", "gsm8k.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [Prompt(entry["question"] + "\n", entry["answer"]) for entry in entries]


def load_prompts(source: Any, n: int | None = 20, seed: int = 0) -> list[Prompt]:
    """Prompts from a built-in name, a .txt or .jsonl file, or a sequence.

    Args:
        source: a name, a path, or a sequence of strings, dicts, token ids or :class:`Prompt`.
        n: the first n (None: all of a sequence or file; 20 generated ones).

    Raises:
        InputError: if nothing usable is there.
    """
    if isinstance(source, (str, Path)):
        if str(source) in BUILTIN:
            return builtin_prompts(str(source), n, seed)
        if isinstance(source, str) and not Path(source).exists() and not Path(source).suffix:
            raise InputError(f"{source!r} is neither a file nor built-in prompts; there are {', '.join(BUILTIN)}")
        return read_prompts(source, n)
    if not isinstance(source, Sequence) or isinstance(source, bytes) or not len(source):
        raise InputError("prompts are a name, a file, or a non-empty list of strings, dicts or token ids")
    return [as_prompt(value) for value in source][:n]
