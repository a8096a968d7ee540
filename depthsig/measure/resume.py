"""Finished pieces of an interrupted analysis, kept in ``DIR.partial/units`` for ``--resume``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from depthsig.errors import DepthsigError, InputError
from depthsig.measure.token_rows import TokenRows
from depthsig.signature.folders.choosing import IDENTITY, REQUEST
from depthsig.signature.folders.writing import UNITS, begin, end, partial_path, storing
from depthsig.tables.samples import Samples


@dataclass(frozen=True)
class Units:
    """Pieces by name; without a folder nothing is kept.

    A piece is a job's result on one batch: per-prompt sums and token-level rows. It is written
    whole or not at all, and adding it again gives the numbers that an uninterrupted run has.

    Attributes:
        stamp: of the request that the pieces belong to; every piece carries it.
        out: the results folder, as it was given.
    """

    folder: Path | None = None
    stamp: str = ""
    out: str = ""

    @classmethod
    def open(cls, out: str | Path | None, request: dict[str, Any], identity: str, resume: bool) -> Units:
        """The pieces of this very request; those of another, or without ``resume``, are cleared.

        Args:
            request: what must be the same for work to be gone on with. identity: of the result.

        Raises:
            InputError: with ``resume``, if what lies there was made by another request.
        """
        if out is None:
            if resume:
                raise InputError("--resume needs the --out folder that the interrupted analysis had")
            return cls()
        folder = partial_path(out) / UNITS
        text = json.dumps(request, sort_keys=True, default=str)
        stamp = hashlib.sha256(text.encode()).hexdigest()
        found = folder / REQUEST
        if resume and found.exists():
            before = _read(found)
            if before.get("stamp") != stamp:
                different = [k for k in request if before.get("request", {}).get(k) != json.loads(text).get(k)]
                raise InputError(
                    f"--resume: {str(partial_path(out))!r} was begun with another {', '.join(different) or 'request'}; "
                    "give the same options, or leave --resume out to start anew"
                )
            begin(out)
            return cls(folder, stamp, str(out))
        begin(out, anew=True)
        opened = cls(folder, stamp, str(out))
        with opened.cleared_on_errors(), storing(out):
            # Known by its request from the first moment that it is there.
            scratch = folder.with_name(f"{UNITS}.tmp")
            scratch.mkdir()
            told = json.dumps({"stamp": stamp, IDENTITY: identity, "request": json.loads(text)})
            (scratch / REQUEST).write_text(told, encoding="utf-8")
            scratch.rename(folder)
        return opened

    def load(self, name: str, samples: Samples) -> TokenRows | None:
        """Add a finished piece to ``samples`` and return its token rows; None where there is none.

        A piece that is damaged is none: it is measured again.
        """
        path = self._path(name)
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                state = {k: arrays[k] for k in arrays.files}
            ours = str(state.pop("stamp")) == self.stamp
            rows = json.loads(str(state.pop("tokens")))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            ours = False
        if not ours:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        samples.absorb(state)
        return rows

    def save(self, name: str, samples: Samples, rows: TokenRows) -> None:
        """Keep a finished piece.

        Raises:
            DepthsigError: if the disk is full, or the folder was taken away.
        """
        path = self._path(name)
        if path is None:
            return
        scratch, told = path.with_suffix(".tmp"), {"stamp": np.array(self.stamp), "tokens": np.array(json.dumps(rows))}
        with storing(self.out):
            with scratch.open("wb") as file:
                np.savez(file, **told, **samples.state())  # type: ignore[arg-type]
            scratch.replace(path)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.npz"

    @contextmanager
    def cleared_on_errors(self) -> Iterator[None]:
        """Leave nothing behind when input turns out to be bad; Ctrl-C and crashes keep the pieces."""
        try:
            yield
        except DepthsigError:
            if self.folder is not None:
                end(self.out)
            raise


def _read(path: Path) -> dict[str, Any]:
    """The request that unfinished work belongs to."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"--resume: {str(path)!r} is damaged ({error}); leave --resume out to start anew") from None
    return found if isinstance(found, dict) else {}
