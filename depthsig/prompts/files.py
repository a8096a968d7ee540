"""Prompt files: text with one prompt a line, or ``text`` and maybe ``answer`` as JSON, CSV or parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from depthsig.errors import DepthsigWarning, InputError, shown
from depthsig.prompts.prompt import Prompt
from depthsig.untrusted import is_there, size_of

FORMS = (
    "a .txt file has one prompt a line; .jsonl (an object a line), .json (a list), .csv and .parquet have `text` and "
    "maybe `answer`"
)
LARGEST_FILE = 1 << 30
"""Bytes of a file: more than this is no list of prompts, and would only be counted."""

_OTHERS = {
    ".yaml", ".yml", ".toml", ".xml", ".html", ".htm", ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".pkl", ".pickle",
    ".npy", ".npz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".pdf", ".docx", ".db", ".sqlite",
}  # fmt: skip
"""Formats whose syntax would be measured as if it were text."""


def read_prompts(path: str | Path, n: int | None = None) -> list[Prompt]:
    """The first ``n`` prompts of a file; what is left out is said in a warning.

    Its name's suffix, in small letters or capitals, says what it is: ``.jsonl`` (or ``.ndjson``), ``.json``,
    ``.csv`` (or ``.tsv``) and ``.parquet`` hold ``text`` and maybe ``answer`` (a ``.json`` list may hold plain
    strings, too); every other file is text, one prompt a line. There only newlines end a line, a carriage
    return before one is part of the line's end, and lines of white space are skipped.

    Raises:
        InputError: for a file that is missing, no regular file, huge, no UTF-8 text, empty, or malformed (with
            its line or row), or an ``n`` below 1.
    """
    path = Path(path)
    _check(path, n)
    n = None if n is None else min(n, sys.maxsize)
    try:
        found, left_out = _READERS.get(path.suffix.lower(), _from_lines(_from_text))(path, n)
    except OSError as error:
        reason = error.strerror or "it is damaged"
        raise InputError(f"prompt file {shown(str(path))} cannot be read: {reason}; {FORMS}") from None
    if not found:
        raise InputError(f"prompt file {shown(str(path))} holds no prompts; {FORMS}")
    if left_out:
        _warn(len(found), left_out, path)
    return found


def is_file_name(text: str) -> bool:
    """Whether a text ends as the name of a prompt file does."""
    return Path(text).suffix.lower() in {*_READERS, *_OTHERS, ".txt", ".md"}


Found = tuple[list[Prompt], int]
"""The prompts that are used, and how many more there are."""


def _check(path: Path, n: int | None) -> None:
    if n is not None and n < 1:
        raise InputError(f"the number of prompts is {n}; 1 is the least")
    if not is_there(path):
        raise InputError(f"prompt file {shown(str(path))} does not exist; `depthsig prompts` lists built-in ones")
    if path.is_dir():
        raise InputError(f"prompt file {shown(str(path))} is a folder; {FORMS}")
    size = size_of(path)
    if size > LARGEST_FILE:
        raise InputError(f"prompt file {shown(str(path))} has {size:,} bytes; at most {LARGEST_FILE:,} are read")
    if path.suffix.lower() in _OTHERS:
        raise InputError(f"prompt file {shown(str(path))} is a {path.suffix} file, which is not read; {FORMS}")


def _from_lines(read: Callable[[str, str], Prompt]) -> Callable[[Path, int | None], Found]:
    """A reader of files with one prompt a line; ``read(line, where)`` is given what a line holds."""

    def reader(path: Path, n: int | None) -> Found:
        found: list[Prompt] = []
        left_out = 0
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if n is not None and len(found) >= n:
                    # Counted without being parsed, so that a large file costs no more than reading it.
                    left_out += not _is_blank(raw)
                    continue
                line = _decode(raw, path, f"line {number}", first=number == 1)
                line = line.removesuffix("\n").removesuffix("\r")
                if line.strip():
                    found.append(read(line, f"{path.name} line {number}"))
        return found, left_out

    return reader


def _is_blank(raw: bytes) -> bool:
    # White space outside ASCII exists too, and is rare.
    return not raw.strip() or (not raw.isascii() and not raw.decode("utf-8", "replace").strip())


def _decode(raw: bytes, path: Path, where: str, *, first: bool = True) -> str:
    if b"\0" in raw:
        raise InputError(f"prompt file {shown(str(path))} is not text: {where} holds a NUL byte; {FORMS}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"prompt file {shown(str(path))} is not UTF-8: {where}, {error.reason}; {FORMS}") from None
    return text.removeprefix("\ufeff") if first else text


def _from_text(line: str, where: str) -> Prompt:
    return Prompt(line)


def _from_object(line: str, where: str) -> Prompt:
    return _prompt(_parsed(line, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {FORMS}") from None


def _prompt(entry: Any, where: str) -> Prompt:
    """A prompt from an object with ``text`` and maybe ``answer``, or with ``ids`` alone."""
    if isinstance(entry, Mapping) and "text" not in entry and "ids" in entry:
        return _token_ids(entry["ids"], where)
    if not isinstance(entry, Mapping) or "text" not in entry:
        found = f"the keys {shown(sorted(map(str, entry)))}" if isinstance(entry, Mapping) else type(entry).__name__
        raise InputError(f"{where} has no `text`, found {found}; {FORMS}")
    for key in ("text", "answer"):
        value = entry.get(key)
        if not isinstance(value, str) and not (key == "answer" and value is None):
            raise InputError(f"{where}: `{key}` is {type(value).__name__}; it must be a string")
    return Prompt(entry["text"], entry.get("answer"))


def _token_ids(ids: Any, where: str) -> Prompt:
    if not isinstance(ids, list) or not ids or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise InputError(f"{where}: `ids` is {shown(ids)}; it must be a list of token ids")
    return Prompt("", ids=tuple(ids))


def as_lines(prompts: Iterable[Prompt]) -> str:
    """Prompts as a ``.jsonl`` file has them, one a line, to be read again as they are."""
    entries = ({"ids": list(p.ids)} if p.ids is not None else {"text": p.text, "answer": p.answer} for p in prompts)
    kept = ({k: v for k, v in entry.items() if v is not None} for entry in entries)
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept)


def _from_list(path: Path, n: int | None) -> Found:
    """A ``.json`` file: one list of strings, or of objects."""
    entries = _parsed(_decode(path.read_bytes(), path, "the file"), path.name)
    if not isinstance(entries, list):
        raise InputError(f"{path.name} holds {type(entries).__name__}, where a list of prompts was expected; {FORMS}")
    found = [
        Prompt(entry) if isinstance(entry, str) else _prompt(entry, f"{path.name} entry {number}")
        for number, entry in enumerate(entries[:n], 1)
    ]
    return found, len(entries) - len(found)


def _from_rows(delimiter: str) -> Callable[[Path, int | None], Found]:
    """A reader of tables as text, whose first row names the columns; an empty answer is none."""

    def rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        table = csv.reader(
            io.StringIO(_decode(path.read_bytes(), path, "the file"), newline=""), delimiter=delimiter, strict=True
        )
        names = next(table, [])
        if "text" not in names or len(set(names)) < len(names):
            raise InputError(f"{path.name} has no column `text` in its first row, found {shown(names)}; {FORMS}")
        for row in table:
            where = f"{path.name} line {table.line_num}"
            if row and len(row) != len(names):
                raise InputError(f"{where} has {len(row)} cells, {len(names)} were expected; {FORMS}")
            if row:
                yield where, dict(zip(names, row, strict=True))

    def reader(path: Path, n: int | None) -> Found:
        every = rows(path)
        try:
            found = [_prompt({**row, "answer": row.get("answer") or None}, where) for where, row in islice(every, n)]
            return found, sum(1 for _ in every)
        except csv.Error as error:
            raise InputError(f"{path.name} is no table ({error}); {FORMS}") from None

    return reader


def _from_parquet(path: Path, n: int | None) -> Found:
    """The columns ``text`` and ``answer`` of a parquet file, of which no more rows are read than are used."""
    import pyarrow as pa  # start-up time
    import pyarrow.parquet as pq  # start-up time

    try:
        with pq.ParquetFile(path) as file:
            there = [name for name in ("text", "answer") if name in file.schema_arrow.names]
            names = file.schema_arrow.names
            if "text" not in there or any(names.count(name) > 1 for name in there):
                raise InputError(f"{path.name} has no column `text`, or two, found {shown(names)}; {FORMS}")
            total = file.metadata.num_rows
            found: list[Prompt] = []
            for batch in file.iter_batches(batch_size=min(n or 1024, 1024), columns=there):
                for entry in batch.to_pylist():
                    if n is None or len(found) < n:
                        found.append(_prompt(entry, f"{path.name} row {len(found)}"))
                if n is not None and len(found) >= n:
                    break
    except InputError:
        raise
    except (pa.ArrowException, ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError) as error:
        reason = shown(" ".join(str(error).split()), 120)
        raise InputError(f"{path.name} is no parquet file that can be read ({reason}); {FORMS}") from None
    return found, total - len(found)


_READERS: dict[str, Callable[[Path, int | None], Found]] = {
    ".jsonl": _from_lines(_from_object), ".ndjson": _from_lines(_from_object), ".json": _from_list,
    ".csv": _from_rows(","), ".tsv": _from_rows("\t"), ".parquet": _from_parquet,
}  # fmt: skip


def _warn(kept: int, left_out: int, path: Path) -> None:
    warnings.warn(
        f"the first {kept} of {kept + left_out} prompts in {path.name} are used; -n raises the number",
        DepthsigWarning,
        stacklevel=4,
    )
