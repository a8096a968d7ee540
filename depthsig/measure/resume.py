"""Finished pieces of an interrupted analysis, kept in ``DIR.partial/units`` for ``--resume``."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy import ndarray

from depthsig.errors import DepthsigError, InputError, NoRoomError
from depthsig.measure.token_rows import TokenRows, token_row
from depthsig.signature.folders.choosing import IDENTITY, REQUEST
from depthsig.signature.folders.writing import UNITS, begin, end, partial_path, storing
from depthsig.tables.samples import Key, Samples
from depthsig.untrusted import read_json, size_of

DAMAGED = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, MemoryError,
    RuntimeError, BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy, zip files, JSON and :class:`Samples` raise for files that are no pieces of ours."""

_COLUMNS = token_row(Key(""), 0, 0, 0, 0.0).keys()


Piece = tuple[Mapping[str, ndarray], TokenRows]
"""Per-prompt sums, as :meth:`Samples.state` gives them, and token-level rows."""
Pieces = Mapping[str, Piece]


@dataclass(frozen=True)
class Share:
    """The batches that one of several processes runs: every ``of``-th, from ``number`` on."""

    number: int = 0
    of: int = 1

    def has(self, batch: int) -> bool:
        """Whether a batch belongs to it."""
        return batch % self.of == self.number


WHOLE = Share()


@dataclass(frozen=True)
class Units:
    """Pieces by name; without a folder nothing is kept.

    A piece is a job's result on one batch: per-prompt sums and token-level rows. It is written
    whole or not at all, and adding it again gives the numbers that an uninterrupted run has.

    Attributes:
        stamp: of the request that the pieces belong to; every piece carries it.
        out: the results folder, as it was given.
        given: pieces that other processes measured.
        made: where pieces go that another process will be given; None: nowhere.
    """

    folder: Path | None = None
    stamp: str = ""
    out: str = ""
    given: Pieces = field(default_factory=dict, repr=False)
    made: dict[str, Piece] | None = field(default=None, repr=False)

    def given_too(self, pieces: Pieces) -> Units:
        """With pieces that were measured elsewhere, of the same request."""
        return replace(self, given={**self.given, **pieces})

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
            before, asked = _read(found), json.loads(text)
            if before["stamp"] != stamp:
                different = [k for k in request if before["request"].get(k) != asked.get(k)]
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

        A piece that is damaged, or holds anything but what :meth:`save` put into it, is none: it is measured again.
        """
        if name in self.given:
            state, rows = self.given[name]
            samples.absorb(state)
            return rows
        path = self._path(name)
        if path is None or not path.exists():
            return None
        try:
            return self._absorbed(path, samples)
        except DAMAGED:
            with suppress(OSError):
                _clear(path)
            return None

    def _absorbed(self, path: Path, samples: Samples) -> TokenRows:
        """Add a piece to ``samples``, whole or not at all."""
        size_of(path)
        with np.load(path, allow_pickle=False) as arrays:
            state = {k: arrays[k] for k in arrays.files}
        if str(state.pop("digest")) != _digest(state) or str(state.pop("stamp")) != self.stamp:
            raise ValueError("it is not what was written")
        rows = rows_of(str(state.pop("tokens")))
        alone = Samples(samples.n_prompts)
        alone.absorb(state)
        if any(samples.shapes.get(key, shape) != shape for key, shape in alone.shapes.items()):
            raise ValueError("its values have other shapes than those of other pieces")
        samples.absorb(state)
        return rows

    def save(self, name: str, samples: Samples, rows: TokenRows) -> None:
        """Keep a finished piece.

        Raises:
            DepthsigError: if the disk is full, or the folder was taken away.
        """
        self.pass_on(name, (samples.state(), rows))
        path = self._path(name)
        if path is None:
            return
        told = {"stamp": np.array(self.stamp), "tokens": np.array(json.dumps(rows)), **samples.state()}
        scratch = path.with_suffix(".tmp")
        with storing(self.out):
            _clear(scratch)  # a link would lead elsewhere, and a FIFO wait
            with scratch.open("wb") as file:
                np.savez(file, digest=np.array(_digest(told)), **told)  # type: ignore[arg-type]
            scratch.replace(path)

    def pass_on(self, name: str, piece: Piece) -> None:
        """Let another process have a piece, where one is to."""
        if self.made is not None:
            self.made[name] = piece

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.npz"

    @contextmanager
    def cleared_on_errors(self) -> Iterator[None]:
        """Leave nothing behind when input turns out to be bad; Ctrl-C and crashes keep the pieces."""
        try:
            yield
        except DepthsigError as error:
            if self.folder is not None and not isinstance(error, NoRoomError):
                end(self.out)
            raise


def rows_of(text: str) -> TokenRows:
    """The token rows that a piece keeps as JSON.

    Raises:
        ValueError: for anything else.
    """
    rows = json.loads(text)
    if not isinstance(rows, list) or any(not isinstance(row, dict) or row.keys() != _COLUMNS for row in rows):
        raise ValueError("its rows are no token rows")
    return rows


def _digest(arrays: Mapping[str, ndarray]) -> str:
    """Of all that a piece holds: a number in it may be any, so that nothing else tells one that was changed."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _clear(path: Path) -> None:
    """Take away what lies at a path, whatever it is; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """The request that unfinished work belongs to, and its stamp."""
    anew = "leave --resume out to start anew"
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--resume: {error}; {anew}") from None
    if not isinstance(found, dict) or not isinstance(found.get("request"), dict) or "stamp" not in found:
        raise InputError(f"--resume: {str(path)!r} is damaged: it holds no request with its stamp; {anew}")
    return found
