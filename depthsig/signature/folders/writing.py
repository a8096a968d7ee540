"""Results folders: the old result or the new one, whatever happens on the way.

Work in progress lives in ``DIR.partial/``, which carries a mark and is locked while somebody works there.
When it is done it changes places with ``DIR`` in one step. A folder that exists and is no result of ours
is never replaced, and what somebody else put into a result is carried over to the next one: all but a file
``.depthsig``, and what lies in folders that a result of this kind writes, as ``figures``.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from depthsig.errors import DepthsigError, InputError, as_path
from depthsig.signature.folders import locks
from depthsig.signature.folders.beside import write_beside
from depthsig.signature.folders.exchange import land, restore
from depthsig.signature.folders.kinds import (
    CONTROL,
    MARK,
    PARTIAL,
    REDRAWN,
    SIGNATURE,
    WRITTEN,
    claimed_by,
    is_leftover,
    result_kind,
)

UNITS = "units"
"""Finished pieces in a partial folder, which only ``--resume`` needs."""
_PIECES = ("*.npz", "*/stamp.json", "sums-*.pt")
"""How a finished piece is known: of an analysis, of a replication, and of a Jacobian lens."""

_LONGEST = 255
"""Bytes of a file's name, on every usual file system."""


def place(directory: str | Path) -> Path:
    """The folder that ``--out`` means, absolute; a link to a folder is followed.

    Raises:
        InputError: for a name that no results folder can have.
    """
    path = as_path(directory)
    said = f"--out {os.fspath(directory)!r}"
    if not path.name or path.name == "..":
        raise InputError(f"{said} names no folder of its own; name a new one")
    if path.parts[0].startswith("~"):
        raise InputError(f"{said} begins with a ~ that the shell did not expand; write the path out")
    here = _here()
    if not here and not path.is_absolute():
        raise InputError(f"{said} lies in the current folder, which was removed; change into another one")
    try:
        str(path).encode()  # what is no text can be no name in a record or on a page
        if path.is_symlink() and not path.exists():
            raise InputError(f"{said} is a link to nothing; name a folder")
        real = path.resolve()
        mode = real.stat().st_mode if real.exists() else None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{said} cannot be a folder: {reason(error)}") from None
    if mode is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{said} is {'a file' if stat.S_ISREG(mode) else 'no folder'}; name a folder")
    if is_leftover(path.name) or is_leftover(real.name):
        raise InputError(f"{said} is a name for unfinished work, which is cleared; name another folder")
    if len(os.fsencode(real.name + REDRAWN)) > _LONGEST:
        raise InputError(f"{said} is too long; {_LONGEST - len(REDRAWN)} bytes are allowed")
    if real in here:
        raise InputError(f"{said} is the folder you are in, or holds it; name a new one inside")
    return real


def _here() -> tuple[Path, ...]:
    """The current folder and all above it; none where it was removed."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return ()
    return (here, *here.parents)


def partial_path(directory: str | Path, suffix: str = PARTIAL) -> Path:
    """Where work in progress on ``directory`` lives."""
    real = place(directory)
    return real.with_name(real.name + suffix)


def ensure_writable(directory: str | Path, record: str | None = SIGNATURE, suffix: str = PARTIAL) -> None:
    """Check that a result can be written to ``directory``, before anything is computed.

    Args:
        record: which of :data:`~depthsig.signature.folders.kinds.RECORDS` will be written; only a result of that
            kind is replaced. None: something else, which replaces nothing.

    Raises:
        InputError: if it is no folder, a folder that is no such result of ours, or cannot be written.
    """
    real, partial = place(directory), partial_path(directory, suffix)
    try:
        restore(real)
        filled = real.is_dir() and any(real.iterdir())
    except OSError as error:
        raise InputError(f"--out {str(directory)!r} cannot be used: {reason(error)}") from None
    redrawn_control = suffix == REDRAWN and real.name == CONTROL
    if (around := claimed_by(real)) is not None and not redrawn_control:
        raise InputError(
            f"--out {str(directory)!r} lies in {str(around)!r}, where depthsig itself writes and clears; "
            "name another folder"
        )
    if filled and record is None:
        raise InputError(f"--out {str(directory)!r} exists already; name a folder that does not")
    if filled and (found := result_kind(real)) != record:
        what = f"a depthsig result of another kind ({found})" if found else "something that is no depthsig result"
        raise InputError(f"--out {str(directory)!r} holds {what}; name another folder")
    if os.path.lexists(partial):
        if not _is_ours(partial):
            raise InputError(
                f"{str(partial)!r}, where unfinished work would go, holds something that is not depthsig's; "
                "move it away or name another --out"
            )
        return
    # Tried in earnest: permission bits lie to root.
    created = _missing(partial)
    try:
        partial.mkdir(parents=True)
        try:
            _mark(partial)
        finally:
            _remove(partial)
    except OSError as error:
        raise InputError(f"--out {str(directory)!r} cannot be written: {reason(error)}") from None
    finally:
        _remove_empty(created)


@contextmanager
def storing(directory: str | Path) -> Iterator[None]:
    """A machine that fails meanwhile (disk full, folder gone) in one line, with exit code 1.

    Raises:
        DepthsigError: for any error of the operating system.
    """
    try:
        yield
    except OSError as error:
        raise DepthsigError(f"{os.fspath(directory)!r} cannot be written: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What the operating system says, without paths."""
    found = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(found).split())


def begin(
    directory: str | Path, anew: bool = False, record: str | None = SIGNATURE, suffix: str = PARTIAL
) -> Path:  # fmt: skip
    """The folder for work in progress on ``directory``, ours alone until :func:`end`; ``anew`` clears it first.

    Raises:
        InputError: if something else of that name is there, or another process works there.
        DepthsigError: if it cannot be made.
    """
    ensure_writable(directory, record, suffix)
    partial = partial_path(directory, suffix)
    created = _missing(partial)
    with storing(directory):
        partial.mkdir(parents=True, exist_ok=True)
        if not locks.hold(partial, created):
            raise InputError(f"--out {str(directory)!r} is being written by another process; name another folder")
        _mark(partial)
        if anew:
            _empty(partial)
    return partial


_LEFT: set[Path] = set()
"""Partial folders that work of this process was interrupted in."""


def leave(directory: str | Path) -> None:
    """Let others go on with the unfinished work on ``directory``, which stays."""
    partial = partial_path(directory)
    _LEFT.add(partial)
    locks.release(partial)


def kept() -> list[Path]:
    """Folders of interrupted work of this process, with pieces that ``--resume`` can go on with."""
    return [f for f in sorted(_LEFT) if any(next((f / UNITS).glob(piece), None) for piece in _PIECES)]


def end(directory: str | Path, suffix: str = PARTIAL) -> None:
    """Leave nothing of unfinished work on ``directory`` behind, and let others work there."""
    partial = partial_path(directory, suffix)
    created = locks.held(partial)
    if created is not None:
        _remove(partial)
        _remove_empty(created)
    locks.release(partial)


@contextmanager
def writing(directory: str | Path, record: str | None = SIGNATURE, suffix: str = PARTIAL) -> Iterator[Path]:
    """An empty folder to write into, which becomes ``directory`` when all went well; ``record`` is its kind.

    On an exception nothing is left behind; on Ctrl-C the partial folder stays.

    Raises:
        InputError: if the folder is no result of this kind. DepthsigError: if the machine fails meanwhile.
    """
    partial, real = begin(directory, record=record, suffix=suffix), place(directory)
    try:
        with storing(directory):
            _empty(partial, keep=(UNITS,))  # what a killed run left must not become part of this result
            yield partial
            if record is not None and suffix == PARTIAL:
                write_beside(partial)
            _empty(partial, only=(UNITS,))  # before somebody's own folder of that name comes in
            if real.is_dir():
                _carry(real, partial, leave={*(WRITTEN[record] if record else ()), MARK})
            (partial / MARK).unlink(missing_ok=True)
            if real.is_dir() and any(real.iterdir()) and result_kind(real) != record:
                raise InputError(f"--out {str(directory)!r} was filled by somebody else meanwhile; name another folder")
            land(partial, real)
    except Exception:
        end(directory, suffix)
        raise
    except BaseException:
        _LEFT.add(partial)
        raise
    finally:
        locks.release(partial)
    _discard(partial)


@contextmanager
def redrawing(directory: str | Path, leave: Collection[str]) -> Iterator[Path]:
    """As :func:`writing`, for a result that stays but for ``leave``: files and folders that are made anew.

    Raises:
        InputError: if the folder is no result. DepthsigError: if the machine fails meanwhile.
    """
    record = result_kind(directory)
    if record is None:
        raise InputError(f"{str(directory)!r} is no depthsig result")
    if Path(directory).resolve() in _here():
        raise InputError(f"{str(directory)!r} is the folder you are in, or holds it; draw it from elsewhere")
    with writing(directory, record, REDRAWN) as partial:
        _carry(place(directory), partial, leave={*leave, MARK})
        yield partial


def _missing(path: Path) -> list[Path]:
    """Folders above ``path`` that do not exist, the innermost first."""
    return [parent for parent in path.parents if not parent.exists()]


def _remove_empty(folders: Collection[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _is_ours(partial: Path) -> bool:
    """Whether unfinished work of ours, an old result on its way out, or nothing at all lies there."""
    if partial.is_symlink() or not partial.is_dir():
        return False
    mark = partial / MARK
    marked = mark.is_file() and not mark.is_symlink()
    return marked or result_kind(partial) is not None or not any(partial.iterdir())


def _mark(folder: Path) -> None:
    with suppress(FileExistsError):
        os.close(os.open(folder / MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _empty(folder: Path, keep: Collection[str] = (), only: Collection[str] | None = None) -> None:
    """Remove what a folder of ours holds, but the mark and ``keep``; or ``only`` these. Links are not followed."""
    for entry in list(os.scandir(folder)):
        if entry.name == MARK or entry.name in keep or (only is not None and entry.name not in only):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()


def _remove(partial: Path) -> None:
    """Remove a partial folder, the mark last: killed on the way, it is still known as ours."""
    with suppress(OSError):
        _empty(partial)
        (partial / MARK).unlink(missing_ok=True)
        partial.rmdir()


def _discard(old: Path) -> None:
    """Remove an old result that has changed places with the new one, unless somebody works there already."""
    if not old.is_dir() or old.is_symlink():
        return
    with suppress(OSError):
        if locks.hold(old, []):
            _mark(old)
            _remove(old)
    locks.release(old)


def _carry(source: Path, target: Path, leave: Collection[str]) -> None:
    """What a folder holds beside ``leave``, into ``target`` too: as links where these can be made, else copied."""
    for entry in list(os.scandir(source)):
        if entry.name in leave or os.path.lexists(target / entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.copytree(entry.path, target / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(entry.path, str(target / entry.name))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # file systems without links, or with a limit of them
        shutil.copy2(source, target, follow_symlinks=False)
