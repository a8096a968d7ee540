"""Signature folders of the family's members, made small enough to ship.

What is left out of an ordinary results folder: figures and report (``depthsig report DIR`` makes them
again), matrices' samples of the worst case, the weights' cosines group by group (those of all matrices
together stay), and digits past the seventh.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import depthsig

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
    """

    name: str
    checkpoint: Path
    label: str
    prompts: str
    metrics: tuple[str, ...] = METRICS


def sign(wanted: Wanted, folder: Path, n: int = 20) -> depthsig.Signature:
    """Measure one checkpoint and write its signature to ``folder / wanted.name``."""
    scopes = ("current", "future")
    signature = depthsig.analyze(str(wanted.checkpoint), wanted.prompts, n=n, metrics=wanted.metrics, scopes=scopes)
    info = json.loads(json.dumps(signature.info))
    info["checkpoint"] |= {"id": wanted.label, "name": wanted.label}
    signature = replace(
        signature, info=info, matrices=_whole_weights(signature.matrices),
        samples_table=_whole_weights(without_worst_cells(signature.samples_table)),
        tokens_table=pd.DataFrame() if wanted.metrics == ALONG_METRICS else signature.tokens_table,
    )  # fmt: skip
    signature.save(folder / wanted.name, figures=False)
    shrink(folder / wanted.name)
    return signature


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
