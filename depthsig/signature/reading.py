"""Reading results folders: whatever is in them is either what was written, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.errors import InputError, as_path, shown
from depthsig.signature import tabular
from depthsig.signature.consistency import wrong_tables
from depthsig.signature.folders.kinds import GIVEN, PARTIAL, SIGNATURE
from depthsig.signature.records import Kind, SignatureRecord, as_record
from depthsig.signature.schema import FILES, READS, TABLES
from depthsig.signature.tabular import Columns
from depthsig.untrusted import is_folder, is_there, made_visible, read_json, size_of

LARGEST_GIVEN = 1 << 30
"""Bytes of prompts that are kept beside a result."""


def read_tables(directory: str | Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """What :func:`depthsig.signature.storage.write_tables` wrote.

    Raises:
        InputError: naming the file that is missing, damaged or of another schema.
    """
    path = as_path(directory)
    if path.name.endswith(PARTIAL):
        raise InputError(f"{str(path)!r} is unfinished work, not a result; run the analysis with --resume")
    if not is_folder(path):
        raise InputError(f"{str(path)!r} is no folder; name a results folder")
    info = read_as(path / SIGNATURE, READS, SignatureRecord, check_record)
    tables = {name: read_table(path / file, TABLES[name]) for name, file in FILES.items()}
    written = info.pop("rows", {})
    for name, file in FILES.items():
        if written.get(file, len(tables[name])) != len(tables[name]):
            raise InputError(
                f"{str(path / file)!r} is damaged: {len(tables[name])} of its {written[file]} rows are there; "
                "analyze the checkpoint again"
            )
    for name, wrong in wrong_tables(info, tables):
        raise InputError(f"{str(path / FILES[name])!r} is damaged: {wrong}")
    return info, tables


def read_given(folder: Path) -> dict[str, str]:
    """The prompts that were given as objects, as text, by their files; none where none were kept.

    Raises:
        InputError: for a file that cannot be read, or is too large to be one of ours.
    """
    found = {}
    for name in GIVEN:
        path = folder / name
        if not is_there(path):
            continue
        try:
            size = size_of(path)
            if size > LARGEST_GIVEN:
                raise InputError(f"{str(path)!r} has {size:,} bytes; at most {LARGEST_GIVEN:,} are read")
            found[name] = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(path)!r} cannot be read as text: {shown(str(error), 200)}") from None
    return found


def read_table(path: Path, columns: Columns) -> pd.DataFrame:
    """One table of a results folder.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    try:
        return tabular.read(path, columns)
    except InputError:
        raise
    except tabular.UNREADABLE as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise InputError(f"{str(path)!r} cannot be read as a table of ours: {reason}") from None


def read_record(path: Path, schemas: Sequence[str]) -> dict[str, Any]:
    """The record of a results folder, of a schema that is read, with all its text made visible.

    Raises:
        InputError: if it is missing, damaged or of another schema.
    """
    try:
        info = read_json(path)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path.parent)!r} holds no {path.name}; it is no depthsig result of this kind") from None
    found = info.get("schema") if isinstance(info, dict) else None
    if found not in schemas:
        known = " and ".join(map(repr, schemas))
        raise InputError(f"{str(path)!r} has schema {shown(found)}; this version reads {known}")
    made: dict[str, Any] = made_visible(info)
    return made


def read_as(
    path: Path, schemas: Sequence[str], kind: type[Kind], check: Callable[[Kind], None] = lambda record: None
) -> dict[str, Any]:
    """:func:`read_record`, of a record that holds what is declared of its kind.

    Args:
        check: what types cannot say; raises InputError.

    Raises:
        InputError: if it is missing, damaged or of another schema.
    """
    info = read_record(path, schemas)
    try:
        check(as_record(info, kind))
    except InputError as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from None
    return info


def check_record(record: SignatureRecord) -> None:
    """Hold a signature's record to what its types cannot say.

    Raises:
        InputError: saying what contradicts what.
    """
    steps = len(record.plan)
    if [step.step for step in record.plan] != list(range(steps)):
        raise InputError("the steps of its plan are not numbered from 0")
    for span in (*record.spans.executed, *record.spans.labelled):
        where = f"the span {span.start}:{span.end}"
        if not span.start < span.end <= steps:
            raise InputError(f"{where} lies outside its {steps} steps")
        if span.size * span.count != span.end - span.start:
            raise InputError(f"{where} is not {span.count} x {span.size} steps")
