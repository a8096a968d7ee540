"""What is kept between runs: one folder of entries by kind and key, which may be lost, damaged or cleared at any time.

Nothing depends on it: an entry that cannot be read is absent, and one that cannot be written is not kept. Entries are
written beside their place and moved there, so that several processes may write at once, and each carries a digest of
what it holds, under which key. Keys say all that an entry depends on, versions included: no entry is ever brought up
to date.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from depthsig.errors import DepthsigError, DepthsigWarning
from depthsig.untrusted import LARGEST_RECORD, is_folder, size_of

PLACE = "DEPTHSIG_CACHE"
"""The variable of the environment that names another folder."""

_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_NAME = re.compile(r"[0-9a-f]{40}\.kept|\.depthsig-\w+\.part")
"""Names of a record, and of what a process that was killed was writing."""
_MARK = b"depthsig kept 1 "


def place() -> Path:
    """The folder.

    Raises:
        DepthsigError: where the machine knows no home for it.
    """
    named = os.environ.get(PLACE, "").strip()
    try:
        return Path(named).expanduser() if named else _users_own() / "depthsig"
    except RuntimeError:
        raise DepthsigError(f"there is no home folder to keep anything in; {PLACE} names a folder") from None


def _users_own() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    windows = sys.platform == "win32"
    named = Path(os.environ.get("LOCALAPPDATA" if windows else "XDG_CACHE_HOME", ""))
    if named.is_absolute():  # a relative one is to be passed over
        return named
    return Path.home() / ("AppData/Local" if windows else ".cache")


def read(kind: str, key: str, *, touch: bool = False) -> bytes | None:
    """What was kept, or None; ``touch`` marks it as used now, for :func:`trim`."""
    try:
        path = _folder(kind) / f"{_name(kind, key)}.kept"
        if size_of(path) > LARGEST_RECORD:
            return None
        head, _, data = path.read_bytes().partition(b"\n")
    except (OSError, ValueError, DepthsigError):
        return None
    if head != _head(kind, key, data):
        return None
    if touch:
        with suppress(OSError):  # a folder that only others may write to
            os.utime(path)
    return data


def write(kind: str, key: str, data: bytes) -> None:
    """Keep a small record in the place of one with the same key, if the machine allows it; one over 64 MiB is not."""
    beside = None
    if len(_head(kind, key, data)) + 1 + len(data) > LARGEST_RECORD:
        return
    try:
        folder = _folder(kind)
        folder.mkdir(parents=True, exist_ok=True)
        # Beside its place, and moved there: whole or absent.
        made = folder / f".depthsig-{secrets.token_hex(8)}.part"
        # Readable as any file that one makes: a group may share the folder.
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        beside = made
        beside.write_bytes(_head(kind, key, data) + b"\n" + data)
        beside.replace(folder / f"{_name(kind, key)}.kept")
    except (OSError, DepthsigError) as error:
        _say_not_kept(error)
    finally:
        if beside is not None:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


@dataclass(frozen=True)
class Kind:
    """What is kept of one kind: how many entries, of how many bytes in all."""

    name: str
    entries: int
    bytes: int


def kinds() -> list[Kind]:
    """What is there of each kind, and what a process that was killed left, which is listed with it."""
    found = [Kind(folder.name, *_sizes(folder)) for folder in _folders()]
    return [kind for kind in found if kind.entries]


def clear(kind: str | None = None) -> int:
    """Remove every entry, or those of a kind: ours alone, and nothing that a link leads to.

    Returns:
        How many were removed.

    Raises:
        DepthsigError: where one cannot be removed.
    """
    removed = 0
    for folder in _folders():
        if kind in (None, folder.name):
            removed += sum(_remove(Path(entry.path)) for entry in list(_entries(folder)))
            with suppress(OSError):
                folder.rmdir()  # if it is empty
    return removed


def trim(kind: str, most: int) -> int:
    """Remove the entries of a kind that were used longest ago, until ``most`` bytes are left at most.

    Returns:
        How many were removed; what cannot be removed, or another process removed, is passed over.
    """
    try:
        entries = [(one.stat(follow_symlinks=False), Path(one.path)) for one in _entries(_folder(kind))]
    except (OSError, DepthsigError):
        return 0
    left, removed = sum(stat.st_size for stat, _ in entries), 0
    for stat, path in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
        if left <= most:
            break
        left -= stat.st_size
        with suppress(DepthsigError):
            removed += _remove(path)
    return removed


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:  # another process was faster
        return False
    except OSError as error:
        raise DepthsigError(f"{str(path)!r} cannot be removed: {error.strerror}") from None
    return True


def _folder(kind: str) -> Path:
    if not _KIND.fullmatch(kind):
        raise ValueError(f"{kind!r} is no kind of entry: small letters, digits and hyphens")
    return place() / kind


def _name(kind: str, key: str) -> str:
    return hashlib.sha256(f"{kind}\n{key}".encode()).hexdigest()[:40]


def _head(kind: str, key: str, data: bytes) -> bytes:
    """The first line of a record: an entry under another's name is as damaged as one with other bytes."""
    return _MARK + hashlib.sha256(_name(kind, key).encode() + data).hexdigest().encode()


_SAID: list[str] = []
"""What was said of a folder that keeps nothing: once a process."""


def _say_not_kept(error: Exception) -> None:
    if not _SAID:
        reason = getattr(error, "strerror", None) or error
        _SAID.append(f"nothing is kept for the next run: the cache folder cannot be written ({reason})")
        warnings.warn(f"{_SAID[0]}; {PLACE} names another", DepthsigWarning, stacklevel=3)


def _folders() -> list[Path]:
    try:
        where = place()
        entries = sorted(os.scandir(where), key=lambda entry: entry.name) if is_folder(where) else []
    except (OSError, DepthsigError):
        return []
    return [Path(e.path) for e in entries if _KIND.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(folder):
        if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            yield entry


def _sizes(folder: Path) -> tuple[int, int]:
    sizes = [entry.stat(follow_symlinks=False).st_size for entry in _entries(folder)]
    return len(sizes), sum(sizes)
