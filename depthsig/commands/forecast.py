"""What an analysis would do, and about how long it would take: nothing is measured."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from depthsig.commands.analyze import Job
from depthsig.engine.certificates import Verdict
from depthsig.engine.memory import divide
from depthsig.engine.network import Network
from depthsig.measure.providers import Cost, Work
from depthsig.measure.schedule import providers
from depthsig.progress import Progress

EFFICIENCY = 0.75
"""Share of a large matmul's speed that a model's steps and readouts with their reductions reach."""


@dataclass(frozen=True)
class Piece:
    """A job: its runs over all prompts, and the tokens that go through steps and readouts."""

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


def forecast(job: Job) -> Forecast:
    """What an analysis would do.

    Raises:
        InputError: for the bad input that it would refuse, too.
    """
    ready = job.prepare(Progress(False))
    network = ready.model
    work = Work(network, ready.request, ready.prompts.tokens, Verdict(True, True, ()), ready.request.lens)
    clean, edited = providers(work)
    steps = work.steps
    whole = [Cost(1, steps, 0) + sum((o.cost(p) for o in clean), Cost()) for p in work.counted]
    pieces = [_piece("clean run", whole, work)]
    pieces += [_piece(provider.name, [provider.cost(p) for p in work.counted], work) for provider in edited]
    layer, head = _flops(network)
    flops = sum(p.step_tokens * layer + p.readout_tokens * head for p in pieces)
    return Forecast(
        str(network.plan), len(work.counted), sum(p.n_tokens for p in work.counted), tuple(pieces),
        flops / (EFFICIENCY * _speed(network)), _memory(work, bool(edited)),
    )  # fmt: skip


def _piece(name: str, costs: list[Cost], work: Work) -> Piece:
    lengths = [p.n_tokens for p in work.counted]
    return Piece(
        name,
        round(sum(cost.runs for cost in costs)),
        round(sum(cost.steps * n for cost, n in zip(costs, lengths, strict=True))),
        round(sum(cost.readouts * n for cost, n in zip(costs, lengths, strict=True))),
    )


def _flops(network: Network) -> tuple[float, float]:
    """Of one token through one step and through the head: two a parameter."""
    sizes = [sum(p.numel() for p in layer.module.parameters()) for layer in network.anatomy.layers]
    executed = [sizes[step.layer] for step in network.plan]
    return 2 * sum(executed) / max(1, len(executed)), 2.0 * network.readout.vocab * network.trace.width


def _speed(network: Network, size: int = 1024) -> float:
    """Floating-point operations a second of a square matmul in the model's dtype and place."""
    a = torch.ones(size, size, dtype=network.dtype, device=network.device)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        float((a @ a)[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _memory(work: Work, edited: bool) -> int:
    budget = divide(work.network, work.request.bytes)
    rows = 6 * 4 * work.network.readout.vocab * budget.rows
    width = work.network.trace.width * (3 * work.steps + 8) * 4
    return min(work.request.bytes, rows + width * budget.batch_tokens + (budget.states if edited else 0))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
