"""What an analysis would do, and about how long it would take: nothing is measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from depthsig.analysis.analyze import prepare
from depthsig.analysis.jobs import jobs_for
from depthsig.analysis.request import Request
from depthsig.engine.memory import divide
from depthsig.engine.model import Model
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt

EFFICIENCY = 0.75
"""Share of a large matmul's speed that a model's steps and readouts with their reductions reach."""


@dataclass(frozen=True)
class Piece:
    """A job: edited runs over all prompts, and the tokens that go through steps and readouts."""

    name: str
    runs: int
    step_tokens: int
    readout_tokens: int


@dataclass(frozen=True)
class Forecast:
    """What an analysis would take.

    Attributes:
        prompts, tokens: those that take part.
        seconds: estimated from the arithmetic and a matmul's speed on this machine; without the
            model's loading, the certificates, figures and a control.
        memory: bytes beside the model that it may take.
    """

    plan: str
    prompts: int
    tokens: int
    pieces: tuple[Piece, ...]
    seconds: float
    memory: int

    def record(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"plan: {self.plan}", f"prompts: {self.prompts} of {self.tokens} tokens in all"]
        lines += [
            f"{p.name}: {p.runs:,} runs, {p.step_tokens:,} tokens through steps, {p.readout_tokens:,} read out"
            for p in self.pieces
        ]
        lines.append(f"estimated time: {_duration(self.seconds)} (without loading, certificates and figures)")
        lines.append(f"estimated memory beside the model: up to {self.memory / 2**30:.2g} GiB")
        return "\n".join(lines)


def forecast(model: Any, prompts: Any = None, *, tokenizer: Any = None, **options: Any) -> Forecast:
    """What :func:`depthsig.analyze` would do with the same arguments.

    Raises:
        InputError: for the bad input that it would refuse, too.
    """
    opened, request, ready, _, _ = prepare(model, prompts, tokenizer, options, Progress(False))
    counted = [p for p in ready if p.positions]
    pieces = (_clean(opened, request, counted), *(_edited(opened, job, counted) for job in jobs_for(request, opened)))
    layer, head = _flops(opened)
    flops = sum(p.step_tokens * layer + p.readout_tokens * head for p in pieces)
    seconds = flops / (EFFICIENCY * _speed(opened))
    return Forecast(
        str(opened.plan), len(counted), sum(p.n_tokens for p in counted), pieces, seconds, _memory(opened, request)
    )


def _clean(model: Model, request: Request, prompts: Sequence[TokenPrompt]) -> Piece:
    tokens, steps = sum(p.n_tokens for p in prompts), len(model.plan)
    lens = any(m.startswith(("lens.", "settling", "effective_depth")) for m in request.wanted)
    tuned = request.lens is not None
    readouts = tokens * (lens * steps + tuned * steps + (lens or tuned))
    return Piece("clean run", len(prompts), tokens * steps, readouts)


def _edited(model: Model, job: Any, prompts: Sequence[TokenPrompt]) -> Piece:
    costs = [(job.cost(len(model.plan), p), p.n_tokens) for p in prompts]
    return Piece(
        job.name,
        round(sum(cost.runs for cost, _ in costs)),
        round(sum(cost.steps * n for cost, n in costs)),
        round(sum(cost.readouts * n for cost, n in costs)),
    )


def _flops(model: Model) -> tuple[float, float]:
    """Of one token through one step and through the head: two a parameter."""
    sizes = [sum(p.numel() for p in layer.module.parameters()) for layer in model.anatomy.layers]
    executed = [sizes[step.layer] for step in model.plan]
    return 2 * sum(executed) / max(1, len(executed)), 2.0 * model.readout.vocab * model.trace.width


def _speed(model: Model, size: int = 1024) -> float:
    """Floating-point operations a second of a square matmul in the model's dtype and place."""
    a = torch.ones(size, size, dtype=model.dtype, device=model.device)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        float((a @ a)[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _memory(model: Model, request: Request) -> int:
    budget = divide(model, int(request.memory))
    rows = 6 * 4 * model.readout.vocab * budget.rows
    width = model.trace.width * (3 * len(model.plan) + 8) * 4
    return min(
        int(request.memory), rows + width * budget.batch_tokens + (budget.states if jobs_for(request, model) else 0)
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
