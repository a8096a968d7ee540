"""Train a checkpoint of the recipe: ``python data/recipe/train.py CONFIG --out DIR [--smoke]``.

Seeded and resumable: killed in the middle, the same command goes on and ends with the same
weights. Run it with OMP_WAIT_POLICY=PASSIVE where other processes are busy.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from corpus import Curriculum, batch
from export import export
from model import Llama, Shape
from optim import Optimizer
from torch.nn import functional as F

SAVE_EVERY = 100


@dataclass(frozen=True)
class Recipe:
    """One arm: sizes, schedule and growth."""

    name: str
    arm: str
    seed: int
    steps: int
    rows: int
    shape: Shape
    block: int
    growth: tuple[int, ...]
    curriculum: Curriculum
    warmup: int = 150

    @property
    def tokens_per_step(self) -> int:
        """Predicted tokens of one step."""
        return self.rows * self.shape.context

    def rate(self, step: int) -> float:
        """Share of the full learning rate: warm-up, constant, linear decay over the last third."""
        left = (self.steps - step) / max(1.0, self.steps / 3)
        return min(1.0, (step + 1) / self.warmup, left)


def read_recipe(path: Path, smoke: bool = False) -> Recipe:
    """A recipe from its TOML file; ``smoke`` keeps everything but the size."""
    raw = tomllib.loads(path.read_text())
    shape = Shape(**raw.get("shape", {}))
    steps, block = raw["steps"], raw["block"]
    curriculum = Curriculum(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.get("curriculum", {}).items()})
    stages = shape.layers // block
    # Growth over the first three quarters: from one block to all, evenly spaced.
    at = (
        tuple(round(0.75 * i / (stages - 1) * steps) for i in range(1, stages))
        if raw["arm"] in ("midas", "lidas")
        else ()
    )
    recipe = Recipe(raw["name"], raw["arm"], raw["seed"], steps, raw["rows"], shape, block, at, curriculum)
    return _smaller(recipe) if smoke else recipe


def _smaller(recipe: Recipe) -> Recipe:
    steps = 24
    growth = tuple(max(1, g * steps // recipe.steps) for g in recipe.growth)
    shape = replace(recipe.shape, width=32, hidden=64, context=64)
    return replace(recipe, steps=steps, rows=4, growth=growth, shape=shape, warmup=4)


def insertion(arm: str, layers: int, block: int) -> tuple[int, list[int]]:
    """Where copies go, and of which layers, when ``layers`` grow by one block.

    midas: block ⌈n/2⌉−1 of n is copied right after itself. lidas: the ``block`` layers centred on
    the middle layer are copied right after themselves; at even n they straddle two blocks.
    """
    if arm == "midas":
        n = layers // block
        first = (math.ceil(n / 2) - 1) * block
    else:
        first = (layers - block) // 2
    return first + block, list(range(first, first + block))


class Run:
    """A training run that can be put down and taken up again."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        torch.manual_seed(recipe.seed)
        start = recipe.block if recipe.growth else recipe.shape.layers
        self.model = Llama(replace(recipe.shape, layers=start))
        if recipe.growth:
            self._rescale_outputs()
        self.optimizer = Optimizer()
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.log: list[dict[str, float]] = []

    def _rescale_outputs(self) -> None:
        """Residual outputs start as small as in the model that they will be part of."""
        ratio = math.sqrt(self.recipe.block / self.recipe.shape.layers)
        with torch.no_grad():
            for block in self.model.blocks:
                block.o.mul_(ratio)
                block.down.mul_(ratio)

    def grow(self) -> None:
        """One insertion, with its optimizer state, written into the history."""
        at, sources = insertion(self.recipe.arm, len(self.model.blocks), self.recipe.block)
        before = list(self.model.blocks)
        origin = self.model.insert_copies(at, sources)
        for new in range(at, at + len(sources)):
            self.optimizer.copy_state(before[origin[new]], self.model.blocks[new])
        self.model.shape = replace(self.model.shape, layers=len(self.model.blocks))
        self.history.append({
            "tokens": self.step * self.recipe.tokens_per_step, "inserted_at": at, "copied_from": sources,
        })  # fmt: skip

    def advance(self) -> None:
        """One step of training, after the growth that is due."""
        if self.step in self.recipe.growth:
            self.grow()
        recipe = self.recipe
        tokens = self.step * recipe.tokens_per_step
        ids, weights = batch(
            recipe.seed, self.step, recipe.rows, recipe.shape.context, recipe.curriculum.shares(tokens)
        )
        ids_t, weights_t = torch.from_numpy(ids), torch.from_numpy(weights)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(ids_t[:, :-1])
        losses = F.cross_entropy(logits.float().flatten(0, 1), ids_t[:, 1:].flatten(), reduction="none")
        loss = (losses * weights_t.flatten()).sum() / weights_t.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(self.model, recipe.rate(self.step))
        for p in self.model.parameters():
            p.grad = None
        answers = weights_t.flatten() == 1.0
        answer_loss = float(losses.detach()[answers].mean())
        row = {"step": self.step, "tokens": tokens, "layers": len(self.model.blocks)}
        self.log.append({**row, "loss": float(loss.detach()), "answer_loss": answer_loss})
        self.step += 1

    def save(self) -> None:
        """Put the run down, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.dump(self.model),
                 "count": self.optimizer.count, "step": self.step, "history": json.dumps(self.history),
                 "log": json.dumps(self.log), "layers": len(self.model.blocks)}  # fmt: skip
        scratch = self.folder / "state.tmp"
        torch.save(state, scratch)
        os.replace(scratch, self.folder / "state.pt")

    def resume(self) -> None:
        """Take the run up where it was put down, if it was."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        while len(self.model.blocks) < state["layers"]:
            self.grow()
        self.model.load_state_dict(state["model"])
        self.optimizer.restore(self.model, state["optimizer"])
        self.optimizer.count, self.step = state["count"], state["step"]
        self.history, self.log = json.loads(state["history"]), json.loads(state["log"])

    def write_log(self) -> None:
        """Loss curve as CSV."""
        with (self.folder / "loss.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "tokens", "layers", "loss", "answer_loss"], lineterminator="\n")
            writer.writeheader()
            writer.writerows([{k: round(v, 5) for k, v in row.items()} for row in self.log[::10]])


def train(recipe: Recipe, folder: Path, *, compile_block: bool = True, stop_at: int | None = None) -> Run:
    """Run a recipe to its end (or to ``stop_at``), taking up what was left in ``folder``."""
    run = Run(recipe, folder)
    run.resume()
    if compile_block:
        run.model.compile_block()
    started, first = time.perf_counter(), run.step
    while run.step < min(recipe.steps, stop_at or recipe.steps):
        run.advance()
        if run.step % SAVE_EVERY == 0:
            run.save()
            speed = (run.step - first) * recipe.tokens_per_step / (time.perf_counter() - started)
            last = run.log[-SAVE_EVERY:]
            mean = sum(r["answer_loss"] for r in last) / len(last)
            print(
                f"step {run.step} layers {len(run.model.blocks)} answer loss {mean:.3f} {speed:.0f} tokens/s",
                flush=True,
            )
    run.save()
    return run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where unfinished work lives [OUT.work]")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    recipe = read_recipe(args.config, args.smoke)
    work = args.work or args.out.with_name(args.out.name + ".work")
    run = train(recipe, work, compile_block=not (args.no_compile or args.smoke))
    run.write_log()
    export(run, args.out)


if __name__ == "__main__":
    main()
