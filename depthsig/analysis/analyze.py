"""The main job: a model and prompts in, a signature out."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.analysis import scores, tables
from depthsig.analysis.accumulate import Samples
from depthsig.analysis.clean import run_clean, with_token_rows
from depthsig.analysis.control import reinitialised
from depthsig.analysis.jobs import needed, run_jobs
from depthsig.analysis.period import beside_control, period_scores
from depthsig.analysis.request import Request
from depthsig.analysis.skip_scores import skip_scores
from depthsig.analysis.translated import check_lens, open_lens, without_lens
from depthsig.analysis.units import Units
from depthsig.analysis.versions import versions
from depthsig.checkpoint.patterns import layer_patterns
from depthsig.engine.certificates import Certificate, certify, judge
from depthsig.engine.model import Model, check_vocabulary, load
from depthsig.errors import DepthsigError, DepthsigWarning, InputError
from depthsig.metrics.skip import future_cuts
from depthsig.progress import Progress
from depthsig.prompts import BUILTIN, TokenPrompt, load_prompts, tokenize
from depthsig.signature import Signature
from depthsig.signature.schema import SCHEMA

_REQUEST = frozenset(f.name for f in fields(Request) if f.init)


def analyze(
    model: Any,
    prompts: Any = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: bool | Progress = False,
    resume: bool = False,
    keep_for: str | Path | None = None,
    **options: Any,
) -> Signature:
    """Measure a model's depth-wise signature.

    Args:
        model: a :class:`~depthsig.engine.model.Model`, or anything that ``depthsig.load`` takes.
        prompts: the name of built-in prompts, a .txt or .jsonl file, or a list of strings, of
            ``{"text", "answer"}``, or of token ids. Default: what the checkpoint names, else
            ``gsm8k``.
        tokenizer: for a live model.
        out: folder to save the signature in; checked before anything is computed.
        progress: show progress on standard error.
        resume: go on from what an interrupted run with the same ``out`` and options left.
        keep_for: the results folder that the caller will write, where it is not ``out``: unfinished
            work is kept beside it.
        options: as the command's options (``metrics``, ``agg``, ``max_tokens``, ``order``,
            ``loop``, ``grown``, ``iterations``, ``memory``, ``seed``, ``lens`` ...), and ``forward``
            for live models with another way of being called.

    Raises:
        InputError: bad input or options. CertificateError: the numbers could not be trusted.
    """
    started = time.perf_counter()
    if out is not None:
        from depthsig.signature.storage import ensure_writable

        ensure_writable(out)
    show = progress if isinstance(progress, Progress) else Progress(bool(progress))
    with _recorded() as messages:
        opened, request, ready, name, declared = prepare(model, prompts, tokenizer, options, show)

        def units() -> Units:
            return Units.open(out or keep_for, _identity(opened, ready, request, declared), resume)

        signature = measure(opened, ready, request, name, units, show, messages, started)
        claims = bool(opened.plan.spans) and request.tests_periods
        if claims if request.control is None else request.control:
            signature = with_control(signature, opened, ready, request, name, show)
    if out is not None:
        signature.save(out)
    return signature


def prepare(
    model: Any, prompts: Any, tokenizer: Any, options: dict[str, Any], show: Progress
) -> tuple[Model, Request, list[TokenPrompt], str, dict[str, Any]]:
    """The loaded model, the request, its prompts with their name, and what was declared."""
    n = options.get("n")
    request, declared, loading = _split(options)
    lens = open_lens(request.lens)  # before the model: a bad folder must not cost its loading
    opened = _open(model, tokenizer, declared, {**loading, "seed": request.seed}, show)
    request = request.for_spans([span.kind for span in opened.plan.spans])
    texts, name = _prompts(prompts, opened, request, n)
    ready = _tokens(texts, opened, request)
    if lens is not None:
        check_lens(lens, opened, ready)
        request = replace(request, lens=lens)
    return opened, request, ready, name, declared


def measure(
    model: Model, prompts: Sequence[TokenPrompt], request: Request, name: str, units: Callable[[], Units],
    show: Progress, messages: list[str], started: float,
) -> Signature:  # fmt: skip
    """Certify and measure a loaded model on tokenised prompts; unfinished work goes to ``units()``."""
    with show.stage("certificates"):
        certificates = certify(model, [p.ids for p in prompts])
    verdict = judge(certificates, only_parts=request.only_parts)
    for message in verdict.warnings:
        warnings.warn(message, DepthsigWarning, stacklevel=3)
    certified = time.perf_counter()
    kept = units()
    with kept.cleared_on_errors():
        measured = run_clean(model, prompts, request, verdict, show)
        rows = run_jobs(model, prompts, request, verdict, measured.samples, kept, show)
    measured.tokens = with_token_rows(measured.tokens, rows, model, prompts)
    measured.cuts = cuts_of(prompts, request)
    info = describe(model, request, certificates, name, messages)
    info["timings"] = {
        "load_and_certify_s": round(certified - started, 3),
        "measure_s": round(time.perf_counter() - certified, 3),
    }
    signature = build_signature(info, measured, prompts, model, request)
    if not request.tests_periods:
        return signature
    if not model.plan.spans:
        message = "no span is declared or observed, so no period can be tested; give --loop, --grown or --order"
        warnings.warn(message, DepthsigWarning, stacklevel=3)
    found = period_scores(signature)
    found = found[found["score"].isin(request.wanted)]
    return replace(signature, scores=pd.concat([signature.scores, found], ignore_index=True))


def with_control(
    signature: Signature, model: Model, prompts: Sequence[TokenPrompt], request: Request, name: str, show: Progress
) -> Signature:
    """The signature with the re-initialised control beside it, or with the reason why there is none."""
    started = time.perf_counter()
    messages: list[str] = []
    try:
        with show.stage("re-initialised control"):
            twin = reinitialised(model, request.seed)
        control = measure(twin, prompts, without_lens(request), name, Units, show, messages, started)
    except DepthsigError as error:
        reason = " ".join(str(error).split())
        if request.control:
            warnings.warn(f"no re-initialised control: {reason}", DepthsigWarning, stacklevel=3)
        return replace(signature, scores=beside_control(signature.scores, None, reason))
    control.info["control"] = f"weights re-initialised with seed {request.seed}"
    return replace(signature, scores=beside_control(signature.scores, control.scores), control=control)


def _split(options: dict[str, Any]) -> tuple[Request, dict[str, Any], dict[str, Any]]:
    """Options of the request, of the plan, and of loading; anything else is refused."""
    labels: tuple[str, ...] = ("order", "loop", "grown", "iterations")
    declared = {k: options.pop(k) for k in labels if k in options}
    asked = {k: options.pop(k) for k in list(options) if k in _REQUEST}
    known = ("forward", "dtype", "device", "device_map", "revision", "trust_remote_code", "allow_pickle")
    loading = {k: options.pop(k) for k in known if k in options}
    if options:
        names = sorted(_REQUEST | set(labels) | set(known))
        raise InputError(f"unknown option {next(iter(options))!r}; known are {', '.join(names)}")
    return Request(**asked), declared, loading


def _open(model: Any, tokenizer: Any, declared: dict[str, Any], loading: dict[str, Any], show: Progress) -> Model:
    if isinstance(model, Model):
        given = [name for name in loading if name != "seed"]
        if given:
            raise InputError(f"{given[0]!r} goes with a checkpoint, not with a loaded model")
        return model.relabelled(**declared) if any(v is not None for v in declared.values()) else model
    with show.stage("loading"):
        return load(model, tokenizer, **declared, **loading, progress=show.visible)


def _prompts(prompts: Any, model: Model, request: Request, n: int | None) -> tuple[Any, str]:
    """What to run, and its name; all of a list, unless ``n`` was asked for."""
    if prompts is None:
        prompts = default_prompts(model)
    named = isinstance(prompts, (str, Path))
    return load_prompts(prompts, n=request.n if named else n, seed=request.seed), str(prompts) if named else "given"


def default_prompts(model: Model) -> str:
    """The built-in prompts that a checkpoint names, else ``gsm8k``.

    Raises:
        InputError: for any other name: a checkpoint is untrusted, and must not have a file read.
    """
    name = model.checkpoint.declared.get("prompts", "gsm8k")
    if not isinstance(name, str) or name not in BUILTIN:
        raise InputError(
            f"the config's \"depthsig\" entry 'prompts' is {name!r}; it may be one of {', '.join(BUILTIN)} "
            "(--prompts takes files, too)"
        )
    return name


def _tokens(texts: Sequence[Any], model: Model, request: Request) -> list[TokenPrompt]:
    ready = tokenize(
        texts, model.tokenizer, max_tokens=request.max_tokens, model_max=model.checkpoint.model_max,
        chat_template=request.chat_template, positions=request.positions,
    )  # fmt: skip
    for prompt in ready:
        check_vocabulary(model, prompt.ids)
    return ready


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """Our own warnings, shown as usual and kept for the signature."""
    messages: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def record(message: Any, category: type, *args: Any, **kwargs: Any) -> None:
            if issubclass(category, DepthsigWarning):
                messages.append(str(message))
            show(message, category, *args, **kwargs)

        warnings.simplefilter("always", DepthsigWarning)
        warnings.showwarning = record
        yield messages


def describe(
    model: Model, request: Request, certificates: Sequence[Certificate], prompts: str, messages: list[str]
) -> dict[str, Any]:
    """The record kept in ``signature.json``."""
    checkpoint, plan = model.checkpoint, model.plan
    spans = [
        {"start": s.start, "end": s.end, "size": s.size, "count": s.count, "kind": s.kind,
         "executed": s.executed, "source": s.source}
        for s in plan.spans
    ]  # fmt: skip
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**versions(), "python": platform.python_version()},
        "checkpoint": {
            "id": checkpoint.source, "name": checkpoint.name, "kind": checkpoint.kind,
            "revision": checkpoint.revision, "content_hash": checkpoint.content_hash,
            "family": model.anatomy.family, "n_layers": len(model.anatomy.layers),
            "layer_patterns": layer_patterns(checkpoint.config, len(model.anatomy.layers)),
        },
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "seed": request.seed,
        "random_state": None if model.random_state is None else {"seed": model.random_state, "by": "position"},
        "plan": plan.records(),
        "spans": {
            "declared": model.declared.record(),
            "executed": [s for s in spans if s["kind"] == "loop" and s["executed"]],
            "labelled": [s for s in spans if s["kind"] != "loop" or not s["executed"]],
            "found": [],
        },
        "certificates": [c.record() for c in certificates],
        "lens": None if request.lens is None else request.lens.about(),
        "options": {**request.record(), **model.declared.record(), "prompts": prompts},
        "warnings": [*messages, *plan.notes],
    }  # fmt: skip


def build_signature(
    info: dict[str, Any], measured: Any, prompts: Sequence[TokenPrompt], model: Model, request: Request
) -> Signature:
    """Tables from samples."""
    samples, wanted, seed = measured.samples, request.wanted, request.seed
    return Signature(
        info=info,
        profiles=tables.profiles_table(samples, wanted, model.plan, request.aggs, seed),
        matrices=tables.matrices_table(samples, wanted, request.aggs, seed),
        scores=all_scores(samples, model, request),
        prompts=prompts_table(prompts, measured.cuts),
        samples_table=tables.samples_table(samples, wanted),
        tokens_table=measured.tokens,
    )


def all_scores(samples: Samples, model: Model, request: Request) -> pd.DataFrame:
    """Every score that was asked for."""
    wanted, aggs, seed = request.wanted, request.aggs, request.seed
    found = [
        scores.clean_scores(samples, wanted, aggs, seed),
        skip_scores(samples, wanted, len(model.plan), aggs, seed),
        scores.prompt_mean(samples, wanted, "attribution.completeness", seed),
    ]
    filled = [frame for frame in found if not frame.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def cuts_of(prompts: Sequence[TokenPrompt], request: Request) -> dict[int, Sequence[int]]:
    """The cuts of every prompt, where the future is looked at."""
    if "future" not in request.scopes or not any(m.startswith(("skip.", "local.")) for m in needed(request.wanted)):
        return {}
    return {p.index: future_cuts(p.n_tokens, request.cuts) for p in prompts}


def _identity(model: Model, prompts: Sequence[TokenPrompt], request: Request, declared: dict[str, Any]) -> dict:
    """What must be the same for unfinished work to be gone on with."""
    return {
        "checkpoint": model.checkpoint.content_hash or model.checkpoint.source,
        "plan": list(model.plan.layers), "declared": model.declared.record(),
        "dtype": str(model.dtype), "prompts": [p.tokens_sha256 for p in prompts],
        "version": version("depthsig"), **request.record(),
        "content of --lens": None if request.lens is None else request.lens.content_hash,
    }  # fmt: skip


def prompts_table(prompts: Sequence[TokenPrompt], cuts: dict[int, Sequence[int]]) -> pd.DataFrame:
    """``prompts.csv``: every prompt that was asked for, the short ones too."""
    return pd.DataFrame({
        "prompt": [p.index for p in prompts],
        "sha256": [p.sha256 for p in prompts],
        "tokens_sha256": [p.tokens_sha256 for p in prompts],
        "n_tokens": [p.n_tokens for p in prompts],
        "cuts": [" ".join(map(str, cuts.get(p.index, ()))) for p in prompts],
    })  # fmt: skip
