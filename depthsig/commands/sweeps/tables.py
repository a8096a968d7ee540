"""What a sweep's folders hold: which units are done, and the table of all their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from depthsig import __version__
from depthsig.commands.sweeps.sweep_file import SWEPT, Unit
from depthsig.errors import DepthsigError
from depthsig.signature import Signature
from depthsig.signature.folders.kinds import SIGNATURE, record_in, result_kind
from depthsig.signature.schema import TABLES

UNIT = "sweep-unit"
"""Under which a signature's record keeps which unit of a sweep it is."""
FROM = "sweep-files"
"""Under which it keeps digests of the files that it was measured from."""


def is_done(unit: Unit, out: Path, files: Mapping[str, str]) -> bool:
    """Whether a unit's folder holds its whole result, of this version and of the files that are there now.

    Args:
        files: digests of those files, as :func:`~depthsig.commands.sweeps.beforehand.measured_from` gives them.
    """
    folder = out / unit.folder
    told = record_in(folder / SIGNATURE)
    if result_kind(folder) != SIGNATURE or told.get(UNIT) != unit.identity:
        return False
    try:
        info = Signature.load(folder).info
    except DepthsigError:
        return False  # damaged: it is made again
    return info["versions"].get("depthsig") == __version__ and "checkpoint" in files and told.get(FROM) == files


def sweep_table(
    units: Sequence[Unit], out: Path, tick: Callable[[float], None]
) -> tuple[pd.DataFrame, dict[str, int]]:  # fmt: skip
    """``sweep.csv``: every score of units that are done, with what the unit is; and each one's number of steps."""
    frames, steps = [], {}
    for unit in units:
        signature = Signature.load(out / unit.folder)
        scores = signature.scores.reset_index(drop=True)
        about = pd.DataFrame([{"folder": unit.folder, **unit.swept}] * len(scores))
        frames.append(pd.concat([about, scores], axis=1))
        steps[unit.folder] = len(signature.plan)
        tick(1)
    columns = ["folder", *SWEPT.values(), *TABLES["scores"]]
    filled = [frame for frame in frames if len(frame)]
    table = pd.concat(filled, ignore_index=True)[columns] if filled else pd.DataFrame(columns=columns)
    return table, steps
