"""Finished pieces of a replication that is under way, for ``--resume``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.errors import InputError
from depthsig.signature import Signature
from depthsig.signature.folders.choosing import IDENTITY, REQUEST, identity_of
from depthsig.signature.folders.kinds import REPLICATION, RUNS
from depthsig.signature.folders.writing import UNITS, begin, end, leave, storing
from depthsig.signature.reading import read_table
from depthsig.signature.tabular import Columns, conform, write


class Pieces:
    """Finished pieces of unfinished work, beside the folder that will be written; nowhere where there is none.

    A piece is kept with a stamp of what it was measured of; one with another stamp, or damaged, is measured anew.
    """

    def __init__(self, out: str | Path | None, resume: bool) -> None:
        if resume and out is None:
            raise InputError("--resume needs the --out folder that the interrupted replication had")
        self.out = out
        self.folder: Path | None = None
        if out is not None:
            self.folder = begin(out, anew=not resume, record=REPLICATION) / UNITS
            with storing(out):
                self.folder.mkdir(exist_ok=True)

    def tell(self, identity: str) -> None:
        """Say whose pieces these are, so that a folder that nobody named is found again."""
        if self.folder is not None and self.out is not None:
            with storing(self.out):
                (self.folder / REQUEST).write_text(json.dumps({IDENTITY: identity}), encoding="utf-8")

    def signature(self, name: str, stamp: Sequence[Any], make: Callable[[], Signature]) -> Signature:
        """An analysis: the one that was kept, else a new one, which is kept."""
        kept = self._kept(name, stamp)
        if kept is not None:
            with suppress(InputError):
                return Signature.load(kept / "made")
        found = make()
        self._keep(name, stamp, found.write)
        return found

    def table(
        self, name: str, stamp: Sequence[Any], columns: Columns, make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:  # fmt: skip
        """A table of runs, in the same way."""
        kept = self._kept(name, stamp)
        if kept is not None:
            with suppress(InputError):
                return read_table(kept / "made" / RUNS, columns)
        found = conform(make(), columns, RUNS)
        self._keep(name, stamp, lambda folder: write(found, folder / RUNS, columns))
        return found

    def _kept(self, name: str, stamp: Sequence[Any]) -> Path | None:
        if self.folder is None:
            return None
        place = self.folder / _file_name(name)
        try:
            told = (place / "stamp.json").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
        return place if told == _stamped(stamp) else None

    def _keep(self, name: str, stamp: Sequence[Any], fill: Callable[[Path], object]) -> None:
        if self.folder is None or self.out is None:
            return
        with storing(self.out):
            place = self.folder / _file_name(name)
            scratch = place.with_name(f"{place.name}.{os.getpid()}")
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)
            (scratch / "made").mkdir(parents=True)
            fill(scratch / "made")
            (scratch / "stamp.json").write_text(_stamped(stamp), encoding="utf-8")
            scratch.rename(place)

    def clear(self) -> None:
        """Leave nothing behind."""
        if self.out is not None:
            end(self.out)

    def leave(self) -> None:
        """Let ``--resume`` go on with what is there."""
        if self.out is not None:
            leave(self.out)


def _file_name(name: str) -> str:
    return identity_of({"name": name})[:40]


def _stamped(stamp: Sequence[Any]) -> str:
    return json.dumps([repr(one) for one in stamp])
