"""Prompt files: .txt with one prompt a line, .jsonl with ``text`` and an optional ``answer``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts.prompt import Prompt

_FORMS = "a .txt file has one prompt a line; a .jsonl file has objects with `text` and maybe `answer`"


def read_prompts(path: str | Path, n: int | None = None) -> list[Prompt]:
    """The first ``n`` prompts of a file; what is left out is said in a warning.

    Raises:
        InputError: for a file that is missing, no UTF-8 text, empty, or malformed (with its line).
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"prompt file {str(path)!r} does not exist; `depthsig prompts` lists built-in ones")
    if path.is_dir():
        raise InputError(f"prompt file {str(path)!r} is a folder; {_FORMS}")
    found: list[Prompt] = []
    left_out = 0
    for number, line in _lines(path):
        if not line.strip():
            continue
        if n is not None and len(found) >= n:
            left_out += 1
            continue
        found.append(_from_json(line, path, number) if path.suffix == ".jsonl" else Prompt(line))
    if not found:
        raise InputError(f"prompt file {str(path)!r} holds no prompts; {_FORMS}")
    if left_out:
        warnings.warn(
            f"the first {len(found)} of {len(found) + left_out} prompts in {path.name} are used; -n raises the number",
            DepthsigWarning,
            stacklevel=3,
        )
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends; only newlines end a line."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                line = line.removesuffix("\n").removesuffix("\r")
                if "\0" in line:
                    raise InputError(f"{str(path)!r} is not a text file (line {number} holds a NUL byte)")
                yield number, line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text ({error.reason}); {_FORMS}") from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _from_json(line: str, path: Path, number: int) -> Prompt:
    where = f"{path.name} line {number}"
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {_FORMS}") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise InputError(f"{where} has no string `text`; {_FORMS}")
    answer = entry.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise InputError(f"{where}: `answer` is {type(answer).__name__}, it must be a string")
    return Prompt(entry["text"], answer)
