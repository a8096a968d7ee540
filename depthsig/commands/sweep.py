"""Many analyses from one file: a results folder each, one table of all scores, comparisons, and when claims set in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from depthsig import __version__
from depthsig.arguments import check_arguments
from depthsig.commands.sweeps.beforehand import Trust, check_options, forget_digests, measured_from, refuse_unit
from depthsig.commands.sweeps.board import Board
from depthsig.commands.sweeps.compared_roles import compare_roles
from depthsig.commands.sweeps.here import Result, run_here
from depthsig.commands.sweeps.on_ray import import_ray, run_on_ray
from depthsig.commands.sweeps.onsets import onsets
from depthsig.commands.sweeps.sweep_file import AskedSweep, Unit, read_sweep
from depthsig.commands.sweeps.tables import FROM, UNIT, is_done, sweep_table
from depthsig.commands.sweeps.worker import Failed
from depthsig.errors import DepthsigError, InputError, shown
from depthsig.progress import Progress
from depthsig.signature import Signature
from depthsig.signature.folders.beside import beside
from depthsig.signature.folders.choosing import IDENTITY, RESULTS, identity_of, settle
from depthsig.signature.folders.kinds import SWEEP, record_in, result_kind
from depthsig.signature.folders.locks import alone_in
from depthsig.signature.folders.writing import ensure_writable, writing
from depthsig.signature.provenance import versions
from depthsig.signature.sweeps.swept import DONE, FAILED, LEFT, SCHEMA, Swept
from depthsig.untrusted import made_visible


def sweep(
    file: str | Path, *, ray: str | None = None, workers: int | None = None, out: str | Path | None = None,
    resume: bool = False, recheck: bool = False, trust_remote_code: bool = False, allow_pickle: bool = False,
    plugin: str | Path | Sequence[str | Path] = (), progress: bool | Progress | None = None,
) -> Swept:  # fmt: skip
    """Analyse every combination that a file names, each into a folder of its own.

    A unit that fails is told of and stops no other. Paths in the file are relative to the current folder.

    Args:
        file: YAML with ``checkpoints``, ``revisions`` (``{revision}`` in a checkpoint's path is replaced), ``orders``
            (``native`` is the model's own), ``prompts`` and ``presets``, each a list; ``roles`` (role → list of
            checkpoints) for comparisons; and options of :func:`depthsig.analyze` for all units.
        ray: where units run beside each other: ``local``, or the address of a Ray cluster. Default: here, one after
            another.
        workers: with ``ray``, at most so many processes. Default: as many as fit. Where there are more than
            checkpoints, several share a checkpoint's prompts; the numbers are the same.
        out: folder for all of it. Default: ``depthsig-results/FILE``.
        resume: keep units that are done, and whose files are the same; without it all are measured.
        recheck: prove certificates and measure units of work anew, though they are kept from before.
        trust_remote_code: run code that checkpoints bring. allow_pickle: load pickled weights.
        plugin: files of your own that declare metrics.
        progress: show a table of the units (the default): live in a terminal, else a line for each that is done.

    Returns:
        Scores of all units, and from which revision on claims hold; ``.units`` says what became of each.

    Raises:
        InputError: for a file that cannot be read, options that no unit could follow, a folder that cannot be
            written, and where Ray is asked for and is not there.
    """
    check_arguments(sweep, locals())
    if workers is not None and (ray is None or workers < 1):
        raise InputError(f"workers is {workers}; it goes with ray, and is 1 or more")
    files = [plugin] if isinstance(plugin, (str, Path)) else list(plugin)
    trust = Trust(trust_remote_code, allow_pickle, tuple(str(Path(one).absolute()) for one in files))
    forget_digests()
    asked = read_sweep(file)
    if recheck:
        asked = replace(asked, units=tuple(replace(u, options={**u.options, "recheck": True}) for u in asked.units))
    check_options(asked.units, trust)
    if ray is not None:
        import_ray()
    name = Path(file).stem
    identity = identity_of({"units": [unit.identity for unit in asked.units], "roles": asked.roles})
    target = _target(asked, name, identity, resume) if out is None else Path(out)
    ensure_writable(target, SWEEP)
    before = record_in(target / SWEEP)
    if not resume and before and before.get(IDENTITY) != identity:
        raise InputError(
            f"{shown(str(target))} holds another sweep, {shown(str(before.get('name')))}; name another folder, or go "
            "on in it with --resume, which keeps the units that both have"
        )
    job = Sweeping(asked, name, identity, target, trust, Progress.of(progress))
    with alone_in(target):
        return job.run(ray, workers, resume)


def _target(asked: AskedSweep, name: str, identity: str, resume: bool) -> Path:
    """The folder that nobody named: with ``resume`` also that of a sweep of the same units, and more or fewer."""
    first = RESULTS / name
    there = {one.get("folder") for one in record_in(first / SWEEP).get("units", []) if isinstance(one, dict)}
    if resume and there & {unit.folder for unit in asked.units}:
        return first
    return settle(name, identity, SWEEP)


@dataclass
class Sweeping:
    """A sweep under way.

    Attributes:
        target: its folder.
        files: what units are measured from, by their folders.
        why: of units that failed, by their folders.
    """

    asked: AskedSweep
    name: str
    identity: str
    target: Path
    trust: Trust
    show: Progress
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    why: dict[str, str] = field(default_factory=dict)

    def run(self, ray: str | None, workers: int | None, resume: bool) -> Swept:
        """Run what is to be run, and put everything together."""
        # Of the files as they are now: one that changes meanwhile makes a unit another one when it is resumed.
        self.files = {unit.folder: measured_from(unit, self.trust) for unit in self.asked.units}
        if resume:
            self.done = {u.folder for u in self.asked.units if is_done(u, self.target, self.files[u.folder])}
        before = len(self.done)
        if not result_kind(self.target):  # tables of an earlier run stay until there are others
            self._keep(self._result())
        with self._board(before) as board:
            for unit, why in self._refused():
                self.why[unit.folder] = why
                board.tell(unit, why)
            left = {u.folder for u in self.asked.units} - self.done - self.why.keys()
            groups = [some for group in self.asked.groups() if (some := [u for u in group if u.folder in left])]
            for unit, found in self._running(groups, ray, workers):
                board.tell(unit, None if found is None else self._saved(unit, found))
        return self._finish()

    def _refused(self) -> Iterator[tuple[Unit, str]]:
        """What is wrong with units, as far as that can be known without weights: told before hours are spent."""
        for unit in self.asked.units:
            if unit.folder not in self.done:
                try:
                    refuse_unit(unit, self.trust)
                except DepthsigError as error:
                    yield unit, " ".join(str(error).split())

    def _running(self, groups: Sequence[Sequence[Unit]], ray: str | None, workers: int | None) -> Iterator[Result]:
        if not groups:
            return iter(())
        return run_here(groups, self.trust) if ray is None else run_on_ray(groups, self.trust, ray, workers)

    def _board(self, before: int) -> AbstractContextManager[Board]:
        return Board(self.show, [unit.folder for unit in self.asked.units], before)

    def _saved(self, unit: Unit, found: Signature | Failed) -> str:
        """Keep a unit's signature; why it has none, or empty."""
        why = found.why if isinstance(found, Failed) else ""
        if isinstance(found, Signature):
            found.info.update({UNIT: unit.identity, FROM: self.files[unit.folder]})
            try:
                with beside({}):  # what a command keeps of its options are those of the sweep
                    found.save(self.target / unit.folder, figures=False)
            except DepthsigError as error:
                why = str(error)
        if why:
            self.why[unit.folder] = why
        else:
            self.done.add(unit.folder)
        return why

    def _finish(self) -> Swept:
        done = [unit for unit in self.asked.units if unit.folder in self.done]
        with self.show.stage("tables", len(done)) as tick:
            scores, steps = sweep_table(done, self.target, tick)
        with beside({}):
            compared = compare_roles(self.asked, done, self.target, self.show)
        with self.show.stage("onset", len(self.asked.units)) as tick:
            onset = onsets(self.asked, done, self.target, compared.folders, tick)
        found = Swept(self._record(steps, compared.folders.values(), compared.warnings), scores, onset, self.target)
        self._keep(found)
        found.report()
        return found

    def _keep(self, found: Swept) -> None:
        """Write record and tables; the units' folders stay where they are."""
        with writing(self.target, SWEEP) as fresh:
            found.write(fresh)

    def _result(self) -> Swept:
        return Swept(self._record({}, (), ()), directory=self.target)

    def _record(
        self, steps: Mapping[str, int], comparisons: Iterable[str], warnings: Sequence[str]
    ) -> dict[str, Any]:  # fmt: skip
        units = [
            {
                "folder": unit.folder, **unit.swept, "why": self.why.get(unit.folder, ""),
                "state": DONE if unit.folder in self.done else FAILED if unit.folder in self.why else LEFT,
                "steps": steps.get(unit.folder),
            }
            for unit in self.asked.units
        ]  # fmt: skip
        made: dict[str, Any] = made_visible({
            "schema": SCHEMA, IDENTITY: self.identity, "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {**versions(), "depthsig": __version__}, "name": self.name, "units": units,
            "roles": {role: list(names) for role, names in self.asked.roles.items()},
            "options": dict(self.asked.units[0].options), "comparisons": list(comparisons), "warnings": list(warnings),
        })  # fmt: skip
        return made
