"""What can be known of a sweep's units before weights are read: what is wrong, and what they are measured from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from depthsig.checkpoint.files.listing import Files, list_files
from depthsig.checkpoint.known import check_revision, locate
from depthsig.checkpoint.lens_folder import files_of_lens
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.analyze import Job, job_of
from depthsig.commands.early import asked_of, refuse_early
from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.errors import DepthsigError
from depthsig.untrusted import is_file


@dataclass(frozen=True)
class Trust:
    """What lets code run: given by whoever starts a sweep, never by its file."""

    trust_remote_code: bool = False
    allow_pickle: bool = False
    plugin: tuple[str, ...] = ()


def loading_of(unit: Unit, trust: Trust) -> LoadOptions:
    """How a unit's checkpoint is opened."""
    return LoadOptions(
        revision=unit.hub_revision, trust_remote_code=trust.trust_remote_code, allow_pickle=trust.allow_pickle,
        **unit.loading_options,
    )  # fmt: skip


def check_options(units: Sequence[Unit], trust: Trust) -> None:
    """Refuse options that would fail in every unit, before anything is opened.

    Raises:
        InputError: as ``analyze`` does.
    """
    loading_of(units[0], trust)
    for preset in dict.fromkeys(unit.preset for unit in units):
        _job(units[0], preset, trust)


def refuse_unit(unit: Unit, trust: Trust) -> None:
    """Refuse what can be known to be wrong of one unit without weights: files, names, its order.

    Raises:
        InputError: for the first mistake that is found.
    """
    job = _job(unit, unit.preset, trust)
    asked = asked_of(job.prompts, job.request)
    refuse_early(unit.source, loading_of(unit, trust), job.given.plan, asked)


def _job(unit: Unit, preset: str | None, trust: Trust) -> Job:
    return job_of(
        model=unit.source, prompts=unit.prompts, order=unit.other_order, preset=preset, plugin=trust.plugin,
        **unit.options_of_analyze,
    )  # fmt: skip


def files_of(unit: Unit, trust: Trust) -> Files | None:
    """The files of a unit's checkpoint; None where they are not on this machine, or cannot be read."""
    try:
        place = locate(unit.source)
        check_revision(unit.hub_revision, place, repr(unit.source))
        if isinstance(place, str):
            place = Path(snapshot_download(place, revision=unit.hub_revision, local_files_only=True))
        return list_files(place, LoadOptions(allow_pickle=trust.allow_pickle, trust_remote_code=True), unit.source)
    except Exception:  # of many kinds, where a hub is asked; whoever opens it says why
        return None


def measured_from(unit: Unit, trust: Trust) -> dict[str, str]:
    """Digests of the files that a unit's numbers depend on: weights, tokenizer, code, prompts, lens, plug-ins.

    A checkpoint that is not on this machine has none, and so is another one whenever it is asked about.
    """
    found = {}
    digest = _of_checkpoint(unit.source, unit.hub_revision, trust)
    if digest is not None:
        found["checkpoint"] = digest
    for name, path in _named(unit, trust):
        found[f"{name} {path}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@cache
def _of_checkpoint(source: str, revision: str | None, trust: Trust) -> str | None:
    """Of weights their sizes and times, for they may be large and many; of all else that is read, what it holds."""
    files = files_of(Unit(source, revision=revision), trust)
    if files is None:
        return None
    digest = hashlib.sha256()
    for path in files.weights:
        found = path.stat()
        digest.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    code = sorted(files.folder.glob("*.py")) if trust.trust_remote_code else []
    small = [] if files.gguf is not None else [files.folder / "config.json"]
    for path in [*small, *files.tokenizer, *code]:
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def forget_digests() -> None:
    """Look at every checkpoint anew: files may have changed since the last sweep of this process."""
    _of_checkpoint.cache_clear()


def _named(unit: Unit, trust: Trust) -> Iterator[tuple[str, Path]]:
    """Files that options name."""
    given: dict[str, Any] = {"prompts": unit.prompts, "calibration": unit.options.get("calibration")}
    for name, value in given.items():
        if isinstance(value, str) and is_file(Path(value)):
            yield name, Path(value)
    lens = unit.options.get("lens") or ()
    for one in [lens] if isinstance(lens, str) else lens:
        with suppress(DepthsigError):  # whoever opens it says why
            yield from (("lens", path) for path in files_of_lens(one))
    for plugin in trust.plugin:
        if is_file(Path(plugin)):
            yield "plugin", Path(plugin)
