"""Signature folders of the family's members, made small enough to ship.

What is left out of an ordinary results folder: figures and report (``depthsig report DIR`` makes them
again), matrices' samples of the worst case, the weights' cosines group by group (those of all matrices
together stay), and digits past the seventh.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import depthsig
from depthsig.commands.analysis.record import costs_record
from depthsig.signature.folders.kinds import SIGNATURE
from depthsig.signature.storage import write_record

from .compute import stored_layers, training_flops
from .model import hugging_face_config
from .recipe import Recipe, read_recipe

COLUMNS = ("name", "arm", "seed", "step", "tokens", "prompts", "n_prompts", "steps", "sha256")
PROMPTS = ("lookup", "gsm8k")
METRICS = ("lens", "residual", "skip", "weights")
ALONG_METRICS = (
    "lens", "contribution.norm", "contribution.relative", "contribution.cosine", "skip.output_l2", "late_share",
)  # fmt: skip
"""Along training: what is needed for trajectories and reliance on late layers, without matrices and tokens."""


@dataclass(frozen=True)
class Wanted:
    """One signature to make.

    Attributes:
        name: of its folder.
        checkpoint: the folder with the weights.
        label: how the checkpoint is called in the signature, instead of a path of this machine.
        prompts: the name of built-in prompts.
        metrics: what is measured.
        training: tokens and FLOPs that the checkpoint was trained with, as :func:`training_of` gives them.
    """

    name: str
    checkpoint: Path
    label: str
    prompts: str
    metrics: tuple[str, ...] = METRICS
    training: Mapping[str, int] = field(default_factory=dict)


def sign(wanted: Wanted, folder: Path, n: int = 20) -> depthsig.Signature:
    """Measure one checkpoint and write its signature to ``folder / wanted.name``."""
    scopes = ("current", "future")
    signature = depthsig.analyze(str(wanted.checkpoint), wanted.prompts, n=n, metrics=wanted.metrics, scopes=scopes)
    info = json.loads(json.dumps(signature.info))
    info["checkpoint"] |= {"id": wanted.label, "name": wanted.label}
    info["given"] |= {"source": None, "why": "it is named as in the family's tables, not by a folder"}
    info["costs"] |= wanted.training
    signature = replace(
        signature, info=info, matrices=_whole_weights(signature.matrices),
        samples_table=_whole_weights(without_worst_cells(signature.samples_table)),
        tokens_table=pd.DataFrame() if wanted.metrics == ALONG_METRICS else signature.tokens_table,
    )  # fmt: skip
    signature.save(folder / wanted.name, figures=False)
    shrink(folder / wanted.name)
    return signature


def training_of(recipe: Recipe, step: int) -> dict[str, int]:
    """Tokens and FLOPs of the first ``step`` steps of a recipe, as records name them."""
    tokens = step * recipe.tokens_per_step
    return {"training_tokens": tokens, "training_flops": training_flops(replace(recipe, steps=step))}


def costs_of(recipe: Recipe, step: int) -> dict[str, Any]:
    """What the model of a recipe costs after ``step`` steps: counted on fresh weights of its shape."""
    shape = replace(recipe.shape, layers=stored_layers(recipe, step - 1))
    with torch.random.fork_rng():
        module = LlamaForCausalLM(LlamaConfig(**hugging_face_config(shape, {}))).float().eval()
    model = depthsig.load(module, order=recipe.order, progress=False)
    return {**costs_record(model), **training_of(recipe, step)}


def add_costs(folder: Path, costs: Mapping[str, Any]) -> None:
    """Put ``costs`` into the record of a signature that was made without; nothing else changes."""
    info = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
    made: dict[str, Any] = {}
    for name, value in info.items():
        made |= {} if name == "costs" else {name: value}
        made |= {"costs": dict(costs)} if name == "checkpoint" else {}  # where a new record has it
    write_record(folder / SIGNATURE, made)


def without_worst_cells(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples without those of the worst case (``agg`` max) of matrices."""
    return samples[samples["row"].isna() | (samples["agg"] != "max")]


def _whole_weights(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["metric"] != "weights.cosine") | (frame["part"] == "all")]


def shrink(folder: Path) -> None:
    """Round the numbers of a results folder to seven digits, and compress its tables better."""
    for path in folder.glob("*.csv"):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        for column in frame.columns.intersection(["value", "ci_low", "ci_high", "p_value"]):
            frame[column] = [f"{float(v):.7g}" if v else "" for v in frame[column]]
        frame.to_csv(path, index=False, lineterminator="\n")
    for path in folder.glob("*.parquet"):
        frame = pd.read_parquet(path)
        columns: dict[str, Any] = {"value": "float32"} if len(frame) else {}
        frame.astype(columns).to_parquet(
            path, index=False, compression="zstd", compression_level=19, use_byte_stream_split=["value"],
            use_dictionary=[c for c in frame if c != "value"],
        )  # fmt: skip


def size(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str] | None = None) -> int:
    """Costs into every signature that ``index.csv`` lists; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data.recipe.signatures", description=main.__doc__)
    here = Path(__file__).resolve().parent
    parser.add_argument("--signatures", type=Path, default=here.parent / "signatures", help="the folder [signatures]")
    folder = parser.parse_args(arguments).signatures
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        recipe = replace(read_recipe(here / f"family-{row['arm']}.toml"), seed=int(row["seed"]))
        add_costs(folder / row["name"], costs_of(recipe, int(row["step"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
