"""The whole recipe: ``python -m data.recipe.family [PART...] [--out DIR] [--seeds 2 1 3] [--jobs 2] [--smoke]``.

Parts, all of them by default: ``train`` (the four arms, exported with scores and cards), ``tables``,
``similarity`` (of copied layers' weights) and ``signatures``. Killed in the middle, the same command goes
on and ends with the same weights. Run it with OMP_WAIT_POLICY=PASSIVE where other processes are busy.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .compute import stored_layers
from .export import export, sha256
from .recipe import ARMS, GROWN, Recipe, read_recipe
from .results import beside, read_csv, read_results, read_tables, write_csv, write_tables
from .side_by_side import train_side_by_side
from .signatures import ALONG_METRICS, PROMPTS, Wanted, sign, training_of
from .signatures import COLUMNS as SIGNATURE_COLUMNS
from .similarity import COLUMNS as SIMILARITY_COLUMNS
from .similarity import compare, cosines, draw, summary_table
from .train import train

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent / "checkpoints" / "SHA256SUMS"
SEEDS = (2, 1, 3)
"""The seed whose weights ship, the one whose grown arms did not learn to look up, and one more."""
BLOCKS = ("midas-block2", "midas-block8", "looped-block2")
"""Arms with blocks of another length, for the question whether the period follows the block (``--arms``)."""
PARTS = ("train", "tables", "similarity", "signatures")
SNAPSHOT_COLUMNS = ("arm", "seed", "step", "tokens", "layers", "sha256")


@dataclass(frozen=True)
class Sizes:
    """What is smaller in a smoke run.

    Attributes:
        snapshot_every, save_every: steps between checkpoints kept, and between states saved.
        scored: held-out items a task.
        prompts: prompts of a signature.
        along: the snapshots that get signatures, as steps.
        compile_block: whether the block is compiled.
    """

    snapshot_every: int = 250
    save_every: int = 100
    scored: int = 500
    prompts: int = 20
    along: tuple[int, ...] = (1000, 1750, 2500, 3250, 4000)
    compile_block: bool = True


# Snapshots for signatures lie 250 steps after a growth.
SMOKE = Sizes(snapshot_every=4, save_every=3, scored=5, prompts=5, along=(12,), compile_block=False)


@dataclass(frozen=True)
class Member:
    """One arm with one seed.

    Attributes:
        arm: the arm, as its file and the tables call it.
        work: where its state and snapshots live.
        folder: where it is exported to.
    """

    arm: str
    seed: int
    work: Path
    folder: Path
    smoke: bool = False

    @property
    def recipe(self) -> Recipe:
        """Its recipe: the arm's file, with this seed."""
        return replace(read_recipe(HERE / f"family-{self.arm}.toml", self.smoke), seed=self.seed)

    @property
    def sizes(self) -> Sizes:
        """Sizes of this run."""
        return SMOKE if self.smoke else Sizes()

    @property
    def snapshots(self) -> list[Path]:
        """The checkpoints kept along training, in order; the folder's name is the step."""
        return sorted((self.work / "snapshots").glob("[0-9]*"))

    @property
    def finished(self) -> bool:
        """Whether it is exported from a run of this very recipe."""
        marker = self.work / "exported"
        done = marker.exists() and (self.folder / "results.json").exists()
        return done and marker.read_text(encoding="utf-8") == _stamp(self)


def members(
    out: Path, work: Path, seeds: Sequence[int], smoke: bool = False, arms: Sequence[str] = ARMS
) -> list[Member]:
    """All members; those that ship are exported to ``out/checkpoints``, others stay in ``work``."""
    found = []
    for seed in seeds:
        place = work / f"seed{seed}"
        for arm in arms:
            home = out / "checkpoints" if seed == seeds[0] and arm in ARMS else place
            found.append(Member(arm, seed, place / f"family-{arm}.work", home / f"family-{arm}", smoke))
    return found


def train_all(family: Sequence[Member], jobs: int, device: str = "cpu") -> None:
    """Train and export every member that is not finished, ``jobs`` at a time with one thread each.

    On another device all of them are trained at the same time, and what is left is to export them.
    """
    missing = [m for m in family if not m.finished]
    if device != "cpu" and missing:
        every = missing[0].sizes.snapshot_every
        begun = [(m.recipe, m.work) for m in missing if not (m.work / "state.pt").exists()]
        train_side_by_side(begun, device, snapshot_every=every, processes=jobs)
    if jobs == 1:
        for member in missing:
            train_member(member)
        return
    # Spawned: a forked process would inherit torch's threads in whatever state they are.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(train_member, missing))


def train_member(member: Member) -> None:
    """Train one member to its end and export it; ends quietly when the family's process is gone."""
    torch.set_num_threads(1)
    recipe, sizes = member.recipe, member.sizes
    print(f"{member.arm}, seed {member.seed}", flush=True)
    run = train(
        recipe, member.work, compile_block=sizes.compile_block, save_every=sizes.save_every,
        snapshot_every=sizes.snapshot_every, abandoned=_orphaned,
    )  # fmt: skip
    if run.step < recipe.steps:
        return
    member.folder.parent.mkdir(parents=True, exist_ok=True)
    export(run, member.folder, scored=sizes.scored)
    (member.work / "exported").write_text(_stamp(member), encoding="utf-8")


def _stamp(member: Member) -> str:
    return f"{member.recipe!r}\n{sha256(member.folder / 'model.safetensors')}\n"


def _orphaned() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def make_tables(family: Sequence[Member], out: Path, add: bool = False) -> None:
    """Accuracies, sizes and costs, and the hashes of what ships and of every snapshot."""
    results = out / "results"
    found = [read_results(m.folder) for m in family]
    write_tables(results, beside(read_tables(results), found) if add else found)
    _write(results / "snapshots.csv", SNAPSHOT_COLUMNS, list(_snapshot_rows(family)), add)
    if add:
        return
    shipped = [m.folder for m in family if m.folder.parent == out / "checkpoints"]
    lines = [f"{sha256(f / 'model.safetensors')}  {f.name}/model.safetensors\n" for f in shipped]
    (out / "checkpoints" / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    if not family[0].smoke and SHIPPED.parent.resolve() != (out / "checkpoints").resolve():
        for folder in shipped:
            print(f"{folder.name}: {_against_shipped(folder)}")


def _write(path: Path, columns: Sequence[str], rows: list[dict[str, object]], add: bool) -> None:
    write_csv(path, columns, beside(read_csv(path), rows) if add else rows)


def _snapshot_rows(family: Sequence[Member]) -> Iterator[dict[str, object]]:
    for member in family:
        recipe = member.recipe
        for path in member.snapshots:
            step = int(path.name)
            # A snapshot is taken before the growth that is due at its step.
            yield {
                "arm": member.arm, "seed": member.seed, "step": step, "tokens": step * recipe.tokens_per_step,
                "layers": stored_layers(recipe, step - 1), "sha256": sha256(path / "model.safetensors"),
            }  # fmt: skip


def _against_shipped(folder: Path) -> str:
    """Whether weights are those that depthsig ships."""
    known = dict(line.split()[::-1] for line in SHIPPED.read_text(encoding="utf-8").splitlines())
    if known.get(f"{folder.name}/model.safetensors") == sha256(folder / "model.safetensors"):
        return "the same weights, to the last bit, as those that ship"
    return "other weights than those that ship (another processor or version rounds differently)"


def make_similarity(family: Sequence[Member], out: Path, add: bool = False) -> None:
    """Cosines of copied layers' weights at every snapshot beside the baseline's, and their figure."""
    rows: list[dict[str, object]] = []
    baselines = {m.seed: {p.name: cosines(p) for p in m.snapshots} for m in family if m.arm == "baseline"}
    for member in (m for m in family if m.arm in GROWN and m.seed in baselines):
        for path in member.snapshots:
            labels = {"arm": member.arm, "seed": member.seed, "step": int(path.name),
                      "tokens": int(path.name) * member.recipe.tokens_per_step}  # fmt: skip
            rows += compare(path, baselines[member.seed][path.name], member.recipe.block, labels)
    if add:
        rows = beside(read_csv(out / "results" / "similarity.csv"), rows)
    write_csv(out / "results" / "similarity.csv", SIMILARITY_COLUMNS, rows)
    (out / "results" / "similarity.md").write_text(summary_table(rows) + "\n", encoding="utf-8")
    draw(rows, out / "results" / "similarity.svg")


def make_signatures(family: Sequence[Member], out: Path, add: bool = False) -> None:
    """Signatures of every member, and along the training of the first seed's that are not looped."""
    rows = []
    for member, step, wanted in _wanted(family):
        signature = sign(wanted, out / "signatures", member.sizes.prompts)
        rows.append({
            "name": wanted.name, "arm": member.arm, "seed": member.seed, "step": step,
            "tokens": step * member.recipe.tokens_per_step, "prompts": wanted.prompts,
            "n_prompts": len(signature.prompts), "steps": len(signature.plan),
            "sha256": sha256(wanted.checkpoint / "model.safetensors"),
        })  # fmt: skip
        print(wanted.name, flush=True)
    _write(out / "signatures" / "index.csv", SIGNATURE_COLUMNS, rows, add)


def _wanted(family: Sequence[Member]) -> Iterator[tuple[Member, int, Wanted]]:
    for member in family:
        name, end = f"{member.arm}-seed{member.seed}", member.recipe.steps
        for prompts in PROMPTS:
            label = f"family-{member.arm}, seed {member.seed}"
            training = training_of(member.recipe, end)
            yield member, end, Wanted(f"{name}-{prompts}", member.folder, label, prompts, training=training)
        if member.arm == "looped" or member.arm not in ARMS or member.seed != SEEDS[0]:
            continue
        for step in member.sizes.along:
            path = member.work / "snapshots" / f"{step:06d}"
            label = f"family-{member.arm}, seed {member.seed}, step {step}"
            training = training_of(member.recipe, step)
            wanted = Wanted(f"{name}-step{step}-lookup", path, label, "lookup", ALONG_METRICS, training)
            yield member, step, wanted


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if unknown := [p for p in args.parts if p not in PARTS]:
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    torch.set_num_threads(args.jobs)
    seeds = args.seeds or (SEEDS[:1] if args.smoke else SEEDS)
    family = members(args.out, args.work or args.out / "work", seeds, args.smoke, args.arms)
    parts = args.parts or PARTS
    if "train" in parts:
        train_all(family, args.jobs, args.device)
    unfinished = [f"{m.arm}, seed {m.seed}" for m in family if not m.finished]
    if unfinished:
        print(f"not trained yet: {'; '.join(unfinished)}; the part `train` does it", file=sys.stderr)
        return 2
    makers = {"tables": make_tables, "similarity": make_similarity, "signatures": make_signatures}
    for part, make in makers.items():
        if part in parts:
            make(family, args.out, args.add)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.recipe.family", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} [all]")
    parser.add_argument("--out", type=Path, default=Path("family"), help="where everything goes [./family]")
    parser.add_argument("--work", type=Path, help="where unfinished work and snapshots live [OUT/work]")
    parser.add_argument("--seeds", type=int, nargs="+", help="the first one's weights are exported [2 1 3]")
    parser.add_argument(
        "--arms", nargs="+", default=ARMS, choices=(*ARMS, *BLOCKS), metavar="ARM",
        help=f"{', '.join((*ARMS, *BLOCKS))} [{' '.join(ARMS)}]",
    )  # fmt: skip
    parser.add_argument("--add", action="store_true", help="to the tables and signatures of OUT, which stay")
    parser.add_argument("--jobs", type=int, default=2, help="arms trained at the same time, one thread each [2]")
    parser.add_argument("--device", default="cpu", help="cuda: all of them side by side, in minutes [cpu]")
    parser.add_argument("--smoke", action="store_true", help="24 steps of narrow models, not compiled")
    return parser


if __name__ == "__main__":
    sys.exit(main())
