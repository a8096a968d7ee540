"""One process at a time in a folder of unfinished work; the lock goes with the process, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from depthsig.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: nothing of the kind for folders
    fcntl = None  # type: ignore[assignment]

_HELD: dict[Path, tuple[int | None, list[Path]]] = {}
"""Folders that this process works in: the open folder that carries the lock, and parents made for it."""


def hold(folder: Path, created: Sequence[Path]) -> bool:
    """Lock a folder that exists; False where another process has it. What is held already stays held.

    Args:
        created: folders above it that were made for it, which :func:`held` gives back.
    """
    if folder in _HELD:
        descriptor, before = _HELD[folder]
        if descriptor is None or os.path.samestat(os.fstat(descriptor), folder.stat()):
            return True
        created = [*before, *created]  # the folder was taken away meanwhile, and made again
        release(folder)
    descriptor = None
    if fcntl is not None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # a file system without locks
            os.close(descriptor)
            descriptor = None
    _HELD[folder] = (descriptor, list(created))
    return True


def held(folder: Path) -> list[Path] | None:
    """The parents that were made for a folder that this process holds; None where it holds none."""
    return _HELD[folder][1] if folder in _HELD else None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One process at a time in a results folder whose parts are written one by one, for as long as that takes.

    The lock is a hidden folder beside it: results change places with what was there. A process that was killed leaves
    an empty one, which locks nobody out.

    Raises:
        InputError: where another process works there.
    """
    place = folder.resolve()
    beside = place.with_name(f".{place.name[:200]}.depthsig-lock")
    beside.mkdir(parents=True, exist_ok=True)
    if not hold(beside, []):
        raise InputError(f"{str(folder)!r} is being written by another process; name another folder, or wait for it")
    try:
        yield
    finally:
        with suppress(OSError):
            beside.rmdir()
        release(beside)


def release(folder: Path) -> None:
    """Let others work there."""
    descriptor, _ = _HELD.pop(folder, (None, []))
    if descriptor is not None:
        os.close(descriptor)
