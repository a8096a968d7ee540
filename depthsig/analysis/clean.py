"""Everything that one clean run of every prompt gives: lens, residual and weight metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.lens import TOKEN_PROMPTS, LensObserver
from depthsig.analysis.loops import LoopObserver, executed_loops
from depthsig.analysis.request import Request
from depthsig.analysis.residual import ResidualObserver, pooled_slots
from depthsig.analysis.tokens import measured
from depthsig.checkpoint.weights import weight_groups
from depthsig.engine.batch import batches
from depthsig.engine.certificates import Verdict
from depthsig.engine.model import Model
from depthsig.engine.run import Clean
from depthsig.metrics.weights import weight_cosine
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt

_LENS = ("lens.", "tuned.", "settling_depth", "effective_depth.kl", "effective_depth.overlap")
_RESIDUAL = ("residual.", "contribution.", "effective_depth.cosine")

CPU_TOKENS, GPU_TOKENS = 1024, 16384
"""Tokens of a batch: enough for full speed; more only costs memory."""


@dataclass
class Results:
    """What a run gives: per-prompt samples, token-level rows, and the cuts used."""

    samples: Samples
    tokens: pd.DataFrame
    cuts: dict[int, Sequence[int]] = field(default_factory=dict)


def run_clean(
    model: Model, prompts: Sequence[TokenPrompt], request: Request, verdict: Verdict, show: Progress
) -> Results:
    """Run every prompt once and accumulate what was asked for."""
    samples = Samples(len(prompts))
    wanted = request.wanted
    if any(m.startswith(("loop.", "coda.")) for m in wanted):
        executed_loops(model.plan)
    lens_wanted = frozenset(m for m in wanted if m.startswith(_LENS))
    residual_wanted = frozenset(m for m in wanted if m.startswith(_RESIDUAL))
    if "effective_depth.cosine" in wanted:
        residual_wanted |= {"contribution.cosine"}
    counted = [p for p in prompts if p.positions]
    first = frozenset(p.index for p in prompts[:TOKEN_PROMPTS])
    lens = LensObserver(model, lens_wanted, samples, first, request.lens)
    residual = ResidualObserver(model, residual_wanted, samples, verdict.parts)
    if "residual.cka" in wanted:
        residual.pooled = pooled_slots([(p.index, t) for p in counted for t in _positions(p, request)])
    if lens_wanted or residual_wanted:
        _observe(model, counted, request, verdict, show, lens, residual)
    cka = residual.cka()
    if cka is not None:
        samples.put_pooled(Key("residual.cka"), len({p for p, _ in residual.pooled or ()}), cka)
    if "weights.cosine" in wanted:
        _weights(model, samples)
    tokens = _tokens_frame(lens, model, prompts)
    looped = frozenset(m for m in wanted if m.startswith(("loop.", "coda.")))
    if looped:
        rows = _loops(model, counted, request, verdict, show, LoopObserver(model, looped, samples, first))
        tokens = pd.concat([f for f in (tokens, rows) if not f.empty], ignore_index=True) if len(rows) else tokens
    return Results(samples, tokens)


def _loops(
    model: Model, prompts: Sequence[TokenPrompt], request: Request, verdict: Verdict, show: Progress,
    observer: LoopObserver,
) -> pd.DataFrame:  # fmt: skip
    """Loop dynamics; returns the rows of loop.pca."""
    size = 1 if not verdict.pad else request.batch_size
    ids = [p.ids for p in prompts]
    with show.stage("loops", len(prompts)) as tick, torch.no_grad():
        for batch in batches(ids, model.device, max_tokens=batch_tokens(model, int(request.memory)), batch_size=size):
            observer.observe(Clean.of(model, batch), measured(batch, prompts))
            tick(len(batch.rows))
    by_index = {p.index: p.ids for p in prompts}
    kept = {t for i in observer.first_prompts for t in by_index.get(i, ())}
    texts = _texts(model, kept)
    return pd.DataFrame(observer.finish(lambda prompt, position: texts[by_index[prompt][position]]))


def _positions(prompt: TokenPrompt, request: Request) -> Sequence[int]:
    first = request.keep_first and prompt.positions and prompt.positions[0] == 1
    return (0, *prompt.positions) if first else prompt.positions


def _observe(
    model: Model, prompts: Sequence[TokenPrompt], request: Request, verdict: Verdict, show: Progress,
    lens: LensObserver, residual: ResidualObserver,
) -> None:  # fmt: skip
    size = 1 if not verdict.pad else request.batch_size
    total = sum(len(_positions(p, request)) for p in prompts)
    ids = [p.ids for p in prompts]
    with show.stage("clean run", total) as tick, torch.no_grad():
        for batch in batches(ids, model.device, max_tokens=batch_tokens(model, int(request.memory)), batch_size=size):
            run = model.clean(batch.ids, parts=bool(residual.wanted) and verdict.parts)
            where = measured(batch, prompts, request.keep_first)
            if residual.wanted:
                residual.observe(run, where)
            if lens.wanted:
                lens.observe(run, where, tick)
            else:
                tick(len(where))


def batch_tokens(model: Model, memory: int) -> int:
    """Tokens a batch may have: states and parts of every step must fit a quarter of the memory."""
    width = model.trace.width * (4 * len(model.plan) + 8)
    size = 4 if model.dtype == torch.float32 else 2
    most = CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS
    return max(1, min(most, memory // 4 // (width * size)))


def _weights(model: Model, samples: Samples) -> None:
    """weights.cosine: layers are compared as they are stored, so iterations count once."""
    config = model.checkpoint.config
    groups = [weight_groups(layer.module, config) for layer in model.anatomy.layers]
    for name in dict.fromkeys(name for group in groups for name in group):
        matrix = weight_cosine([group.get(name, []) for group in groups])
        samples.put_pooled(Key("weights.cosine", name), None, matrix.numpy())
    everything = [[t for tensors in group.values() for t in tensors] for group in groups]
    samples.put_pooled(Key("weights.cosine", "all"), None, weight_cosine(everything).numpy())


def _tokens_frame(lens: LensObserver, model: Model, prompts: Sequence[TokenPrompt]) -> pd.DataFrame:
    """lens.tokens and tuned.tokens with the text of each predicted token, and of the token it was predicted at."""
    frame = pd.DataFrame(lens.token_rows)
    if frame.empty:
        return frame
    ids = {p.index: p.ids for p in prompts}
    texts = _texts(model, set(frame["token_id"]) | {t for p in prompts[:TOKEN_PROMPTS] for t in p.ids})
    frame["token"] = frame["token_id"].map(texts)
    where = zip(frame["prompt"], frame["position"], strict=True)
    frame["input_token"] = [texts[ids[p][t]] for p, t in where]
    return frame


def with_token_rows(
    frame: pd.DataFrame, rows: list[dict[str, Any]], model: Model, prompts: Sequence[TokenPrompt]
) -> pd.DataFrame:
    """Token-level rows of edited runs, with the text of the token at each position, after what there is."""
    if not rows:
        return frame
    more = pd.DataFrame(rows)
    texts = _texts(model, set(more["token_id"]))
    more["token"] = more["input_token"] = more["token_id"].map(texts)
    return more if frame.empty else pd.concat([frame, more], ignore_index=True)


def _texts(model: Model, ids: set[int]) -> dict[int, str]:
    if model.tokenizer is None:
        return {i: str(i) for i in ids}
    return {int(i): model.tokenizer.decode([int(i)]) for i in ids}
