"""Blocks that were found, as a folder keeps them: the record, and what weights and activations were searched in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.errors import InputError
from depthsig.signature import storage, tabular
from depthsig.signature.folders.kinds import FOUND_BLOCKS
from depthsig.signature.reading import read_as, read_table
from depthsig.signature.records import MOST_STEPS, BlocksRecord
from depthsig.signature.tabular import INTEGER, NUMBER, TEXT, Columns

SCHEMA = "depthsig-blocks/1"
SIMILARITIES: Columns = {"evidence": TEXT, "row": INTEGER, "col": INTEGER, "value": NUMBER}
"""Cosines of every two layers' weights, and of what every two steps add; ``evidence`` tells which."""

_FILE = "similarities.csv"


@dataclass(frozen=True)
class SavedBlocks:
    """What ``find-blocks`` found.

    Attributes:
        info: what ``blocks.json`` says.
        similarities: see :data:`SIMILARITIES`; empty where nothing was searched.
    """

    info: Mapping[str, Any]
    similarities: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SIMILARITIES)), repr=False)

    def matrix(self, evidence: str) -> pd.DataFrame | None:
        """The cosines of one kind of evidence, rows x columns; None where it was not searched."""
        rows = self.similarities[self.similarities["evidence"] == evidence]
        return rows.pivot(index="row", columns="col", values="value") if len(rows) else None

    def write(self, folder: Path) -> None:
        """Write record and table into a folder that exists."""
        tabular.write(self.similarities, folder / _FILE, SIMILARITIES)
        storage.write_record(folder / FOUND_BLOCKS, dict(self.info))

    @classmethod
    def load(cls, directory: str | Path) -> SavedBlocks:
        """Read a folder of found blocks.

        Raises:
            InputError: naming what is missing or damaged.
        """
        folder = Path(directory)
        info = read_as(folder / FOUND_BLOCKS, (SCHEMA,), BlocksRecord)
        table = read_table(folder / _FILE, SIMILARITIES)
        places = table[["row", "col"]]
        if places.isna().any(axis=None) or ((places < 0) | (places >= MOST_STEPS)).any(axis=None):
            raise InputError(f"{str(folder / _FILE)!r} is damaged: a cell of it has no place")
        for _, rows in table.groupby("evidence"):
            if len(rows) != rows["row"].nunique() * rows["col"].nunique():
                raise InputError(f"{str(folder / _FILE)!r} is damaged: a matrix of it lacks cells")
        if table.duplicated(["evidence", "row", "col"]).any():
            raise InputError(f"{str(folder / _FILE)!r} is damaged: a cell of it stands there twice")
        return cls(info, table)
