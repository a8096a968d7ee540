"""An analysis done again from what its results folder records, and held against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.analyze import analyze
from depthsig.errors import InputError, shown
from depthsig.measure.request import Request
from depthsig.plan.declared import PlanOptions
from depthsig.progress import Progress
from depthsig.signature import Signature
from depthsig.signature.folders.kinds import GIVEN, SIGNATURE, result_kind
from depthsig.signature.provenance import RECORDED_LENSES
from depthsig.signature.same_numbers import Agreement, agreement

PROMPTS, CALIBRATION = GIVEN
_OF_THE_PLAN = ("order", "loop", "grown", "iterations", "asked", "prompts", "lens", "calibration")
"""Recorded options that are given in another way."""
_OF_LOADING = tuple(f.name for f in fields(LoadOptions))


@dataclass(frozen=True)
class Rerun:
    """An analysis and the same one done again.

    Attributes:
        directory: the folder that was done again.
        agreement: which numbers moved, and what was different.
    """

    directory: Path
    before: Signature
    now: Signature
    agreement: Agreement

    @property
    def agrees(self) -> bool:
        """Whether every number is the same within 1e-6 of its metric's largest value."""
        return self.agreement.agrees

    def __str__(self) -> str:
        return "\n".join(self.agreement.lines())

    __repr__ = __str__

    def record(self) -> dict[str, Any]:
        """As ``depthsig rerun --json`` prints it."""
        return {"directory": str(self.directory), **self.agreement.record()}


def rerun(
    directory: str | Path, *, model: Any = None, tokenizer: Any = None, prompts: Any = None, calibration: Any = None,
    lens: Any = None, forward: Callable[[nn.Module, Tensor], Any] | None = None, device: str | None = None,
    trust_remote_code: bool = False, allow_pickle: bool = False, plugin: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None, progress: bool | Progress | None = None,
) -> Rerun:  # fmt: skip
    """Do again what a results folder of ``analyze`` records, and say which numbers moved.

    Nothing that is recorded makes code run: what does is given again, by ``trust_remote_code``, ``allow_pickle`` and
    ``plugin``.

    Args:
        directory: the results folder.
        model, tokenizer, forward: what was given as an object, and so is not recorded; a model given here stands in
            for a recorded one, too (its folder may have moved).
        prompts, calibration: in the place of those that are recorded, or kept in ``prompts.jsonl`` and
            ``calibration.jsonl``.
        lens: the lens, or the list of lenses, where one was given as an object, or has moved.
        device: another device than the recorded choice.
        trust_remote_code: run code that a checkpoint brings. allow_pickle: load pickled weights.
        plugin: files of your own that declare metrics.
        out: folder for the new result; by default it is not kept.
        progress: as of :func:`depthsig.analyze`.

    Returns:
        Both signatures, and whether they agree: within 1e-6 of a metric's largest value, which the same number of
        threads on the same machine keeps.

    Raises:
        InputError: where the folder is no analysis, or something that was given as an object is not given again.
        CertificateError: where the numbers cannot be trusted now.
    """
    check_arguments(rerun, locals())
    kind = result_kind(directory)
    if kind is not None and kind != SIGNATURE:
        raise InputError(f"{shown(str(directory))} is a result of another kind ({kind}); analyze's are done again")
    before = Signature.load(directory)
    again = _Again(before, Path(directory), model, prompts, calibration, lens)
    now = analyze(
        again.model(), again.prompts(), tokenizer=tokenizer, forward=forward, lens=again.lens(),
        calibration=again.calibration(), plugin=again.plugins(plugin), out=out, progress=progress,
        recheck=True,  # kept numbers would only agree with themselves
        **again.loading(device, trust_remote_code, allow_pickle), **again.plan(), **again.options(),
    )  # fmt: skip
    return Rerun(Path(directory), before, now, agreement(before, now))


@dataclass(frozen=True)
class _Again:
    """What is asked for again: recorded, kept beside the tables, or given now."""

    signature: Signature
    directory: Path
    given_model: Any
    given_prompts: Any
    given_calibration: Any
    given_lens: Any

    @property
    def record(self) -> Mapping[str, Any]:
        found = self.signature.info.get("given")
        if not isinstance(found, Mapping):
            raise InputError(
                f"{shown(str(self.directory))} was made before it was recorded what an analysis was given; "
                "give the command again"
            )
        return found

    def model(self) -> Any:
        if self.given_model is not None:
            return self.given_model
        if not self.record.get("source"):
            why = self.record.get("why") or "what was analysed is not known"
            raise InputError(f"{shown(str(self.directory))} cannot be done again by itself: {why}; give it as model=")
        return self.record["source"]

    def prompts(self) -> Any:
        if self.given_prompts is not None:
            return self.given_prompts
        given = self.record["prompts"]
        if not given["objects"]:
            return given["name"]
        return self._kept(PROMPTS, "prompts", int(given["count"]))

    def calibration(self) -> Any:
        if self.given_calibration is not None:
            return self.given_calibration
        told = self.signature.info.get("calibration") or {}
        if told.get("objects"):
            return self._kept(CALIBRATION, "calibration prompts", 0)
        return self.signature.info["options"].get("calibration")

    def _kept(self, file: str, what: str, count: int) -> list[Any]:
        text = self.signature.given.get(file)
        if text is None:
            raise InputError(
                f"{shown(str(self.directory))} holds no {file}: its {what} were given as objects and not kept; "
                f"give them as {what.split()[0]}="
            )
        found = [_entry(line, f"{file} line {n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(found) < max(count, 1):
            raise InputError(
                f"{file} of {shown(str(self.directory))} holds {len(found)} prompts, {count} were measured"
            )
        return found

    def lens(self) -> Any:
        if self.given_lens is not None:
            return self.given_lens
        used = [told for name in RECORDED_LENSES if (told := self.signature.info.get(name))]
        if not all(told.get("path") for told in used):
            raise InputError(f"the lens of {shown(str(self.directory))} was given as an object; give it as lens=")
        return [told["path"] for told in used] or None

    def plugins(self, given: str | Path | Sequence[str | Path]) -> list[str | Path]:
        files = [given] if isinstance(given, (str, Path)) else list(given)
        asked = [str(one["path"]) for one in self.record.get("plugins") or ()]
        if asked and not files:
            raise InputError(
                f"{shown(str(self.directory))} was made with --plugin {', '.join(map(shown, asked))}; nothing recorded "
                "lets code run, so give it again"
            )
        return files

    def loading(self, device: str | None, trust_remote_code: bool, allow_pickle: bool) -> dict[str, Any]:
        told = self._known("loading", self.record.get("loading") or {}, _OF_LOADING)
        allowed = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
        for name, given in allowed.items():
            if told.get(name) and not given:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(
                    f"{shown(str(self.directory))} was made with {flag}; nothing recorded lets code run: give it again"
                )
        if self.given_model is not None and not isinstance(self.given_model, (str, Path)):
            return {} if device is None else {"device": device}  # a live model is where it is
        # Both flags always: nothing that is recorded stands in for them.
        return {**told, **({} if device is None else {"device": device}), **allowed}

    def plan(self) -> dict[str, Any]:
        return self._known("plan", self.record.get("plan") or {}, tuple(f.name for f in fields(PlanOptions)))

    def _known(self, what: str, told: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        """What a record tells, of what may be told there: it is somebody's file, and becomes arguments."""
        strange = [name for name in told if name not in names]
        if strange:
            raise InputError(
                f"{shown(str(self.directory))} records {shown(strange[0])} in its {what}, which no analysis records; "
                "it was changed, or made by another version"
            )
        return dict(told)

    def options(self) -> dict[str, Any]:
        told = self.signature.info["options"]
        asked = {k: v for k, v in told.items() if k not in _OF_THE_PLAN}
        options = self._known("options", asked, [f.name for f in fields(Request) if f.init])
        given = self.record["prompts"]
        options["n"] = given.get("first") if given["objects"] else options.get("n") or given["count"]
        return options


def _entry(line: str, where: str) -> Any:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); these are no prompts that depthsig kept") from None
    return entry["ids"] if isinstance(entry, dict) and "ids" in entry else entry
