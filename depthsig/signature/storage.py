"""Results folders: written whole or not at all.

Work in progress lives in ``DIR.partial/`` and is renamed when it is done. A folder that exists
and is no result of ours is never overwritten.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depthsig.errors import InputError
from depthsig.signature import tabular
from depthsig.signature.schema import FILES, TABLES


def partial_path(directory: str | Path) -> Path:
    """Where work in progress on ``directory`` lives."""
    path = Path(directory)
    return path.with_name(path.name + ".partial")


MARK = ".depthsig"
"""An empty file that makes a partial folder ours, so that nobody else's is ever cleared."""

SIGNATURE, REPEAT, COMPARE, LENS = "signature.json", "repeat.json", "compare.json", "lens.json"
RECORDS = {
    SIGNATURE: "depthsig-signature/", REPEAT: "depthsig-repeat/", COMPARE: "depthsig-compare/", LENS: "depthsig-lens/",
}  # fmt: skip
"""The file that makes a folder a result of ours, and how its schema begins."""


def is_result(directory: str | Path) -> bool:
    """Whether a folder is a result of ours."""
    return result_kind(directory) is not None


def result_kind(directory: str | Path) -> str | None:
    """Which of :data:`RECORDS` a folder holds; None if it is no result of ours."""
    for name, schema in RECORDS.items():
        try:
            info = json.loads((Path(directory) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(info, dict) and str(info.get("schema", "")).startswith(schema):
            return name
    return None


def ensure_writable(directory: str | Path, record: str = SIGNATURE) -> None:
    """Check that a result can be written to ``directory``, before anything is computed.

    Args:
        record: which of :data:`RECORDS` will be written; only a result of that kind is replaced.

    Raises:
        InputError: if it is a file, a folder that is no such result of ours, or cannot be written.
    """
    path = Path(directory)
    if path.is_file():
        raise InputError(f"--out {str(path)!r} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and (found := result_kind(path)) != record:
        what = f"a depthsig result of another kind ({found})" if found else "something that is no depthsig result"
        raise InputError(f"--out {str(path)!r} holds {what}; name another folder")
    partial = partial_path(path)
    if partial.exists() and not _is_ours(partial):
        raise InputError(
            f"{str(partial)!r}, where unfinished work would go, holds something that is not depthsig's; "
            "move it away or name another --out"
        )
    # The nearest parent that exists is tried with a real file: permission bits lie to root.
    parent = next(p for p in (path.absolute().parent, *path.absolute().parents) if p.exists())
    probe = parent / f".depthsig-{path.name}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {str(path)!r} cannot be written: {error.strerror}") from None


def _is_ours(partial: Path) -> bool:
    return partial.is_dir() and ((partial / MARK).exists() or not any(partial.iterdir()))


def begin(directory: str | Path, anew: bool = False, record: str = SIGNATURE) -> Path:
    """The folder for work in progress on ``directory``, marked as ours; ``anew`` clears it first.

    Raises:
        InputError: if something else of that name is there.
    """
    partial = partial_path(directory)
    ensure_writable(directory, record)
    if anew:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / MARK).touch()
    return partial


@contextmanager
def writing(directory: str | Path, record: str = SIGNATURE) -> Iterator[Path]:
    """A folder to write into, which becomes ``directory`` when all went well; ``record`` is its kind.

    On an exception nothing is left behind; on Ctrl-C the partial folder stays.
    """
    target, partial = Path(directory), partial_path(directory)
    ensure_writable(target, record)  # before the cleaning up below could touch anything
    created = [p for p in partial.absolute().parents if not p.exists()]
    try:
        begin(target, record=record)
        yield partial
        shutil.rmtree(partial / "units", ignore_errors=True)  # pieces that only --resume needed
        (partial / MARK).unlink(missing_ok=True)
        _replace(partial, target)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in created:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"--out {str(target)!r} cannot be written: {error.strerror}") from error
        raise


def _replace(partial: Path, target: Path) -> None:
    """Rename the new folder into place, the old one out of the way first."""
    if not target.exists():
        partial.rename(target)
        return
    # A name that nobody else has: what is cleared afterwards must be the old result and nothing else.
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.absolute().parent))
    old = target.rename(aside / target.name)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_tables(directory: Path, info: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """``signature.json`` and every table, into a folder that exists."""
    for name, frame in tables.items():
        tabular.write(frame, directory / FILES[name], TABLES[name])
    told = {**info, "rows": {FILES[name]: len(frame) for name, frame in tables.items()}}
    write_record(directory / "signature.json", told)


def write_record(path: Path, info: Any) -> None:
    """A record as JSON that people can read."""
    path.write_text(json.dumps(info, indent=1, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to signature.json")
