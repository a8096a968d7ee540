"""Train a checkpoint of the recipe: ``python -m data.recipe.train CONFIG [--out DIR] [--smoke]``.

Seeded and resumable: killed in the middle, the same command with ``--resume`` goes on and ends
with the same weights. Run it with OMP_WAIT_POLICY=PASSIVE where other processes are busy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from .export import export, write_checkpoint
from .recipe import Recipe, read_recipe
from .run import Run

SAVE_EVERY = 100


def train(
    recipe: Recipe,
    folder: Path,
    *,
    compile_block: bool = True,
    stop_at: int | None = None,
    minutes: float | None = None,
    save_every: int = SAVE_EVERY,
    snapshot_every: int | None = None,
    abandoned: Callable[[], bool] | None = None,
) -> Run:
    """Run a recipe to its end, taking up what was left in ``folder``.

    Args:
        stop_at, minutes: put the run down at this step, or after this time, whichever is first.
        snapshot_every: keep a checkpoint of every so many steps under ``folder/snapshots``.
        abandoned: asked before every step; if true, training ends there with nothing more written.
    """
    run = Run(recipe, folder)
    run.resume()
    if compile_block:
        run.model.compile_block()
    started, first = time.perf_counter(), run.step
    while run.step < min(recipe.steps, stop_at or recipe.steps):
        if abandoned and abandoned():
            return run
        run.advance()
        spent = time.perf_counter() - started
        if snapshot_every and run.step % snapshot_every == 0:
            write_checkpoint(run, folder / "snapshots" / f"{run.step:06d}")
        if run.step % save_every == 0:
            run.save()
            _report(run, (run.step - first) * recipe.tokens_per_step / spent, save_every)
        if minutes and spent > 60 * minutes:
            break
    run.save()
    return run


def _report(run: Run, speed: float, over: int) -> None:
    last = [row["answer_loss"] for row in run.log[-over:]]
    mean = sum(last) / len(last)
    print(
        f"step {run.step} layers {len(run.model.blocks)} answer loss {mean:.3f} {speed:.0f} tokens/s",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    recipe = read_recipe(args.config, args.smoke)
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    out = args.out or default_folder(recipe, args.seed)
    work = args.work or out.with_name(out.name + ".work")
    if (work / "state.pt").exists() and not args.resume:
        print(f"unfinished work lies in {work}: --resume goes on with it; remove it to start anew", file=sys.stderr)
        return 2
    run = train(recipe, work, compile_block=not (args.no_compile or args.smoke), minutes=args.minutes,
                snapshot_every=args.snapshot_every)  # fmt: skip
    if run.step < recipe.steps:
        print(f"put down at step {run.step} of {recipe.steps}; --resume goes on")
        return 0
    export(run, out, scored=10 if args.smoke else 500)
    return 0


def default_folder(recipe: Recipe, seed: int | None) -> Path:
    """Where a run is exported to: a seed that is not the config's gets a folder of its own."""
    name = recipe.name if seed is None else f"{recipe.name}-seed{seed}"
    return Path(__file__).resolve().parent.parent / "checkpoints" / name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.recipe.train", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, help="the checkpoint's folder [data/checkpoints/NAME]")
    parser.add_argument("--work", type=Path, help="where unfinished work lives [OUT.work]")
    parser.add_argument("--resume", action="store_true", help="go on with unfinished work")
    parser.add_argument("--minutes", type=float, help="put the run down after this time")
    parser.add_argument("--snapshot-every", type=int, metavar="STEPS", help="keep checkpoints along the way")
    parser.add_argument("--seed", type=int, help="of weights and data, instead of the config's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="24 steps of a narrow model, not compiled")
    parser.add_argument("--no-compile", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
