"""Names and JSON out of a checkpoint's files, read so that nothing in them can do harm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from depthsig.errors import InputError, shown
from depthsig.untrusted import is_file, read_json


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object out of a file.

    Raises:
        InputError: if it cannot be read, is no JSON, is nested too deep, or is no object.
    """
    try:
        found = read_json(path, kept=False)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    if not isinstance(found, dict):
        raise InputError(f"{str(path)!r} holds a {type(found).__name__}; a JSON object was expected")
    return found


def file_inside(folder: Path, name: Any, said_by: str) -> Path:
    """The file that a name in a checkpoint's files means: inside the folder, and there.

    Links of the file system are followed: hub snapshots are made of them. A *name* that leads out is not.

    Args:
        said_by: the file that holds the name, for the message.

    Raises:
        InputError: for a name that leads out of the folder, or where there is no ordinary file.
    """
    if not isinstance(name, str) or not name or not name.isprintable():
        raise InputError(f"{said_by} names {shown(name)}, which is no file name")
    if leads_out(name):
        raise InputError(f"{said_by} names {shown(name)}, which is outside the checkpoint's folder; it is not read")
    path = folder / name
    if not is_file(path):
        raise InputError(f"{said_by} names {shown(name)}, which is missing from {str(folder)!r}")
    return path


def leads_out(name: str) -> bool:
    r"""Whether a name is absolute, climbs out of its folder, or would on another system.

    >>> [leads_out(n) for n in ("a/b.safetensors", "../a", "/a", "a/../b", r"C:\a", r"a\..\b", "file://a", "~/a")]
    [False, True, True, True, True, True, True, True]
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return (
        ".." in parts or name.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", name) is not None or "://" in name
    )


def check_named_files(config: Mapping[str, Any], folder: Path, said_by: str) -> None:
    """Refuse entries ``…_file`` and ``…_files`` that name a file outside the folder which is there.

    Where no such file is, the entry is a trace of the machine that saved the checkpoint, and nothing is read.

    Raises:
        InputError: naming the entry.
    """
    for key, value in config.items():
        # Saved by older versions as a trace of their cache, and never read again.
        if not key.endswith(("_file", "_files")) or key == "special_tokens_map_file":
            continue
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and leads_out(name) and is_file(folder / Path(name).expanduser()):
                raise InputError(f"{said_by}: {key} names {shown(name)}, which is outside the checkpoint's folder")
