"""How alike the weights of copied layers stay: cosines between a layer and its copy, along training.

A copy starts as alike as can be, at a cosine of 1. What is left of it is held against the baseline's
layers that lie equally far apart (the same lag) after as many tokens.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

COLUMNS = (
    "arm", "seed", "step", "tokens", "layers", "copied_at", "source", "copy", "lag", "cosine", "baseline",
)  # fmt: skip
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def copies(history: Sequence[dict[str, Any]], block: int) -> list[tuple[int, int, int]]:
    """(source, copy, tokens when it was copied) of every layer that was copied, as layers of now.

    >>> first = {"tokens": 10, "inserted_at": 4, "copied_from": [0, 1, 2, 3]}
    >>> second = {"tokens": 20, "inserted_at": 6, "copied_from": [2, 3, 4, 5]}
    >>> copies([first], 4)
    [(0, 4, 10), (1, 5, 10), (2, 6, 10), (3, 7, 10)]
    >>> copies([first, second], 4)[2:6]  # what was inserted second pushed the first copies back
    [(2, 10, 10), (3, 11, 10), (2, 6, 20), (3, 7, 20)]
    """
    layers = list(range(block))
    made: list[tuple[int, int, int]] = []
    for entry in history:
        new = list(range(len(layers), len(layers) + len(entry["copied_from"])))
        made += [(layers[s], n, entry["tokens"]) for s, n in zip(entry["copied_from"], new, strict=True)]
        layers[entry["inserted_at"] : entry["inserted_at"]] = new
    place = {identity: position for position, identity in enumerate(layers)}
    return [(place[source], place[copy], tokens) for source, copy, tokens in made]


def cosines(folder: Path) -> np.ndarray:
    """Cosines between the layers' weights [layer, layer] of a checkpoint folder, all matrices together."""
    state = load_file(folder / "model.safetensors")
    count = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    layers = [
        torch.cat([state[f"model.layers.{i}.{name}.weight"].flatten() for name in MATRICES]) for i in range(count)
    ]
    unit = F.normalize(torch.stack(layers).double(), dim=1)
    return (unit @ unit.T).numpy()


def at_lag(matrix: np.ndarray, lag: int) -> float:
    """Mean cosine of all pairs of layers that are ``lag`` apart.

    >>> at_lag(np.array([[1, 0.2, 0.6], [0.2, 1, 0.4], [0.6, 0.4, 1]]), 1)
    0.3
    """
    return round(float(np.diagonal(matrix, lag).mean()), 6)


def compare(grown: Path, baseline: np.ndarray, block: int, labels: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for every copied layer of a checkpoint, beside a baseline's cosines at the same lag."""
    matrix = cosines(grown)
    history = json.loads((grown / "config.json").read_text(encoding="utf-8"))["depthsig"]["history"]
    return [
        {
            **labels, "layers": len(matrix), "copied_at": tokens, "source": source, "copy": copy,
            "lag": abs(copy - source), "cosine": round(float(matrix[source, copy]), 6),
            "baseline": at_lag(baseline, abs(copy - source)),
        }
        for source, copy, tokens in copies(history, block)
    ]  # fmt: skip


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and greatest cosine of copied layers after each number of tokens, arm by arm."""
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["arm"], int(row["seed"]), int(row["tokens"])].append(row)
    found = []
    for (arm, seed, tokens), members in sorted(groups.items()):
        values = [float(m["cosine"]) for m in members]
        found.append({
            "arm": arm, "seed": seed, "tokens": tokens, "layers": int(members[0]["layers"]), "pairs": len(values),
            "cosine": float(np.mean(values)), "least": min(values), "greatest": max(values),
            "baseline": float(np.mean([float(m["baseline"]) for m in members])),
        })  # fmt: skip
    return found


def summary_table(rows: Iterable[dict[str, Any]]) -> str:
    """The summary as Markdown."""
    head = f"| arm | seed | tokens | layers | copied layers | cosine | range | baseline |\n|{'---|' * 8}"
    lines = [
        f"| {s['arm']} | {s['seed']} | {s['tokens'] / 1e6:.2f} M | {s['layers']} | {s['pairs']} | {s['cosine']:.3f} "
        f"| {s['least']:.3f} to {s['greatest']:.3f} | {s['baseline']:.3f} |"
        for s in summary(rows)
    ]
    return "\n".join([head, *lines])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was written as ``similarity.csv``."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Cosine against tokens, one line for each time that layers were copied, and the baseline's."""
    from matplotlib.figure import Figure

    arms = sorted({r["arm"] for r in rows})
    figure = Figure(figsize=(4.2 * len(arms), 3.4), layout="constrained")
    for i, arm in enumerate(arms):
        axes = figure.add_subplot(1, len(arms), i + 1)
        mine = [r for r in rows if r["arm"] == arm and r["seed"] == rows[0]["seed"]]
        for copied_at in sorted({int(r["copied_at"]) for r in mine}):
            tokens, values = _means([r for r in mine if int(r["copied_at"]) == copied_at], "cosine")
            axes.plot(
                [copied_at / 1e6, *tokens], [1.0, *values], marker=".", label=f"copied at {copied_at / 1e6:.1f} M"
            )
        axes.plot(*_means(mine, "baseline"), color="0.4", linestyle="--", label="baseline, same lag")
        axes.set(xlabel="training tokens (millions)", ylabel="cosine of weights", title=arm, ylim=(-0.05, 1.05))
        axes.legend(fontsize=7)
    figure.savefig(path)


def _means(rows: Sequence[dict[str, Any]], column: str) -> tuple[list[float], list[float]]:
    """Tokens in millions, and the column's mean at each."""
    groups: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        groups[int(row["tokens"])].append(float(row[column]))
    tokens = sorted(groups)
    return [t / 1e6 for t in tokens], [float(np.mean(groups[t])) for t in tokens]
