"""What analyses take on a GPU, beside plain hooked forwards and beside the bare arithmetic: one table, in 4 minutes.

    python tests/benchmarks/gpu.py [--device cuda] [--seconds 205] [--only SmolLM2,Qwen3-8B]
    python tests/benchmarks/gpu.py --device cpu --small      # tiny shapes: whether it runs, not how fast

Whole ``depthsig.analyze`` calls on a loaded model of random weights, certificates, tables and intervals included,
16 prompts of 128 token ids (Qwen3-8B: 8), the median of up to three after one to warm up. *naive* is plain.py:
hooked full forwards of the whole batch and whole-tensor metrics, in the same process and dtype. *floor*: the
matmuls of the layers that have to run and of the readouts, bare. *differ*: the most that a naive profile and
depthsig's differ, over the profile's largest value. Rows for which no time or memory is left are named, not run.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import plain
import torch
from random_models import bytes_of, random_ids, random_model
from timing import Floor, machine, taken, versions
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import depthsig
from depthsig.errors import DepthsigError
from depthsig.metrics.interventions import future_cuts

TOKENS, SMALL_TOKENS = 128, 20
CUTS = 4
BESIDE = 12 * 2**30
"""Bytes for logits and states beside a shape's weights."""

Naive = Callable[[nn.Module, Tensor], "plain.Means | None"]


@dataclass(frozen=True)
class Work:
    """One analysis.

    Attributes:
        options: of ``depthsig.analyze``.
        naive: the same in plain code; None where there is none.
        cost: tokens through a layer and readouts that it cannot do without, for ``steps``, prompts and tokens.
        family: of the metrics that are compared with the naive ones.
    """

    options: dict[str, Any]
    naive: Naive | None = None
    cost: Callable[[int, int, int], tuple[float, float]] | None = None
    family: str = ""


def everything_skipped(module: nn.Module, ids: Tensor) -> None:
    """Every part of every layer, current and future, one hooked forward each."""
    for part in plain.PARTS:
        for cut in (None, *future_cuts(ids.shape[1], CUTS)):
            plain.skip(module, ids, part=part, cut=cut)


def lens_cost(steps: int, prompts: int, tokens: int) -> tuple[float, float]:
    """One forward, and a readout of each measured position at every depth."""
    return prompts * tokens * steps, prompts * (tokens - 1) * (steps + 1)


def skip_cost(steps: int, prompts: int, tokens: int) -> tuple[float, float]:
    """One forward, the layers after each skipped one, and a readout of each run."""
    return prompts * tokens * (steps + steps * (steps - 1) / 2), prompts * (tokens - 1) * (steps + 1)


def everything_cost(steps: int, prompts: int, tokens: int) -> tuple[float, float]:
    """As :func:`skip_cost` for three parts and every cut; after a cut alone is read."""
    cuts = future_cuts(tokens, CUTS)
    runs, read = 3 * (1 + len(cuts)), 3 * (tokens - 1 + sum(tokens - cut for cut in cuts))
    layers = prompts * tokens * (steps + runs * steps * (steps - 1) / 2)
    return layers, prompts * (steps * read + tokens - 1)


WORK: dict[str, Work] = {
    "lens, 8 metrics": Work(
        {"metrics": [f"lens.{name}" for name in plain.LENS]}, plain.lens, lens_cost, family="lens"
    ),
    "skip, layer, current": Work(
        {"metrics": ["skip"], "parts": ["layer"], "scopes": ["current"]}, plain.skip, skip_cost, family="skip"
    ),
    "residual": Work({"metrics": ["residual"]}),
    "skip, layer+attn+mlp, current+future": Work(
        {"metrics": ["skip"], "parts": list(plain.PARTS), "scopes": ["current", "future"], "cuts": CUTS},
        everything_skipped, everything_cost,
    ),
}  # fmt: skip
LENS, SKIP, RESIDUAL, EVERYTHING = WORK


@dataclass(frozen=True)
class Group:
    """One model and what is measured on it.

    Attributes:
        seconds: what each piece of work may take in all on an H100, so that none is begun that would not end.
        counted: whether launches and waits are counted.
    """

    shape: str
    dtype: torch.dtype
    prompts: int
    seconds: dict[str, float]
    counted: bool = False

    def __str__(self) -> str:
        return f"{self.shape} shape, {str(self.dtype).removeprefix('torch.')}"


GROUPS = (
    Group("SmolLM2", torch.bfloat16, 16, {LENS: 25, SKIP: 20, RESIDUAL: 8}, counted=True),
    Group("SmolLM2", torch.float32, 16, {LENS: 18, SKIP: 16}),
    Group("Llama-3.2-1B", torch.bfloat16, 16, {LENS: 16, SKIP: 14}),
    Group("Qwen3-8B", torch.bfloat16, 8, {LENS: 24, SKIP: 20, RESIDUAL: 10}),
    Group("SmolLM2", torch.bfloat16, 16, {EVERYTHING: 40}),
)
"""In order of importance: the time left decides how many of them are measured."""


@dataclass
class Bench:
    """Where and how all rows are measured."""

    device: torch.device
    small: bool
    seconds: float
    started: float = field(default_factory=time.perf_counter)
    left_out: list[str] = field(default_factory=list)

    def measure(self, group: Group) -> None:
        """The rows of a group, those that fit."""
        if not self._fits(group):
            return
        module = random_model(group.shape, group.dtype, self.device, small=self.small)
        tokens = SMALL_TOKENS if self.small else TOKENS
        ids = random_ids(group.prompts, tokens, module.config.vocab_size, self.device)
        model = depthsig.load(module)
        blocks = (16384, 2048) if self.device.type == "cuda" else (256, 256)
        floor = Floor(module, *blocks)
        if group.counted:
            self._fixed(group, model, ids)
        for name, seconds in group.seconds.items():
            if self._left() < (0 if self.small else seconds):
                self.left_out.append(f"{group}, {name}: no time left")
            else:
                try:
                    self._row(group, name, module, model, ids, floor)
                except DepthsigError as error:
                    self.left_out.append(f"{group}, {name}: {error}")

    def _row(self, group: Group, name: str, module: nn.Module, model: Any, ids: Tensor, floor: Floor) -> None:
        work = WORK[name]
        ours, signature = self._typical(lambda: analyzed(model, ids, work.options), group.seconds[name] / 2)
        theirs, means, least = None, None, None
        if work.naive is not None:
            naive = work.naive
            theirs, means = self._typical(lambda: naive(module, ids), group.seconds[name] / 2)
        if work.cost is not None:
            least = floor.seconds(*work.cost(len(model.plan), *ids.shape))
        calls = ("–", "–", "–")
        if group.counted:
            calls = self._calls(lambda: analyzed(model, ids, work.options))
        ratio = "–" if theirs is None else f"{ours / theirs:.2f}"
        differ = "–" if means is None else f"{difference(signature, means, work.family):.1e}"
        cells = [f"{group}, {len(ids)} × {ids.shape[1]}, {name}", _s(ours), _s(theirs), ratio, _s(least), differ]
        print(_line([*cells, *calls]), flush=True)

    def _fixed(self, group: Group, model: Any, ids: Tensor) -> None:
        """What any analysis costs: next to nothing to measure."""
        options = {"metrics": ["residual.norm"]}
        seconds, _ = self._typical(lambda: analyzed(model, ids[:4, :16], options), 5)
        calls = self._calls(lambda: analyzed(model, ids[:4, :16], options))
        print(_line([f"{group}, fixed cost (one metric, 4 × 16)", _s(seconds), "–", "–", "–", "–", *calls]), flush=True)

    def _typical(self, work: Callable[[], Any], most: float) -> tuple[float, Any]:
        """Median seconds of up to three calls after a first one, and what the last gave.

        A first call that takes so long that more do not fit counts itself.
        """
        result: Any = None

        def once() -> None:
            nonlocal result
            result = work()

        first = taken(once, self.device).wall
        rounds = 0 if self.small else min(3, int((most - first) / first))
        return statistics.median([taken(once, self.device).wall for _ in range(rounds)] or [first]), result

    def _calls(self, work: Callable[[], Any]) -> tuple[str, str, str]:
        """Launches, waits and copies of one call; a CPU has none."""
        activity = ProfilerActivity.CUDA if self.device.type == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiled:
            work()
        counts = counted((one.key, one.count) for one in profiled.key_averages())
        return tuple(f"{counts[kind]:,}" for kind in KINDS)  # type: ignore[return-value]

    def _fits(self, group: Group) -> bool:
        if self.small:
            return True
        if self._left() < min(group.seconds.values()):
            self.left_out.append(f"{group}: no time left")
            return False
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            free, needed = torch.cuda.mem_get_info(self.device)[0], bytes_of(group.shape, group.dtype) + BESIDE
            if free < needed:
                self.left_out.append(f"{group}: {free / 2**30:.0f} GiB of memory free, {needed / 2**30:.0f} wanted")
                return False
        return True

    def _left(self) -> float:
        return self.seconds - self.used()

    def used(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


def analyzed(model: Any, ids: Tensor, options: dict[str, Any]) -> depthsig.Signature:
    """One whole analysis."""
    return depthsig.analyze(model, ids.tolist(), **options)


def difference(signature: depthsig.Signature, means: plain.Means, family: str) -> float:
    """The most that the naive profiles and depthsig's differ, over each one's largest value."""
    gaps = []
    for name, naive in means.items():
        ours = torch.tensor(signature.profile(f"{family}.{name}")["value"].to_numpy())
        gaps.append((ours - torch.tensor(naive, dtype=torch.float64)).abs().max() / ours.abs().max().clamp_min(1e-9))
    return float(torch.stack(gaps).max())  # NaN where one is


KINDS = {
    "launches": ("LaunchKernel", "GraphLaunch"),
    "waits": ("Synchronize",),
    "copies": ("Memcpy",),
}
"""Names in the CUDA runtime's calls, by what they are."""


def counted(calls: Iterable[tuple[str, int]]) -> Counter[str]:
    """How many of the CUDA runtime's calls are of which kind; what runs on the device itself is none of them."""
    counts: Counter[str] = Counter()
    for name, n in calls:
        for kind, parts in KINDS.items():
            if name.startswith(("cuda", "cu")) and any(part in name for part in parts):
                counts[kind] += n
    return counts


def _s(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


COLUMNS = ("work", "depthsig s", "naive s", "ratio", "floor s", "differ", *KINDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--seconds", type=float, default=205, help="no row is begun that would end later")
    parser.add_argument("--only", help="shapes, comma-separated")
    options: Any = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device is here; on one without, --device cpu --small shows that this runs", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    bench = Bench(torch.device(options.device), options.small, options.seconds)
    print(f"{machine(bench.device)}; {versions('depthsig', 'torch', 'transformers')}\n")
    print(_line(COLUMNS))
    print(_line(["---"] * len(COLUMNS)))
    for group in GROUPS:
        if options.only is None or group.shape in options.only.split(","):
            bench.measure(group)
    print(f"\n{bench.used():.0f} s in all")
    for row in bench.left_out:
        print(f"left out: {row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
