"""The main job: a model and prompts in, a signature out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.analysis.prepared import Prepared, Stopwatch
from depthsig.commands.analysis.record import continuing, identity, recorded_warnings
from depthsig.commands.calibration.calibration_prompts import with_calibration
from depthsig.commands.early import asked_of
from depthsig.commands.forecasting.budget import Begun, begun_at, heard, nothing_begun, within
from depthsig.commands.lenses.checked import check_lens, opened
from depthsig.commands.opening import Given, ReadyPrompts, ready_prompts
from depthsig.commands.presets import InShort, settled
from depthsig.errors import DepthsigError
from depthsig.measure.request import Names, Request
from depthsig.measure.resume import Piece, Share, Units
from depthsig.measure.schedule import check_provided
from depthsig.metrics.entries.plugins import import_plugins
from depthsig.model import Model
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.progress import Progress
from depthsig.signature import Signature
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.writing import ensure_writable, leave
from depthsig.signature.provenance import source_digest, versions
from depthsig.terms import Ablation


def analyze(
    model: Any, prompts: Any = None, *, tokenizer: Any = None,
    quick: bool = False, budget: str | float | None = None, preset: str | None = None,
    metrics: Names | None = None, parts: Names | None = None, scopes: Names | None = None, cuts: int | None = None,
    agg: Literal["mean", "max", "both"] | None = None, n: int | EllipsisType | None = ...,
    max_tokens: int | None = None, chat_template: bool = False, shots: int = 0,
    positions: Literal["all", "answer", "last"] | None = None,
    keep_first: bool | None = None, ablation: Ablation | None = None, reword: int | None = None, lens: Any = None,
    calibration: Any = None, control: bool | None = None, probes: int = 8,
    order: str | None = None, loop: str | None = None, grown: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    stream: bool = False, memory: str | int = "4GiB", batch_size: int | None = None, seed: int = 0,
    plugin: str | Path | Sequence[str | Path] = (), out: str | Path | None = None, resume: bool = False,
    recheck: bool = False, store_prompts: bool = True,
    progress: bool | Progress | None = None,
) -> Signature:  # fmt: skip
    """Measure a model's depth-wise signature.

    The options are those of ``depthsig analyze``, under the same names.

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes: a
            folder, a hub id, a GGUF file, a shipped name, a live Hugging Face model.
        prompts: the name of built-in prompts, a file (.txt, .jsonl, .json, .csv, .parquet), or a list of
            strings, of ``{"text", "answer"}``, or of token ids; other text that holds white space is one
            prompt. Default: what the checkpoint names, else ``gsm8k``.
        tokenizer: for a live model.
        quick: a first look: 8 prompts of at most 64 tokens, scope current, no control. What is given by
            itself wins over it.
        budget: as ``"5min"``, ``"90s"``, ``"2h"`` or a number of seconds: the number and length of prompts,
            cuts and scopes that the forecast says fit; what is given by itself stays.
        preset: settings of a paper (``depthsig presets`` lists them); ``quick`` and what is given win.
        metrics: groups or full names (``depthsig metrics`` lists them), as a list or
            comma-separated. Default: lens, residual, skip, periods where a span is declared or
            observed, loop where a loop runs, and tuned or jacobian with a ``lens`` of that kind.
        parts: what skip and local take away: ``layer``, ``attn``, ``mlp``. Default: layer.
        scopes: where it is taken away: ``current``, ``future``. Default: current.
        cuts: at most this many cuts a prompt in scope future. Default: 4.
        agg: ``mean``, ``max`` (the papers' worst case) or ``both``. Default: mean.
        n: the first n prompts; None for all. Default: 20 of a name or a file, all of a list.
        max_tokens: cut prompts after this many tokens. Default: 256.
        chat_template: use the tokenizer's template.
        shots: put so many solved examples, 0 to 8, before each prompt, in its own format; none is ever measured itself.
            Prompts that then do not fit are left out.
        positions: measure at ``all`` positions, at those that predict the ``answer``, or at the ``last``. Default: all.
        keep_first: average lens and residual metrics over position 0 too. Default: False.
        ablation: what stands in the place of what is taken away: ``zero``, the ``mean``, or ``random``: itself less a
            random vector of its own norm, drawn by ``seed``. Default: zero.
        reword: put the prompts in other words, by this seed: the same tasks with other symbols, names or things, or
            a sentence before them (:func:`depthsig.prompts.reword`). Default: as they are.
        lens: for ``tuned.*`` a tuned lens, for ``jacobian.*`` a Jacobian lens: its folder or file, or what
            ``fit_lens(...).lens`` is; or a list of both.
        calibration: prompts that the readouts of ``truncation`` metrics are fitted on, none of them measured: as
            ``prompts``. Default: of the built-in set that is measured the next ones, else ``gsm8k``.
        control: measure the architecture with re-initialised weights, too; True: all that the model's own
            analysis measures. Default: where periods are tested on a span, and of it what they are tested on.
        probes: of so many positions a prompt, evenly spread, ``loop.spectral_radius`` takes the derivative.
        order: run the layers in this order, as ``0:4,4:8x4,8:12``.
        loop: label layers ``A:B`` as a loop.
        grown: label layers as grown, ``A:B/b`` in blocks of b.
        iterations: run a loop this often: a number, or ``{"H_cycles": 3}``.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)``.
        dtype: ``float32`` (default), ``bfloat16``, ``float16``, or ``auto``: the checkpoint's.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...
        device_map: spread the model over devices, as in transformers.
        revision: of a hub id.
        trust_remote_code: run code that a checkpoint brings.
        allow_pickle: load pickled weights.
        stream: read layers from safetensors as they are needed, two of them in memory at most, for models that are
            larger than memory. Batches are then as large as ``memory`` allows.
        memory: to use beside the model, in bytes or as ``4GiB``.
        batch_size: at most this many prompts at once.
        seed: of generated prompts, of the bootstrap and of the control.
        plugin: files of your own that declare metrics; they are imported.
        out: folder to save tables, page and figures in; checked before anything is computed.
        resume: go on from what an interrupted run with the same ``out`` and options left.
        recheck: prove the certificates and measure edited runs anew, though they are kept from an analysis of the
            same files and prompts.
        store_prompts: keep prompts that are given as objects beside the tables (``prompts.jsonl``), so that
            :func:`depthsig.rerun` can do it again.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: bad input or options. CertificateError: the numbers could not be trusted.
    """
    given = dict(locals())
    check_arguments(analyze, given)
    if out is not None:
        ensure_writable(out)
    job = job_of(**{name: value for name, value in given.items() if name not in OF_THIS_RUN})
    signature = job.run(None if out is None else lambda *_: out, resume=resume, show=Progress.of(progress))
    if out is not None:
        signature.save(out)
    return signature


OF_THIS_RUN = ("out", "resume", "progress")
"""Arguments of :func:`analyze` that say nothing of what is measured."""
_OF_A_REQUEST = (
    "prompts", "metrics", "parts", "scopes", "cuts", "agg", "n", "max_tokens", "chat_template", "shots", "positions",
    "keep_first", "ablation", "memory", "batch_size", "seed", "control", "lens", "reword", "calibration", "probes",
)  # fmt: skip


def job_of(**given: Any) -> Job:
    """An analysis by the arguments of :func:`analyze`, those that are not given by their defaults.

    Raises:
        InputError: for options that are wrong by themselves; nothing is opened yet.
    """
    known = inspect.signature(analyze).parameters
    a = {name: one.default for name, one in known.items()} | given
    check_arguments(analyze, a)
    plugins = import_plugins(a["plugin"])
    options = {name: a[name] for name in _OF_A_REQUEST}
    asked = settled(options, quick=a["quick"], budget=a["budget"], preset=a["preset"])
    loading = LoadOptions(**{one.name: a[one.name] for one in fields(LoadOptions)})
    plan = PlanOptions(a["order"], a["loop"], a["grown"], a["iterations"])
    model = Given(a["model"], a["tokenizer"], loading, plan, a["forward"])
    return Job(
        model, asked.prompts, asked.request, asked.n_listed, tuple(plugins), asked.short, a["recheck"],
        a["store_prompts"],
    )  # fmt: skip


Place = Callable[[str, str], "str | Path"]
"""From a checkpoint's name and the identity of an analysis to the results folder that will be written."""


@dataclass(frozen=True)
class Job:
    """An analysis that was asked for.

    Attributes:
        n_listed: how many prompts of a list; None for all.
        plugins: what is kept of the user's own files.
        short: what was asked for in short.
        recheck: prove and measure anew what is kept from before.
        store_prompts: keep prompts that came as objects.
        untouched: whether a model that was loaded before is still as its files say.
    """

    given: Given
    prompts: Any
    request: Request
    n_listed: int | None = None
    plugins: tuple[Mapping[str, str], ...] = ()
    short: InShort = field(default_factory=InShort)
    recheck: bool = False
    store_prompts: bool = True
    untouched: bool = False

    def prepare(self, show: Progress, begun: Begun = nothing_begun) -> Prepared:
        """The loaded model, its prompts, and the request for what the model turned out to be.

        Args:
            begun: tells whether unfinished work of an analysis waits to be gone on with.

        Raises:
            InputError: bad input or options, and a budget that nothing fits.
        """
        check_provided(self.request)
        asked = opened(self.request)  # before the model: a bad lens must not cost its loading
        watch = Stopwatch()
        with watch.stage("load"):
            model = self.given.open(self.request.seed, show, asked_of(self.prompts, asked))
            spans = model.plan.spans
            loops = any(span.kind == "loop" and span.executed and span.count > 1 for span in spans)
            ours = None if self.short.preset is None else self.short.left
            request = asked.for_spans([span.kind for span in spans], loops=loops, ours=ours)
            with heard(self.short.seconds is None):  # of a budget, the prompts that it comes to
                prompts = self._prompts(model, request, self.n_listed)
            for lens in request.lenses.values():
                check_lens(lens, model, prompts.tokens)
        given = {**self.given.record(model), "plugins": [dict(p) for p in self.plugins]}
        again = partial(self._prompts, model)
        keep = self.untouched or (not isinstance(self.given.model, Model) and self.given.forward is None)
        ready = Prepared(
            model, request, prompts, given, self.short.record(), again, watch, keep, self.recheck, self.store_prompts
        )
        return ready if self.short.seconds is None else within(ready, self.short, begun)

    def _prompts(self, model: Model, request: Request, n_listed: int | EllipsisType | None = ...) -> ReadyPrompts:
        """The prompts of a request; of a list as many as of a name, where nothing else is said."""
        ready = ready_prompts(
            self.prompts, model, n=request.n if isinstance(n_listed, EllipsisType) else n_listed, n_named=request.n,
            max_tokens=request.max_tokens, chat_template=request.chat_template, positions=request.positions,
            seed=request.seed, shots=request.shots, reword=request.reword,
        )  # fmt: skip
        return with_calibration(ready, model, request)

    def run(
        self, place: Place | None, *, resume: bool, show: Progress, shares: Sequence[MeasuredShare] = ()
    ) -> Signature:
        """Measure, with the control where one is due.

        Args:
            place: where results go, beside which unfinished work is kept; asked before the measurement.
                None: nowhere.
            shares: what other processes measured of this very analysis (:meth:`measure_share`).
        """
        with recorded_warnings() as messages:
            ready = self.prepare(show, begun_at(place) if resume and place is not None else nothing_begun)
            given = ready.prompts
            known = {} if place is None else identity(ready.model, given.tokens, ready.request, given.calibrating)
            name = identity_of(known)
            out = None if place is None else place(ready.model.checkpoint.name, name)
            # What another prepared in another way (by other files, on another kind of machine) is measured here.
            alike = [one for one in shares if one.stamp == _stamp(ready)]

            def units() -> Units:
                opened = Units.open(out, continuing(known, streamed=ready.model.is_streamed), name, resume)
                return opened.given_too({name: piece for one in alike for name, piece in one.model.items()})

            def of_control() -> Units:
                return Units().given_too({name: piece for one in alike for name, piece in one.control.items()})

            try:
                signature = ready.measure(units, show, messages)
                if known:
                    signature.info[IDENTITY] = name
                if ready.wants_control:
                    signature = ready.with_control(signature, show, of_control)
            except BaseException:
                if out is not None:
                    leave(out)  # a notebook lives on, and another process may be asked to resume
                raise
        return signature

    def measure_share(self, share: Share, show: Progress) -> MeasuredShare:
        """A share of the batches, for another process that does the rest and puts all together, exactly."""
        ready = self.prepare(show)
        control: Mapping[str, Piece] = {}
        if ready.wants_control:
            with suppress(DepthsigError):  # whoever puts the shares together says why there is none
                control = ready.control().measure_share(share, show)
        return MeasuredShare(_stamp(ready), ready.measure_share(share, show), control)


def _stamp(ready: Prepared) -> str:
    """One word for all that decides what is in which batch, and its numbers to the last bit."""
    model, given = ready.model, ready.prompts
    known = identity(model, given.tokens, ready.request, given.calibrating)
    here = {"device": model.device.type, "threads": torch.get_num_threads(), "source": source_digest()}
    return identity_of({**continuing(known, streamed=model.is_streamed), **versions(), **here})


@dataclass(frozen=True)
class MeasuredShare:
    """Pieces that were measured of a model and of its control.

    Attributes:
        stamp: of the analysis that they are pieces of, as it was prepared where they were measured.
    """

    stamp: str
    model: Mapping[str, Piece]
    control: Mapping[str, Piece]
