"""The exceptions depthsig raises for its users, each with the exit code of the command line.

A message is one line: what was wrong, what was found, and what would work.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path


class DepthsigError(Exception):
    """Base of every error that depthsig raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        # What another library said, or a file holds, and is quoted, may have lines, and signs that a terminal obeys.
        return visible(" ".join(line.strip() for line in super().__str__().splitlines()))


class InputError(DepthsigError, ValueError):
    """Bad input or usage: a checkpoint, prompt file, option or edit that cannot be used as given."""

    exit_code = 2


class UnsupportedModelError(InputError):
    """A kind of model that cannot be analysed exactly, refused by name."""


class CertificateError(DepthsigError):
    """A certificate failed: the numbers could not be trusted, so none are given."""

    exit_code = 3


class NoRoomError(DepthsigError, MemoryError):
    """A card's memory does not hold the least that can be run at once; unfinished work is kept."""


class DepthsigWarning(UserWarning):
    """Something the user should know that does not stop the analysis."""

    def __str__(self) -> str:
        return visible(super().__str__())


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, a reader is misled by, or no file can hold: control characters but newline and tab, those
that turn the direction of writing, and halves of characters."""


def visible(text: str) -> str:
    r"""Text in which control characters can be seen, and do nothing.

    >>> visible("\x1b[31mred"), visible("one\n\ttwo")
    ('\\x1b[31mred', 'one\n\ttwo')
    """
    return _UNSEEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def near(word: object, known: Iterable[str]) -> str:
    """What was meant perhaps, in brackets; empty where nothing is near.

    >>> near("lens.kll", ["lens.kl", "skip.effect"])
    " (did you mean 'lens.kl'?)"
    """
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(word)[:200].lower(), names, n=1, cutoff=0.7)
    return f" (did you mean {names[found[0]]!r}?)" if found else ""


def shown(value: object, most: int = 80) -> str:
    """A value as a message shows it: without its middle where that is long, and text in quotes.

    >>> shown("4:8"), shown("9" * 5000, most=9)
    ("'4:8'", "'999…999'")
    """
    text = repr(value) if isinstance(value, str) else written(value)
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def as_path(value: object, what: str = "a folder") -> Path:
    """What was given as a path.

    Raises:
        InputError: for what is no path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"{what} is named by a string or a path; found {shown(value)}")
    return Path(value)


def written(value: object) -> str:
    """A value as text, whatever it is: Python itself writes no integer of more than 4,300 digits."""
    try:
        return str(value)
    except ValueError:
        return f"<a number of {value.bit_length()} bits>" if isinstance(value, int) else f"<{type(value).__name__}>"
