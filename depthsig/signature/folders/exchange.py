"""Two folders change places in one step where the operating system can; else in steps that can be undone."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

from depthsig.signature.folders.kinds import ASIDE, RECORDS, is_result

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


def land(new: Path, target: Path) -> None:
    """Put a whole folder into the place of ``target``; what was there is at ``new`` afterwards.

    Raises:
        OSError: if it cannot be done; ``target`` is then what it was.
    """
    if target.exists() and any(target.iterdir()):
        if not _exchanged(new, target):
            _in_steps(new, target)
        return
    if os.name == "nt" and target.exists():
        target.rmdir()  # elsewhere an empty folder is replaced as it is
    new.rename(target)


def restore(target: Path) -> None:
    """Undo or finish what a kill amid the steps of :func:`land` left.

    Raises:
        OSError: if it cannot be done.
    """
    aside = _aside(target)
    if aside.is_symlink() or not is_result(aside):
        return
    if not target.exists():
        aside.rename(target)
        return
    for entry in aside.iterdir():  # what makes it known as ours goes last
        if entry.name not in RECORDS:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.rmtree(aside)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}{ASIDE}")


def _in_steps(new: Path, target: Path) -> None:
    restore(target)
    aside = target.rename(_aside(target))
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(new)


def _exchanged(a: Path, b: Path) -> bool:
    """Whether the two names could be exchanged in one step."""
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(a), os.fsencode(b)
    try:
        if sys.platform == "darwin":
            return library.renamex_np(first, second, _RENAME_SWAP) == 0
        return library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0
    except AttributeError:  # a C library that is older
        return False
