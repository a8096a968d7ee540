"""The main job: a model and prompts in, a signature out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from torch import Tensor, nn

from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.control import reinitialised
from depthsig.commands.early import asked_of
from depthsig.commands.lenses.checked import check_lens, open_lens
from depthsig.commands.opening import Given, ReadyPrompts, ready_prompts
from depthsig.commands.record import continuing, describe, identity, prompts_table, recorded_warnings
from depthsig.engine.certificates import certify, judge
from depthsig.errors import DepthsigError, DepthsigWarning, InputError
from depthsig.measure.providers import Work
from depthsig.measure.request import Names, Request
from depthsig.measure.resume import Units
from depthsig.measure.schedule import check_provided, cuts_of
from depthsig.measure.schedule import measure as run_schedule
from depthsig.measure.token_rows import tokens_table
from depthsig.metrics.entries.plugins import import_plugins
from depthsig.model import Model
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.progress import Progress
from depthsig.signature import Signature
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.writing import ensure_writable, leave
from depthsig.tables.periods import beside_control, period_scores
from depthsig.tables.samples import matrices_table, profiles_table, samples_table
from depthsig.tables.score_rows import scores_table

if TYPE_CHECKING:
    import torch


def analyze(
    model: Any, prompts: Any = None, *, tokenizer: Any = None,
    metrics: Names | None = None, parts: Names = ("layer",), scopes: Names = ("current", "future"), cuts: int = 4,
    agg: Literal["mean", "max", "both"] = "mean", n: int | EllipsisType | None = ..., max_tokens: int = 256,
    chat_template: bool = False, positions: Literal["all", "answer", "last"] = "all", keep_first: bool = False,
    ablation: Literal["zero", "mean"] = "zero", lens: Any = None, control: bool | None = None,
    order: str | None = None, loop: str | None = None, grown: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    memory: str | int = "4GiB", batch_size: int | None = None, seed: int = 0,
    plugin: str | Path | Sequence[str | Path] = (), out: str | Path | None = None, resume: bool = False,
    progress: bool | Progress = False,
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
        metrics: groups or full names (``depthsig metrics`` lists them), as a list or
            comma-separated. Default: lens, residual, skip, periods where a span is declared or
            observed, and tuned with ``lens``.
        parts: what skip and local take away: ``layer``, ``attn``, ``mlp``.
        scopes: where it is taken away: ``current``, ``future``.
        cuts: at most this many cuts a prompt in scope future.
        agg: ``mean``, ``max`` (the papers' worst case) or ``both``.
        n: the first n prompts; None for all. Default: 20 of a name or a file, all of a list.
        max_tokens: cut prompts after this many tokens.
        chat_template: use the tokenizer's template.
        positions: measure at ``all`` positions, at those that predict the ``answer``, or at the ``last``.
        keep_first: average lens and residual metrics over position 0 too.
        ablation: what stands in the place of what is taken away: ``zero``, or the ``mean``.
        lens: a tuned lens for ``tuned.*``: its folder, or what ``fit_lens(...).lens`` is.
        control: measure the architecture with re-initialised weights, too. Default: where periods
            are tested on a span.
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
        memory: to use beside the model, in bytes or as ``4GiB``.
        batch_size: at most this many prompts at once.
        seed: of generated prompts, of the bootstrap and of the control.
        plugin: files of your own that declare metrics; they are imported.
        out: folder to save the signature in; checked before anything is computed.
        resume: go on from what an interrupted run with the same ``out`` and options left.
        progress: show progress on standard error.

    Raises:
        InputError: bad input or options. CertificateError: the numbers could not be trusted.
    """
    if out is not None:
        ensure_writable(out)
    plugins = import_plugins(plugin)
    request = Request(
        metrics, parts, scopes, cuts, agg, 20 if isinstance(n, EllipsisType) else n, max_tokens, chat_template,
        positions, keep_first, ablation, memory, batch_size, seed, control, lens,
    )  # fmt: skip
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    given = Given(model, tokenizer, loading, PlanOptions(order, loop, grown, iterations), forward)
    n_listed = None if isinstance(n, EllipsisType) else n
    job = Job(given, prompts, request, n_listed, tuple(plugins))
    signature = job.run(None if out is None else lambda *_: out, resume=resume, show=Progress.of(progress))
    if out is not None:
        signature.save(out)
    return signature


Place = Callable[[str, str], "str | Path"]
"""From a checkpoint's name and the identity of an analysis to the results folder that will be written."""


@dataclass(frozen=True)
class Job:
    """An analysis that was asked for.

    Attributes:
        n_listed: how many prompts of a list; None for all.
        plugins: what is kept of the user's own files.
    """

    given: Given
    prompts: Any
    request: Request
    n_listed: int | None = None
    plugins: tuple[Mapping[str, str], ...] = ()

    def prepare(self, show: Progress) -> Prepared:
        """The loaded model, its prompts, and the request for what the model turned out to be.

        Raises:
            InputError: bad input or options.
        """
        check_provided(self.request)
        lens = open_lens(self.request.lens)  # before the model: a bad folder must not cost its loading
        model = self.given.open(self.request.seed, show, asked_of(self.prompts, self.request))
        request = self.request.for_spans([span.kind for span in model.plan.spans])
        ready = ready_prompts(
            self.prompts, model, n=self.n_listed, n_named=request.n, max_tokens=request.max_tokens,
            chat_template=request.chat_template, positions=request.positions, seed=request.seed,
        )  # fmt: skip
        if lens is not None:
            check_lens(lens, model, ready.tokens)
            request = replace(request, lens=lens)
        return Prepared(self, model, request, ready)

    def run(self, place: Place | None, *, resume: bool, show: Progress) -> Signature:
        """Measure, with the control where one is due.

        Args:
            place: where results go, beside which unfinished work is kept; asked before the measurement.
                None: nowhere.
        """
        started = time.perf_counter()
        with recorded_warnings() as messages:
            ready = self.prepare(show)
            known = {} if place is None else identity(ready.model, ready.prompts.tokens, ready.request)
            name = identity_of(known)
            out = None if place is None else place(ready.model.checkpoint.name, name)

            def units() -> Units:
                return Units.open(out, continuing(known), name, resume)

            try:
                signature = ready.measure(units, show, messages, started)
                if known:
                    signature.info[IDENTITY] = name
                claims = bool(ready.model.plan.spans) and ready.request.tests_periods
                if claims if ready.request.control is None else ready.request.control:
                    signature = ready.with_control(signature, show)
            except BaseException:
                if out is not None:
                    leave(out)  # a notebook lives on, and another process may be asked to resume
                raise
        return signature


@dataclass(frozen=True)
class Prepared:
    """An analysis that is ready to run."""

    job: Job
    model: Model
    request: Request
    prompts: ReadyPrompts

    def measure(self, units: Callable[[], Units], show: Progress, messages: Sequence[str], started: float) -> Signature:
        """Certify and measure; unfinished work goes to ``units()``."""
        model, request, prompts = self.model, self.request, self.prompts.tokens
        with show.stage("certificates"):
            certificates = certify(model, [p.ids for p in prompts])
        verdict = judge(certificates, only_parts=request.only_parts)
        for message in verdict.warnings:
            warnings.warn(message, DepthsigWarning, stacklevel=3)
        certified = time.perf_counter()
        samples, rows = run_schedule(Work(model, request, prompts, verdict, request.lens), units, show)
        given = {**self.job.given.record(model), "plugins": [dict(p) for p in self.job.plugins]}
        info = describe(model, request, certificates, self.prompts, given, messages)
        info["timings"] = {
            "load_and_certify_s": round(certified - started, 3),
            "measure_s": round(time.perf_counter() - certified, 3),
        }
        plan, aggs, seed = model.plan.frame(), request.aggs, request.seed
        signature = Signature(
            info=info,
            profiles=profiles_table(samples, request.wanted, plan, aggs, seed),
            matrices=matrices_table(samples, request.wanted, aggs, seed),
            scores=scores_table(samples, request.selected, len(plan), aggs, seed),
            prompts=prompts_table(prompts, cuts_of(request, prompts)),
            samples_table=samples_table(samples, request.wanted),
            tokens_table=tokens_table(rows, prompts, model.tokenizer),
        )
        return self._with_periods(signature) if request.tests_periods else signature

    def _with_periods(self, signature: Signature) -> Signature:
        if not self.model.plan.spans:
            message = "no span is declared or observed, so no period can be tested; give --loop, --grown or --order"
            warnings.warn(message, DepthsigWarning, stacklevel=3)
        found = period_scores(signature)
        found = found[found["score"].isin(self.request.wanted)]
        filled = [frame for frame in (signature.scores, found) if not frame.empty]
        return replace(signature, scores=pd.concat(filled, ignore_index=True) if filled else pd.DataFrame())

    def with_control(self, signature: Signature, show: Progress) -> Signature:
        """The signature with the re-initialised control beside it, or with the reason why there is none."""
        started = time.perf_counter()
        try:
            request = self.request.without("tuned")
            if request is None:
                raise InputError("a tuned lens is fitted to trained weights, and says nothing about fresh ones")
            with show.stage("re-initialised control"):
                twin = reinitialised(self.model, request.seed)
            control = replace(self, model=twin, request=request).measure(Units, show, [], started)
        except DepthsigError as error:
            reason = " ".join(str(error).split())
            if self.request.control:
                warnings.warn(f"no re-initialised control: {reason}", DepthsigWarning, stacklevel=3)
            return replace(signature, scores=beside_control(signature.scores, None, reason))
        control.info["control"] = f"weights re-initialised with seed {request.seed}"
        return replace(signature, scores=beside_control(signature.scores, control.scores), control=control)
