"""An analysis with its model loaded and its prompts read: certify, measure, make the tables, and the control."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from depthsig.checkpoint.lens_folder import LENS_WORDS
from depthsig.commands.analysis.certified import certified
from depthsig.commands.analysis.control import control_request, reinitialised
from depthsig.commands.analysis.record import describe, prompts_table
from depthsig.commands.calibration.calibrating import recalibrated
from depthsig.commands.opening import ReadyPrompts
from depthsig.engine.certificates import Certificate, judge
from depthsig.errors import DepthsigError, DepthsigWarning, InputError
from depthsig.measure.providers import Work
from depthsig.measure.request import Request
from depthsig.measure.resume import Piece, Share, Units
from depthsig.measure.schedule import cuts_of
from depthsig.measure.schedule import measure as run_schedule
from depthsig.measure.schedule import measure_share as run_share
from depthsig.measure.token_rows import tokens_table
from depthsig.measure.unit_cache import UnitCache, ground_of
from depthsig.metrics.entries.runs import RECALIBRATED
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.signature import Signature
from depthsig.tables.made_profiles import with_made
from depthsig.tables.periods import beside_control, period_scores
from depthsig.tables.samples import matrices_table, profiles_table, samples_table
from depthsig.tables.score_rows import scores_table
from depthsig.untrusted import made_visible


@dataclass
class Stopwatch:
    """What stages of an analysis take, by name: on the clock, and in processor time of all threads."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    proved: str = ""
    """When the certificates were proved: they may be kept from before."""
    units: dict[str, int] = field(default_factory=dict)
    """How many units of edited runs were measured now, and how many were there."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is done meanwhile to a stage, whether it ends well or not."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def record(self) -> dict[str, Any]:
        """``timings`` of ``signature.json``: seconds a stage; saving and drawing come after."""
        cpu = {name: round(seconds, 3) for name, seconds in self.cpu.items()}
        wall = {f"{name}_s": round(seconds, 3) for name, seconds in self.wall.items()}
        return {**wall, "cpu_s": cpu, "certificates_proved": self.proved, "units": dict(self.units)}


@dataclass(frozen=True)
class Prepared:
    """An analysis that is ready to run.

    Attributes:
        request: for what the model turned out to be.
        given: what the model and its plan were made from, and the user's own files.
        asked: what was asked for in short, for the record.
        again: reads the prompts for another request, of other numbers and lengths.
        watch: knows what loading took.
        keep: whether certificates and units of work may be kept, and taken from those that are.
        recheck: whether all that is proved and measured anew.
        store: whether prompts that came as objects are kept with the result.
    """

    model: Model
    request: Request
    prompts: ReadyPrompts
    given: Mapping[str, Any]
    asked: Mapping[str, Any]
    again: Callable[[Request], ReadyPrompts]
    watch: Stopwatch = field(default_factory=Stopwatch)
    keep: bool = False
    recheck: bool = False
    store: bool = True

    @property
    def wants_control(self) -> bool:
        """Whether a control is due: where it was asked for, else where periods are tested on a span."""
        claims = bool(self.model.plan.spans) and self.request.tests_periods
        return claims if self.request.control is None else self.request.control

    def sized(self, request: Request) -> Prepared:
        """The same for a request with other prompts."""
        return replace(self, request=request, prompts=self.again(request))

    def measure(self, units: Callable[[], Units], show: Progress, messages: Sequence[str]) -> Signature:
        """Certify and measure; unfinished work goes to ``units()``."""
        model, request, prompts, watch = self.model, self.request, self.prompts.tokens, self.watch
        work, certificates = self._certified(show)
        with watch.stage("measure"):
            cache = self._cache()
            samples, rows = run_schedule(work, units, show, cache)
        info = describe(model, request, certificates, self.prompts, self.given, messages)
        watch.units = cache.record()
        info["options"]["asked"] = dict(self.asked)
        info["given"]["prompts"]["kept"] = self.store and bool(self.prompts.kept)
        if work.recalibrated is not None:
            info["calibration"] = made_visible(dict(work.recalibrated.record))
        with watch.stage("tables"):
            plan, aggs, seed = model.plan.frame(), request.aggs, request.seed
            profiles = profiles_table(samples, request.wanted, plan, aggs, seed)
            signature = Signature(
                info=info,
                profiles=with_made(profiles, samples, request.selected, plan, aggs, seed),
                matrices=matrices_table(samples, request.wanted, aggs, seed),
                scores=scores_table(samples, request.selected, len(plan), aggs, seed),
                prompts=prompts_table(prompts, cuts_of(request, prompts)),
                samples_table=samples_table(samples, request.wanted),
                tokens_table=tokens_table(rows, prompts, model.tokenizer),
                given=self.prompts.kept if self.store else {},
            )
            signature = self._with_periods(signature) if request.tests_periods else signature
        info["timings"] = watch.record()
        return signature

    def _certified(self, show: Progress) -> tuple[Work, list[Certificate]]:
        """What can be measured, after proof that it can be."""
        watch = self.watch
        with watch.stage("certificates"), show.stage("certificates"):
            ids = [p.ids for p in self.prompts.tokens]
            certificates, watch.proved = certified(self.model, ids, keep=self.keep, recheck=self.recheck)
        verdict = judge(certificates, only_parts=self.request.only_parts)
        for message in verdict.warnings:
            warnings.warn(message, DepthsigWarning, stacklevel=4)
        work = Work(self.model, self.request, self.prompts.tokens, verdict)
        if self.prompts.calibration is not None and self.request.on(*RECALIBRATED):
            with watch.stage("calibration"):
                work = recalibrated(work, self.prompts.calibration, show)
        return work, certificates

    def measure_share(self, share: Share, show: Progress) -> dict[str, Piece]:
        """The pieces of a share of the batches, which :meth:`measure` of another process takes as its ``units``."""
        return run_share(self._certified(show)[0], share, show, self._cache())

    def _cache(self) -> UnitCache:
        return UnitCache(ground_of(self.model) if self.keep else None, self.recheck)

    def control(self) -> Prepared:
        """The same of the re-initialised control.

        Raises:
            InputError: where there can be none.
        """
        request = control_request(self.request)
        if request is None:
            words = LENS_WORDS[next(iter(self.request.lenses))]
            raise InputError(f"a {words} is fitted to trained weights, and says nothing about fresh ones")
        watch = Stopwatch()
        with watch.stage("load"):
            twin = reinitialised(self.model, request.seed)
        return replace(self, model=twin, request=request, watch=watch)

    def _with_periods(self, signature: Signature) -> Signature:
        if not self.model.plan.spans:
            message = "no span is declared or observed, so no period can be tested; give --loop, --grown or --order"
            warnings.warn(message, DepthsigWarning, stacklevel=3)
        found = period_scores(signature)
        found = found[found["score"].isin(self.request.wanted)]
        filled = [frame for frame in (signature.scores, found) if not frame.empty]
        return replace(signature, scores=pd.concat(filled, ignore_index=True) if filled else pd.DataFrame())

    def with_control(
        self, signature: Signature, show: Progress, units: Callable[[], Units] = Units
    ) -> Signature:  # fmt: skip
        """The signature with the re-initialised control beside it, or with the reason why there is none."""
        with self.watch.stage("control"):
            signature = self._with_control(signature, show, units)
        signature.info["timings"] = self.watch.record()
        return signature

    def _with_control(self, signature: Signature, show: Progress, units: Callable[[], Units]) -> Signature:
        try:
            with show.stage("re-initialised control"):
                twin = self.control()
            control = twin.measure(units, show, [])
        except DepthsigError as error:
            reason = " ".join(str(error).split())
            if self.request.control:
                warnings.warn(f"no re-initialised control: {reason}", DepthsigWarning, stacklevel=3)
            return replace(signature, scores=beside_control(signature.scores, None, reason))
        control.info["control"] = f"weights re-initialised with seed {twin.request.seed}"
        return replace(signature, scores=beside_control(signature.scores, control.scores), control=control)
