"""Prompt files: .txt with one prompt a line, .jsonl with ``text`` and an optional ``answer``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts.prompt import Prompt

_FORMS = "a .txt file has one prompt a line; a .jsonl file has objects with `text` and maybe `answer`"


def read_prompts(path: str | Path, n: int | None = None) -> list[Prompt]:
    """The first ``n`` prompts of a file; what is left out is said in a warning.

    A .jsonl file has one object a line; every other file is read as text, one prompt a line. Only
    newlines end a line, and a carriage return before one is part of the line's end. Lines of
    white space are skipped.

    Raises:
        InputError: for a file that is missing, no UTF-8 text, empty, or malformed (with its line),
            or an ``n`` below 1.
    """
    path = Path(path)
    _check(path, n)
    read = _from_json if path.suffix.lower() == ".jsonl" else _from_text
    found: list[Prompt] = []
    left_out = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if n is not None and len(found) >= n:
                    # Counted without being parsed, so that a large file costs no more than reading it.
                    left_out += not _is_blank(raw)
                    continue
                line = _decode(raw, path, number)
                if line.strip():
                    found.append(read(line, path, number))
    except OSError as error:
        raise InputError(f"prompt file {str(path)!r} cannot be read: {error.strerror}; {_FORMS}") from None
    if not found:
        raise InputError(f"prompt file {str(path)!r} holds no prompts; {_FORMS}")
    if left_out:
        _warn(len(found), left_out, path)
    return found


def exists(path: str | Path) -> bool:
    """Whether there is such a file or folder; False too for what cannot be a path."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _check(path: Path, n: int | None) -> None:
    if n is not None and n < 1:
        raise InputError(f"the number of prompts is {n}; 1 is the least")
    if not exists(path):
        shown = str(path) if len(str(path)) <= 80 else str(path)[:77] + "..."
        raise InputError(f"prompt file {shown!r} does not exist; `depthsig prompts` lists built-in ones")
    if path.is_dir():
        raise InputError(f"prompt file {str(path)!r} is a folder; {_FORMS}")


def _is_blank(raw: bytes) -> bool:
    # White space outside ASCII exists too, and is rare.
    return not raw.strip() or (not raw.isascii() and not raw.decode("utf-8", "replace").strip())


def _decode(raw: bytes, path: Path, number: int) -> str:
    if b"\0" in raw:
        raise InputError(f"prompt file {str(path)!r} is not text: line {number} holds a NUL byte; {_FORMS}")
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"prompt file {str(path)!r} is not UTF-8: line {number}, {error.reason}; {_FORMS}") from None
    line = line.removesuffix("\n").removesuffix("\r")
    return line.removeprefix("\ufeff") if number == 1 else line


def _from_text(line: str, path: Path, number: int) -> Prompt:
    return Prompt(line)


def _from_json(line: str, path: Path, number: int) -> Prompt:
    where = f"{path.name} line {number}"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {_FORMS}") from None
    if not isinstance(entry, dict) or "text" not in entry:
        found = f"the keys {sorted(entry)}" if isinstance(entry, dict) else type(entry).__name__
        raise InputError(f"{where} has no `text`, found {found}; {_FORMS}")
    for key in ("text", "answer"):
        value = entry.get(key)
        if not isinstance(value, str) and not (key == "answer" and value is None):
            raise InputError(f"{where}: `{key}` is {type(value).__name__}; it must be a string")
    return Prompt(entry["text"], entry.get("answer"))


def _warn(kept: int, left_out: int, path: Path) -> None:
    warnings.warn(
        f"the first {kept} of {kept + left_out} prompts in {path.name} are used; -n raises the number",
        DepthsigWarning,
        stacklevel=4,
    )
