"""A sweep, run: a results folder for each unit, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from depthsig.commands.analyze import analyze
from depthsig.commands.sweeps.sweep_file import SWEPT, Sweep, Unit
from depthsig.errors import DepthsigError
from depthsig.model import Model, load
from depthsig.signature import Signature
from depthsig.signature.folders.kinds import SIGNATURE, record_in, result_kind
from depthsig.signature.schema import TABLES

UNIT = "sweep-unit"
"""Under which a signature's record keeps which unit of a sweep it is."""


@dataclass(frozen=True)
class Trust:
    """What lets code run: given by whoever starts a sweep, never by its file."""

    trust_remote_code: bool = False
    allow_pickle: bool = False
    plugin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        error: why there is no result; "" where there is one.
        made: whether it was measured now, and not before.
    """

    unit: Unit
    error: str = ""
    made: bool = True


def is_done(unit: Unit, out: Path) -> bool:
    """Whether a unit's folder holds its result."""
    folder = out / unit.folder
    if result_kind(folder) != SIGNATURE or record_in(folder / SIGNATURE).get(UNIT) != unit.identity:
        return False
    try:
        Signature.load(folder)
    except DepthsigError:
        return False  # damaged: it is made again
    return True


def run_group(units: Sequence[Unit], out: Path, trust: Trust) -> Iterator[Outcome]:
    """The units of one checkpoint and revision, its weights loaded once; what fails is told, and the next one run."""
    missing = [unit for unit in units if not is_done(unit, out)]
    yield from (Outcome(unit, made=False) for unit in units if unit not in missing)
    if not missing:
        return
    try:
        model = _loaded(missing[0], trust)
    except (DepthsigError, OSError, MemoryError, RuntimeError) as error:
        yield from (Outcome(unit, _line(error)) for unit in missing)
        return
    for unit in missing:
        try:
            _measure(unit, model, out, trust)
            yield Outcome(unit)
        except (DepthsigError, OSError, MemoryError, RuntimeError) as error:
            yield Outcome(unit, _line(error))


def _loaded(unit: Unit, trust: Trust) -> Model:
    loading = {key: unit.options[key] for key in ("dtype", "device", "device_map") if key in unit.options}
    return load(
        unit.source, revision=unit.hub_revision, trust_remote_code=trust.trust_remote_code,
        allow_pickle=trust.allow_pickle, seed=unit.options.get("seed", 0), progress=False, **loading,
    )  # fmt: skip


def _measure(unit: Unit, model: Model, out: Path, trust: Trust) -> None:
    options = {k: v for k, v in unit.options.items() if k not in ("dtype", "device", "device_map")}
    signature = analyze(
        model, unit.prompts, order=unit.order, preset=unit.preset, plugin=trust.plugin, progress=False, **options
    )
    signature.info[UNIT] = unit.identity
    signature.save(out / unit.folder, figures=False)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def sweep_table(sweep: Sweep, out: Path) -> pd.DataFrame:
    """``sweep.csv``: every score of every unit that has a result, with what the unit is."""
    frames = []
    for unit in sweep.units:
        if is_done(unit, out):
            scores = Signature.load(out / unit.folder).scores
            about = pd.DataFrame(
                [{"folder": unit.folder, **unit.swept}] * len(scores), columns=["folder", *SWEPT.values()]
            )
            frames.append(pd.concat([about, scores.reset_index(drop=True)], axis=1))
    columns = ["folder", *SWEPT.values(), *TABLES["scores"]]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
