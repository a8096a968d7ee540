"""Cost of edited runs on SmolLM2-135M in fp32 on this machine: ratios within one process.

    python tests/benchmarks/edited_runs.py [CHECKPOINT] [--only floor,naive,published,repeat,memory]

The floor is the arithmetic that cannot be avoided (the steps after each edit, and the head for every
edited run), at the speed that plain forwards of as many tokens at once reach here. The naive code is
one hooked full forward a step, in the same batches, computing the same metrics; the published
procedure does that for one prompt, one cut and one part at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from clean_run import peak_over, report, resident, smollm2

import depthsig
from depthsig.checkpoint.hooks import StopForward, forward, hooked, undisturbed
from depthsig.engine.batch import make_batch
from depthsig.engine.certificates import Verdict
from depthsig.engine.device import Pending
from depthsig.engine.memory import CPU, divide
from depthsig.engine.rows import Clean
from depthsig.measure.edited.edited_batch import EditedBatch, EditedProvider, Means
from depthsig.measure.edited.reordering import Repeating, repeat_edits
from depthsig.measure.edited.skipping import Skipping
from depthsig.measure.providers import Work
from depthsig.measure.request import Request
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics.interventions import future_cuts
from depthsig.model import Model
from depthsig.prompts import TokenPrompt, tokenize
from depthsig.tables.samples import Samples


def best(work: Callable[[], Any], rounds: int = 2) -> float:
    """Least seconds of a few runs."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def typical(work: Callable[[], Any], rounds: int) -> float:
    """Median seconds of some runs: what a long run of the same work gets, fast and slow moments alike."""
    return statistics.median(best(work, 1) for _ in range(rounds))


def prompts_of(model: Model, n: int, tokens: int) -> list[TokenPrompt]:
    """Random prompts: what a token says costs nothing."""
    generator = torch.Generator().manual_seed(n * tokens)
    ids = torch.randint(100, model.readout.vocab - 100, (n, tokens), generator=generator)
    return tokenize(ids.tolist(), None)


class Bench:
    """One shape of prompts: the engine's time, its floor, and what others take."""

    def __init__(self, model: Model, n: int, tokens: int) -> None:
        self.model, self.n, self.tokens = model, n, tokens
        self.prompts = prompts_of(model, n, tokens)
        self.batch = make_batch([p.ids for p in self.prompts], range(n), model.device)
        self.steps = len(model.plan)

    def job(self, request: Request, provider: type[EditedProvider]) -> None:
        """What a provider measures on the batch, its clean run included."""
        work = Work(self.model, request, self.prompts, Verdict(True, True, ()))
        job = provider(work, request.on(*provider.kinds))
        with torch.no_grad():
            clean = Clean.of(self.model, self.batch, parts=job.needs_parts)
            later = Pending()
            batch = EditedBatch(work, clean, divide(self.model, 4 << 30), Means(), True, lambda tokens: None, later)
            job.run(batch, Samples(self.n), TokenRows())
            later.settle()

    def skip(self, **options: Any) -> Callable[[], None]:
        """All skip metrics."""
        request = Request(metrics="skip", **options)
        return lambda: self.job(request, Skipping)

    def step_seconds(self) -> float:
        """Seconds a token and step in a plain forward of as many tokens at once."""
        rows = max(1, min(CPU.step_tokens // (self.n * self.tokens), self.steps)) * self.n
        ids = self.batch.ids.repeat(rows // self.n, 1)

        def stop(*_: Any) -> None:
            raise StopForward

        last = self.model.anatomy.layers[-1].module
        with undisturbed(self.model.module), hooked(post=[(last, stop)]):

            def plain() -> None:
                with contextlib.suppress(StopForward):
                    forward(self.model.module, ids)

            plain()
            return typical(plain, 5) / (ids.numel() * self.steps)

    def head_seconds(self) -> float:
        """Seconds a token of the bare head matmul, 256 rows at a time."""
        hidden = torch.randn(256, self.model.trace.width)
        out = torch.empty(256, self.model.readout.vocab)
        weight = self.model.readout.head.weight.detach().t()
        torch.mm(hidden, weight, out=out)
        return typical(lambda: torch.mm(hidden, weight, out=out), 9) / 256

    def floor(self, steps_run: float, readouts: float) -> float:
        """Seconds that ``steps_run`` steps and ``readouts`` heads of the whole batch must take."""
        clean = self.steps + 1
        tokens = self.n * self.tokens
        return tokens * ((steps_run + clean) * self.step_seconds() + (readouts + 1) * self.head_seconds())


def naive(bench: Bench, rows: Sequence[int], edited: slice, seen: slice, part: str = "layer") -> None:
    """One hooked forward a step, and every skip metric, as a careful user would write it."""
    model, ids = bench.model, bench.batch.ids[list(rows)]
    layers = [layer.module for layer in model.anatomy.layers]

    def run(step: int | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        updates: list[torch.Tensor] = []

        def keep(m: Any, args: tuple, kwargs: dict, output: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            updates.append((output[0] if isinstance(output, tuple) else output) - hidden)

        def skip(m: Any, args: tuple, kwargs: dict, output: Any) -> torch.Tensor:
            out = (output[0] if isinstance(output, tuple) else output).clone()
            out[:, edited] = (args[0] if args else kwargs["hidden_states"])[:, edited]
            return out

        def silence(m: Any, args: tuple, kwargs: dict, output: Any) -> Any:
            first = (output[0] if isinstance(output, tuple) else output).clone()
            first[:, edited] = 0
            return (first, *output[1:]) if isinstance(output, tuple) else first

        post: list[tuple[Any, Any]] = []
        if step is not None:
            layer = model.anatomy.layers[step]
            place = layer.module if part == "layer" else getattr(layer, part).module
            post.append((place, skip if part == "layer" else silence))
        post += [(m, keep) for m in layers]
        with undisturbed(model.module), hooked(post=post):
            return forward(model.module, ids), updates

    clean, before = run(None)
    p, logs = clean.softmax(-1), clean.log_softmax(-1)
    targets = ids.roll(-1, 1)[..., None]
    for step in range(bench.steps):
        logits, after = run(step)
        for later in range(step + 1, bench.steps):
            gap = (after[later] - before[later]).norm(dim=-1) / before[later].norm(dim=-1).clamp_min(1e-6)
            gap[:, seen].mean(), gap[:, seen].amax()
        other = logits.log_softmax(-1)
        (p - other.exp()).norm(dim=-1)[:, seen].mean()
        (p * (logs - other)).sum(-1)[:, seen].mean()
        (logs.gather(-1, targets) - other.gather(-1, targets))[:, seen].mean()
        (clean.argmax(-1) == logits.argmax(-1))[:, seen].float().mean()


def against_floor(model: Model) -> list[bool]:
    """Skip of all layers, all skip metrics, over its floor."""
    held = []
    for n, tokens, bound in ((1, 32, 1.3), (4, 32, 1.2), (8, 64, 1.2)):
        bench = Bench(model, n, tokens)
        work = bench.skip(scopes="current")
        work()
        # In turns: the machine's speed drifts by a tenth within seconds.
        pairs = [(best(work, 1), bench.floor(bench.steps * (bench.steps - 1) / 2, bench.steps)) for _ in range(5)]
        seconds, floor = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{n}x{tokens}: {seconds:.3f} s, floor {floor:.3f} s")
        held.append(report(f"skip of all layers, all metrics, {n}x{tokens} / floor", seconds / floor, bound))
    return held


def against_naive(model: Model) -> list[bool]:
    """One naive hooked forward a step, in the same batches, over the engine's time."""
    held = []
    for n, tokens, bound in ((1, 32, 2.0), (8, 64, 1.5)):
        bench = Bench(model, n, tokens)
        work = bench.skip(scopes="current")
        work()
        rows, edited = list(range(n)), slice(1, None)
        ratio = best(lambda: naive(bench, rows, edited, edited)) / best(work)  # noqa: B023
        held.append(report(f"engine / naive at {n}x{tokens}, inverse of the speed-up", 1 / ratio, 1 / bound))
        print(f"{n}x{tokens}: {ratio:.2f} times as fast as naive (wanted {bound})")
    return held


def against_published(model: Model, n: int = 2, tokens: int = 64) -> list[bool]:
    """Layer, attention and MLP, current and future with 4 cuts, over the published procedure."""
    bench = Bench(model, n, tokens)
    seconds = best(bench.skip(parts="layer,attn,mlp"), 1)

    def published() -> None:
        for row in range(n):
            for part in ("layer", "attn", "mlp"):
                naive(bench, [row], slice(1, None), slice(1, None), part)
                for cut in future_cuts(tokens, 4):
                    naive(bench, [row], slice(1, cut), slice(cut, None), part)

    ratio = best(published, 1) / seconds
    print(f"{n}x{tokens}: {ratio:.2f} times as fast as the published procedure (wanted 2.5)")
    return [report("engine / published procedure", 1 / ratio, 1 / 2.5)]


def repeats(model: Model) -> list[bool]:
    """All repeats on 8 short prompts, over their floor and over each order from the start."""
    bench = Bench(model, 8, 16)
    seconds = best(lambda: bench.job(Request(metrics="repeat"), Repeating), 1)
    edits = repeat_edits(model.plan)
    after = sum(bench.steps - start for start, _ in edits)
    floor = bench.floor(after, len(edits))
    start = bench.floor(sum(bench.steps + end - first for first, end in edits), len(edits))
    print(f"{len(edits)} repeats and the clean run: {seconds:.1f} s, floor {floor:.1f} s")
    held = [report("scan of all repeats / floor", seconds / floor, 1.3)]
    return [*held, report("scan of all repeats / floor of each order from the start", seconds / start, 1 / 1.3)]


def memory(model: Model) -> list[bool]:
    """Peak memory over the model against the budget, and the time that a smaller one costs."""
    held = []
    ids = [list(p.ids) for p in prompts_of(model, 8, 64)]
    for gib in (4, 2, 1):
        before, started = resident(), time.perf_counter()
        depthsig.analyze(model, ids, metrics=["skip"], memory=f"{gib}GiB")
        peak = peak_over(before) / 2**30
        held.append(report(f"peak memory over the model with --memory {gib}GiB", peak, gib, " GiB"))
        print(f"took {time.perf_counter() - started:.1f} s")
    return held


PARTS: dict[str, Callable[[Model], list[bool]]] = {
    "floor": against_floor, "naive": against_naive, "published": against_published, "repeat": repeats,
    "memory": memory,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--only", default=",".join(PARTS))
    options: Any = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    model = depthsig.load(options.checkpoint or smollm2())
    held = [result for name in options.only.split(",") for result in PARTS[name](model)]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
