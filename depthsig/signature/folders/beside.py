"""Files that go into every result that is written meanwhile, in the same step as the result itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

Texts = Mapping[str, Callable[[], str]]
"""From a file's name to what gives its text, which is asked when a result is written."""

_TEXTS: ContextVar[Texts] = ContextVar("files beside results")


@contextmanager
def beside(texts: Texts) -> Iterator[None]:
    """Results that are written meanwhile hold these files, too; names are those of ``kinds.WRITTEN``."""
    before = _TEXTS.set(texts)
    try:
        yield
    finally:
        _TEXTS.reset(before)


def write_beside(folder: Path) -> None:
    """Write the files into a folder that is about to become a result.

    Raises:
        OSError: where the machine fails.
    """
    for name, text in _TEXTS.get({}).items():
        (folder / name).write_bytes(text().encode())
