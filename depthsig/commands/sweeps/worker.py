"""Whoever measures the units of a sweep: it keeps the weights of one checkpoint, and says what fails in one line."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import torch

from depthsig.commands.analyze import Job, MeasuredShare, job_of
from depthsig.commands.sweeps.beforehand import Trust, refuse_unit
from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.measure.resume import Share
from depthsig.model import Model, load
from depthsig.progress import Progress
from depthsig.signature import Signature

Found = TypeVar("Found")


@dataclass(frozen=True)
class Failed:
    """Why there is no result, in one line."""

    why: str


def _told(function: Callable[..., Found]) -> Callable[..., Found | Failed]:
    """Errors as values: they are told of, and the next unit is run."""

    @wraps(function)
    def told(*args: Any) -> Found | Failed:
        try:
            return function(*args)
        except Exception as error:  # a checkpoint's own code may raise anything
            return Failed(" ".join(str(error).split())[:500] or type(error).__name__)

    return told


class Worker:
    """Measures units one after another; of those of one checkpoint, weights are loaded once.

    Args:
        folder: the folder that paths are relative to; None: where this process is.
        threads: of torch; None: as they are.
    """

    def __init__(self, trust: Trust, folder: str | None = None, threads: int | None = None) -> None:
        self.trust = trust
        self._held: tuple[Any, Model] | None = None
        if folder is not None:
            with suppress(OSError):  # of another machine
                os.chdir(folder)
        if threads is not None:
            torch.set_num_threads(threads)

    @_told
    def analyse(self, unit: Unit, *shares: MeasuredShare | Failed) -> Signature:
        """A unit's signature.

        Args:
            shares: what other workers measured of it; what one of them failed to is measured here.
        """
        job, there = self._job(unit), [one for one in shares if isinstance(one, MeasuredShare)]
        return job.run(None, resume=False, show=Progress(), shares=there)

    @_told
    def share(self, unit: Unit, number: int, of: int) -> MeasuredShare:
        """A share of a unit's batches."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said by who puts the shares together
            return self._job(unit).measure_share(Share(number, of), Progress())

    def _job(self, unit: Unit) -> Job:
        refuse_unit(unit, self.trust)  # before the weights
        native = unit.other_order is None
        options = unit.options_of_analyze
        if native:
            options.pop("iterations", None)  # how often a model's own loop runs is settled when it is loaded
        job = job_of(
            model=self._model(unit, native), prompts=unit.prompts, order=unit.other_order, preset=unit.preset,
            plugin=self.trust.plugin, **options,
        )  # fmt: skip
        return replace(job, untouched=True)

    def _model(self, unit: Unit, native: bool) -> Model:
        loading = unit.loading_options
        iterations = unit.options.get("iterations") if native else None
        key = (unit.source, unit.hub_revision, loading, iterations)
        if self._held is None or self._held[0] != key:
            self._held = None
            gc.collect()  # before others take their place
            model = load(
                unit.source, revision=unit.hub_revision, trust_remote_code=self.trust.trust_remote_code,
                allow_pickle=self.trust.allow_pickle, seed=unit.options.get("seed", 0), iterations=iterations,
                progress=False, **loading,
            )  # fmt: skip
            self._held = (key, model)
        return self._held[1]
