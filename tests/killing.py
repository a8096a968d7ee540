"""Kill a piece of work before each of its file operations, in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_OTHERS = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "shutil.rmtree", "shutil.copytree")


def kills(folder: Path, prepare: Callable[[], Any], act: Callable[[], Any], stride: int = 1) -> Iterator[str]:
    """Run ``act`` again and again, killed before its first, second, ... change below ``folder``; until it ends unhurt.

    Args:
        prepare: brings the folder back to where ``act`` begins.
        stride: kill only before every so many changes.

    Yields:
        What was about to happen, each time that a process was killed.
    """
    for point in range(1, 10_000, stride):
        prepare()
        killed, said = _run(folder, act, point)
        if not killed:
            assert said == "", said
            return
        yield said


def _run(folder: Path, act: Callable[[], Any], point: int) -> tuple[bool, str]:
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        try:
            sys.addaudithook(_watch(str(folder), point, into))
            act()
        except BaseException:
            os.write(into, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, said


def _watch(folder: str, point: int, into: int) -> Callable[[str, tuple[Any, ...]], None]:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, (str, bytes)) or not (flags or 0) & _WRITES:
                return
        elif event == "ctypes.dlsym" and arguments[1] in ("renameat2", "renamex_np"):
            path = folder  # no event tells of an exchange itself
        elif event in _OTHERS:
            path = arguments[0]
        else:
            return
        text = str(Path.cwd() / os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else folder
        # What removes a tree names its entries without their folders.
        if not text.startswith(folder) and event not in ("os.remove", "os.rmdir"):
            return
        seen += 1
        if seen == point:
            os.write(into, f"{event} {text}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
