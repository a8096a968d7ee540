"""What is said about the family's members: results.json, cards, and the tables over all of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .compute import optimizer_flops, training_flops
from .evaluate import evaluate, mixture_loss
from .run import Run

ARM_COLUMNS = (
    "arm", "seed", "layers", "steps", "parameters", "tokens", "training_flops", "optimizer_flops", "loss",
    "answer_loss", "sha256",
)  # fmt: skip
SCORE_COLUMNS = (
    "arm", "seed", "task", "items", "accuracy", "low", "high", "guess", "nats", "guess_nats", "unigram_nats", "learned",
)  # fmt: skip
HOW = {
    "baseline": "distinct layers from the start",
    "looped": "one block of layers run several times, in training as in use",
    "midas": "grown by copying the middle block right after itself",
    "lidas": "grown by copying the layers around the middle right after themselves",
}


def results(run: Run, digest: str, scored: int) -> dict[str, Any]:
    """Everything measured of a finished run whose weights have the SHA-256 ``digest``."""
    recipe, shape = run.recipe, run.model.shape
    loss, answer_loss = mixture_loss(run.model, recipe)
    return {
        "arm": recipe.label, "seed": recipe.seed, "layers": shape.layers,
        "steps": len(shape.order) if shape.order else shape.layers,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "tokens": run.step * recipe.tokens_per_step, "training_flops": training_flops(recipe),
        "optimizer_flops": optimizer_flops(recipe), "loss": round(loss, 5), "answer_loss": round(answer_loss, 5),
        "sha256": digest,
        "scores": [{**_rounded(asdict(s)), "learned": s.learned} for s in evaluate(run.model, scored)],
    }  # fmt: skip


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json`` of an exported checkpoint."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def write_tables(folder: Path, found: Sequence[dict[str, Any]]) -> None:
    """``arms.csv``, ``accuracy.csv`` and the same for people, ``tables.md``."""
    write_csv(folder / "arms.csv", ARM_COLUMNS, found)
    rows = [{"arm": r["arm"], "seed": r["seed"], **s} for r in found for s in r["scores"]]
    write_csv(folder / "accuracy.csv", SCORE_COLUMNS, rows)
    (folder / "tables.md").write_text(f"{arms_table(found)}\n\n{tasks_table(found)}\n", encoding="utf-8")


def read_tables(folder: Path) -> list[dict[str, Any]]:
    """What :func:`write_tables` wrote, as it was given; nothing where there are no tables."""
    if not (folder / "arms.csv").exists():
        return []
    scores = read_csv(folder / "accuracy.csv")
    return [
        {**row, "scores": [_without_member(s) for s in scores if (s["arm"], s["seed"]) == (row["arm"], row["seed"])]}
        for row in read_csv(folder / "arms.csv")
    ]


def _without_member(score: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in score.items() if k not in ("arm", "seed")}


def beside(old: Iterable[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Old rows of other members, then the new ones."""
    members = {(r["arm"], int(r["seed"])) for r in new}
    return [*(r for r in old if (r["arm"], int(r["seed"])) not in members), *new]


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows as :func:`write_csv` was given them: numbers, truth values, None for an empty cell, else text."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: _value(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _value(cell: str) -> Any:
    if cell in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Rows as CSV, None as an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def arms_table(found: Sequence[dict[str, Any]]) -> str:
    """Size, cost and loss of every member, as Markdown."""
    head = (
        "| arm | seed | layers | steps | parameters | tokens | training FLOPs | optimizer FLOPs | loss | answers |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [
        f"| {r['arm']} | {r['seed']} | {r['layers']} | {r['steps']} | {r['parameters'] / 1e6:.2f} M "
        f"| {r['tokens'] / 1e6:.2f} M | {r['training_flops']:.3g} | {r['optimizer_flops']:.3g} "
        f"| {r['loss']:.3f} | {r['answer_loss']:.3f} |"
        for r in found
    ]
    return "\n".join([head, *lines])


def tasks_table(found: Sequence[dict[str, Any]]) -> str:
    """Held-out accuracy, member by task, as Markdown; first that of guessing."""
    scores = found[0]["scores"]
    head = f"| member | {' | '.join(s['task'] for s in scores)} |\n|{'---|' * (1 + len(scores))}"
    guesses = [f"{s['guess']:.2f}" for s in scores]
    lines = [f"| guessing | {' | '.join(guesses)} |"]
    lines += [f"| {_member(r)} | {' | '.join(map(_accuracy, r['scores']))} |" for r in found]
    return "\n".join([head, *lines])


def _member(row: dict[str, Any]) -> str:
    return f"{row['arm']}, seed {row['seed']}"


def _accuracy(score: dict[str, Any]) -> str:
    return f"{score['accuracy']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def scores_table(scores: Sequence[dict[str, Any]]) -> str:
    """All scores of one member, as Markdown."""
    head = "| task | accuracy | guessing | nats | guessing | unigram |\n|---|---|---|---|---|---|"
    lines = [
        f"| {s['task']} | {_accuracy(s)} | {s['guess']:.2f} | {s['nats']:.2f} | {_or_dash(s['guess_nats'])} "
        f"| {s['unigram_nats']:.2f} |"
        for s in scores
    ]
    return "\n".join([head, *lines])


def card(run: Run, found: dict[str, Any]) -> str:
    """The model card: how it was made, what it can do, what it cannot."""
    recipe, shape = run.recipe, run.model.shape
    learned = [s["task"] for s in found["scores"] if s["learned"]]
    weak = [s["task"] for s in found["scores"] if s["accuracy"] < 0.9]
    return f"""---
license: mit
---
# {recipe.name}

One of four small models that reach {found["steps"]} steps of depth in different ways and otherwise
saw the same data in the same order. This one is **{recipe.arm}**:
{HOW[recipe.arm]}.
Made by `data/recipe/train.py` from `data/recipe/{recipe.name}.toml`, seed {recipe.seed}. How it was
grown or looped is under `depthsig` in `config.json`.

- {shape.layers} layers, {found["steps"]} steps, width {shape.width}, {found["parameters"]:,} parameters, \
context {shape.context}, one token a byte.
- {found["tokens"]:,} tokens of generated reasoning primitives and a little of GSM8K's training split
  (MIT, Cobbe et al. 2021).
- Training: {found["training_flops"]:.3e} FLOPs forward and backward, every executed step counted, and
  {found["optimizer_flops"]:.3e} in the optimizer (formulas: `data/recipe/compute.py`).
- Loss on fresh items of the last stage's mixture: {found["loss"]:.3f} nats a token as weighted in training,
  {found["answer_loss"]:.3f} on answers.
- SHA-256 of `model.safetensors`: `{found["sha256"]}`.
- Loss curve: `loss.csv`. What this card says, for machines: `results.json`.

Held-out exact match ({found["scores"][0]["items"]} items a task, 95 % Wilson intervals) beside the accuracy of
guessing among the plausible answers; then the loss of answers beside that of spreading belief evenly
over the plausible ones, and of knowing only how often each byte is in an answer. Plausible are the values
of a table that were not asked for yet; for `phop` the symbol that most often follows the one before the
last hop; and of long answers all is granted to the guesser but one character (`evaluate.py`):

{scores_table(found["scores"])}

Surely above guessing at no more than half the unigram loss: {", ".join(learned) or "none"}.
{_limits(weak)}"""


def _limits(weak: Sequence[str]) -> str:
    missing = f"Not mastered (accuracy below 0.9): {', '.join(weak)}." if weak else "No task is below 0.9."
    return f"""
## Limits

{missing}
It knows these tasks in the very forms that it was trained on and is no general language model: of English
it saw only short pieces of maths problems, and GSM8K it cannot solve. It is small, was trained briefly and
comes from one seed of three: what sets it apart from the other arms may be chance (`data/README.md`).
"""
