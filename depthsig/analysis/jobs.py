"""Which jobs a request needs, and running them batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from depthsig.analysis.accumulate import Samples
from depthsig.analysis.edited import Job, Means, Work
from depthsig.analysis.local import LocalJob
from depthsig.analysis.orders import OrderJob, RepeatJob
from depthsig.analysis.request import Request
from depthsig.analysis.skip import SkipJob
from depthsig.analysis.token_depth import AttributionJob, ErasureJob
from depthsig.analysis.units import Rows, Units
from depthsig.engine.batch import Batch, batches
from depthsig.engine.certificates import Verdict
from depthsig.engine.clean import update_of
from depthsig.engine.memory import divide
from depthsig.engine.model import Model
from depthsig.engine.run import Clean
from depthsig.errors import DepthsigWarning
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt

_SKIP_SCORES = {"depth_score.effect": "skip.effect", "depth_score.output": "skip.output_l2"}


def needed(wanted: frozenset[str]) -> frozenset[str]:
    """The metrics to measure for those asked for: scores need their profiles."""
    more = set(wanted)
    for score, source in _SKIP_SCORES.items():
        if wanted & {score, f"{score}.relative"}:
            more.add(source)
    if "late_share" in wanted:
        more.add("skip.output_l2")
    return frozenset(more)


def jobs_for(request: Request, model: Model) -> list[Job]:
    """The jobs of a request."""
    wanted = needed(request.wanted)
    skip = frozenset(m for m in wanted if m.startswith("skip."))
    order = frozenset(m for m in wanted if m.startswith("order."))
    found: list[Job] = []
    if skip:
        found.append(SkipJob(skip, request))
    if "local.effect" in wanted:
        found.append(LocalJob(request))
    if order:
        found.append(OrderJob(order, model.plan))
    if "repeat.loss" in wanted:
        found.append(RepeatJob(model.plan, len(model.anatomy.layers)))
    if "erasure.effect" in wanted:
        found.append(ErasureJob())
    if any(m.startswith("attribution.") for m in wanted):
        found.append(AttributionJob())
    return found


def edit_batches(model: Model, prompts: Sequence[TokenPrompt], request: Request, verdict: Verdict) -> list[Batch]:
    """The batches that edited runs go over; the same for the same request, so that work can be resumed."""
    budget = divide(model, int(request.memory))
    size = 1 if not verdict.pad else request.batch_size
    return list(batches([p.ids for p in prompts], model.device, max_tokens=budget.batch_tokens, batch_size=size))


def run_jobs(
    model: Model, prompts: Sequence[TokenPrompt], request: Request, verdict: Verdict, samples: Samples,
    units: Units, show: Progress,
) -> Rows:  # fmt: skip
    """Run every job of the request on every batch; returns token-level rows."""
    jobs = jobs_for(request, model)
    counted = [p for p in prompts if p.positions]
    rows: Rows = []
    if not jobs or not counted:
        return rows
    parts = verdict.parts and any(job.needs_parts for job in jobs)
    if set(request.parts) != {"layer"} and not verdict.parts:
        warnings.warn(
            f"attention and MLP rows are left out: where {model.anatomy.family} keeps its parts is not known",
            DepthsigWarning,
            stacklevel=2,
        )
    budget = divide(model, int(request.memory))
    every = edit_batches(model, counted, request, verdict)
    total = sum(job.cost(len(model.plan), p).runs * p.n_tokens for job in jobs for p in counted)
    means = Means()
    if any(job.needs_means for job in jobs):
        # Of all prompts, whichever positions are measured.
        long = [p for p in prompts if p.n_tokens >= 2]
        means = _means(model, edit_batches(model, long, request, verdict), parts)
    with show.stage("edited runs", int(total)) as tick, torch.no_grad():
        for number, batch in enumerate(every):
            clean: Clean | None = None
            for job in jobs:
                name = f"{job.name}-{number:05d}"
                before = units.load(name, samples)
                if before is not None:
                    rows += before
                    here = [counted[r] for r in batch.rows]
                    tick(sum(job.cost(len(model.plan), p).runs * p.n_tokens for p in here))
                    continue
                clean = clean or Clean.of(model, batch, parts=parts)
                piece, lines = Samples(samples.n_prompts), list[dict[str, Any]]()
                job.run(Work(model, clean, counted, request, budget, means, parts, tick), piece, lines)
                units.save(name, piece, lines)
                samples.absorb(piece.state())
                rows += lines
    return rows


def _means(model: Model, every: Sequence[Batch], parts: bool) -> Means:
    """Mean states and contributions over the counted tokens (all but the first) of all prompts."""
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for batch in every:
        run = model.clean(batch.ids, parts=parts)
        mask = batch.mask()
        mask[:, 0] = False
        count += int(mask.sum())
        pieces = {"states": run.states, "layer": [update_of(run, s) for s in range(len(run.inputs))]}
        if parts:
            pieces |= {"attn": run.attn, "mlp": run.mlp}  # type: ignore[dict-item]
        for name, tensors in pieces.items():
            zero = torch.zeros(run.inputs[0].shape[-1], dtype=torch.float64, device=mask.device)
            total = torch.stack([zero if t is None else t[mask].double().sum(0) for t in tensors])
            sums[name] = sums[name] + total if name in sums else total
    means = {name: (total / count).float() for name, total in sums.items()}
    return Means({k: v for k, v in means.items() if k != "states"}, means["states"])
