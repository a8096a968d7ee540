"""What somebody else may have written: files are read if regular and of a size that can be meant, programs in time."""

from __future__ import annotations

import ctypes
import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from depthsig.errors import InputError, visible

T = TypeVar("T")

LARGEST_RECORD = 64 << 20
"""Bytes of a JSON record: the largest plan takes a hundredth of it."""


DEEPEST = 64
"""How deeply a record may be nested; ours are by five."""


def size_of(path: Path) -> int:
    """Bytes of a regular file (or of one that a link leads to), which nothing has opened yet.

    Opening a FIFO would wait for its other end, and opening a device may do anything.

    Raises:
        OSError, ValueError: where there is no such file.
        InputError: naming a folder, FIFO, socket or device.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{str(path)!r} is a folder, where a file was expected")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{str(path)!r} is no regular file (a FIFO, socket or device); name a file that can be read")
    return found.st_size


def is_there(path: str | Path) -> bool:
    """Whether there is such a file or folder; False too for what cannot be a path."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file; False too for what cannot be a path."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; False too for what cannot be a path."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_json(path: Path, most: int = LARGEST_RECORD, *, kept: bool = True) -> Any:
    """What a JSON file holds.

    Args:
        kept: whether it will be written again, as records are: then half a character (a lone surrogate) is refused.

    Raises:
        OSError: where the file is not there or cannot be read.
        InputError: in one line, for one that is no regular file, too large, no JSON, or nested too deeply.
    """
    size = size_of(path)
    if size > most:
        raise InputError(f"{str(path)!r} is damaged: it has {size:,} bytes, at most {most:,} can be meant")
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
        deep = not _is_flat(found)
        if kept and not deep:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        deep = True
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged, not valid JSON: {' '.join(str(error).split())[:200]}") from None
    if deep:
        raise InputError(f"{str(path)!r} is damaged: it is nested too deeply")
    return found


def made_visible(value: Any) -> Any:
    r"""A record, list or text in which control characters can be seen, and do nothing; without any, what was given.

    For what people are shown: names, notes and labels that a file holds. Data, as tokens, stay as they are.

    >>> made_visible({"name": ["\x1b[31mred", 1]}), made_visible("\u202eevil")
    ({'name': ['\\x1b[31mred', 1]}, '\\u202eevil')
    """
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        made: Any = {made_visible(key): made_visible(one) for key, one in value.items()}
    elif isinstance(value, (list, tuple)):
        made = type(value)(map(made_visible, value)) if type(value) in (list, tuple) else value
    else:
        return value
    return value if made == value else made


def _is_flat(value: Any, deepest: int = DEEPEST) -> bool:
    """Whether a JSON value is nested at most so deeply."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return deepest > 0 and all(_is_flat(one, deepest - 1) for one in inner)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` gives, which is ended where it takes too long: a template is a program, and may loop.

    Raises:
        TimeoutError: where it took longer; else whatever it raises.
    """
    given: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            given.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # Raised in the thread at its next instruction; what computes outside Python ends when it returns.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeoutError))
        raise TimeoutError(f"it runs for more than {seconds:g} s")
    if raised:
        raise raised[0]
    return given[0]
