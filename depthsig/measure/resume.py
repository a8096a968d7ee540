"""Finished pieces of an interrupted analysis, kept in ``DIR.partial/units`` for ``--resume``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from depthsig.errors import DepthsigError, InputError
from depthsig.measure.token_rows import TokenRows
from depthsig.signature.storage import begin, partial_path
from depthsig.tables.samples import Samples


@dataclass(frozen=True)
class Units:
    """Pieces by name; without a folder nothing is kept.

    A piece is a job's result on one batch: per-prompt sums and token-level rows. It is written
    whole or not at all, and adding it again gives the numbers that an uninterrupted run has.
    """

    folder: Path | None = None

    @classmethod
    def open(cls, out: str | Path | None, request: dict[str, Any], resume: bool) -> Units:
        """The pieces of this very request; those of another, or without ``resume``, are cleared.

        Raises:
            InputError: with ``resume``, if what lies there was made by another request.
        """
        if out is None:
            if resume:
                raise InputError("--resume needs the --out folder that the interrupted analysis had")
            return cls()
        folder = partial_path(out) / "units"
        text = json.dumps(request, sort_keys=True, default=str)
        stamp = hashlib.sha256(text.encode()).hexdigest()
        found = folder / "request.json"
        if folder.exists() and resume:
            before = _read(found)
            if before.get("stamp") != stamp:
                different = [k for k in request if before.get("request", {}).get(k) != json.loads(text).get(k)]
                raise InputError(
                    f"--resume: {str(partial_path(out))!r} was begun with another {', '.join(different) or 'request'}; "
                    "give the same options, or leave --resume out to start anew"
                )
            return cls(folder)
        begin(out, anew=True)
        folder.mkdir()
        scratch = found.with_suffix(".tmp")
        scratch.write_text(json.dumps({"stamp": stamp, "request": json.loads(text)}), encoding="utf-8")
        scratch.replace(found)
        return cls(folder)

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
            rows = json.loads(str(state.pop("tokens")))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            path.unlink(missing_ok=True)
            return None
        samples.absorb(state)
        return rows

    def save(self, name: str, samples: Samples, rows: TokenRows) -> None:
        """Keep a finished piece."""
        path = self._path(name)
        if path is None:
            return
        scratch = path.with_suffix(".tmp")
        with scratch.open("wb") as file:
            np.savez(file, tokens=np.array(json.dumps(rows)), **samples.state())  # type: ignore[arg-type]
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
                shutil.rmtree(self.folder.parent, ignore_errors=True)
            raise


def _read(path: Path) -> dict[str, Any]:
    """The request that unfinished work belongs to."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"--resume: {str(path)!r} is damaged ({error}); leave --resume out to start anew") from None
    return found if isinstance(found, dict) else {}
