"""A whole study of repeats: tables, ranking, prediction, and the folder they are written to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.analysis.analyze import analyze
from depthsig.analysis.repeat_prediction import METRICS, prediction_table
from depthsig.analysis.repeat_task import Scores, load_task, parse_damping, parse_times, repeat_task
from depthsig.analysis.versions import versions
from depthsig.engine.model import Model
from depthsig.progress import Progress
from depthsig.prompts import Prompt
from depthsig.signature.storage import writing

SCHEMA = "depthsig-repeat/1"
SHOWN = 15
PREDICT_PROMPTS = 10
"""Prompts of each task that the signature is measured on."""


@dataclass(frozen=True)
class Study:
    """Tables by name (``repeat``, ``ranking``, ``prediction``) with their provenance."""

    info: dict[str, Any]
    frames: dict[str, pd.DataFrame]
    scores: Scores = field(repr=False)

    @property
    def scanned(self) -> bool:
        """Whether more than one span was run."""
        return len({(r.start, r.end) for r in self.scores.runs}) > 1

    def shown(self) -> list[tuple[str, pd.DataFrame]]:
        """What the command prints: a span's table, or the best spans and what predicts them."""
        if not self.scanned:
            return [("answers with the span repeated:", self.frames["repeat"])]
        found = [("the model as it is:", self.frames["repeat"].query("times == 1").drop(columns=["start", "end"]))]
        ranking = self.frames["ranking"]
        for (times, damping), rows in ranking.groupby(["times", "damping"], sort=False):
            found.append((f"best spans, run {times} times, damping {damping:g}:", rows.head(SHOWN)))
        if "prediction" in self.frames:
            found.append(
                ("does the signature tell? (rank correlation with the loss change)", self.frames["prediction"])
            )
        return found


def study(
    model: Model,
    tasks: Sequence[str | Path],
    *,
    span: str | None = None,
    times: str | Sequence[int] = (1, 2),
    damping: str | float | Sequence[float] = 1.0,
    n: int = 100,
    seed: int = 0,
    max_tokens: int = 256,
    memory: str | int = "1GiB",
    predict: bool = False,
    progress: Progress | None = None,
) -> Study:
    """Measure repeats on tasks, rank the spans, and with ``predict`` ask the signature.

    Args and raises: as :func:`depthsig.analysis.repeat_task.repeat_task`.
    """
    counts, alphas = parse_times(times), parse_damping(damping)
    options = {"n": n, "seed": seed, "max_tokens": max_tokens, "memory": memory}
    scores = repeat_task(
        model, tasks, span=span, times=counts, damping=alphas, progress=progress,
        n=n, seed=seed, max_tokens=max_tokens, memory=memory,
    )  # fmt: skip
    frames = {"repeat": scores.table()}
    if counts:
        frames["ranking"] = pd.concat([scores.ranking(t, d) for t in counts for d in alphas], ignore_index=True)
    if predict and counts:
        signature = _signature(model, tasks, n, seed, max_tokens, progress)
        tables = [prediction_table(scores, signature, model.plan, times=t, damping=d) for t in counts for d in alphas]
        frames["prediction"] = pd.concat(tables, ignore_index=True)
    info = {
        "schema": SCHEMA, "versions": versions(),
        "checkpoint": {"id": model.checkpoint.source, "content_hash": model.checkpoint.content_hash},
        "plan": str(model.plan), "declared": model.declared.record(), "random_state": model.random_state,
        "tasks": [str(t) for t in tasks], "span": span, "times": list(counts), "damping": list(alphas), **options,
    }  # fmt: skip
    return Study(info, frames, scores)


def _signature(
    model: Model, tasks: Sequence[str | Path], n: int, seed: int, max_tokens: int, progress: Progress | None
) -> Any:
    """A signature on the first prompts of the tasks themselves."""
    prompts: list[Any] = []
    for task in tasks:
        ready = load_task(task, model, min(n, PREDICT_PROMPTS), seed, max_tokens)
        prompts += [Prompt("", ids=p.ids) for p in ready]
    return analyze(
        model, prompts, metrics=METRICS, scopes=("current",), parts=("layer",), max_tokens=max_tokens,
        progress=progress or False,
    )  # fmt: skip


def write_study(found: Study, out: str | Path, draw: Callable[[Study, Path], Any] | None = None) -> Path:
    """Write tables, per-prompt values, figures and provenance; whole or not at all.

    Args:
        draw: puts figures into the folder that it is given.
    """
    with writing(out, "repeat.json") as folder:
        for name, frame in found.frames.items():
            frame.to_csv(folder / f"{name}.csv", index=False, na_rep="", lineterminator="\n")
        samples(found.scores).to_parquet(folder / "samples.parquet", index=False)
        if draw is not None:
            draw(found, folder / "figures")
        text = json.dumps(found.info, indent=1, ensure_ascii=False)
        (folder / "repeat.json").write_text(text + "\n", encoding="utf-8")
    return Path(out)


def samples(scores: Scores) -> pd.DataFrame:
    """Per-prompt loss and accuracy of every run, and of the model as it is (times = 1)."""
    frames = []
    for task, losses in scores.loss.items():
        base = pd.DataFrame({"loss": scores.base_loss[task], "accuracy": scores.base_accuracy[task]})
        pieces = [base.assign(prompt=range(len(base)), start=pd.NA, end=pd.NA, times=1, damping=1.0)]
        for i, run in enumerate(scores.runs):
            values = pd.DataFrame({"loss": losses[:, i], "accuracy": scores.accuracy[task][:, i]})
            pieces.append(values.assign(prompt=range(len(values)), **vars(run)))
        frames.append(pd.concat([p.astype({"start": "Int64", "end": "Int64"}) for p in pieces]).assign(task=task))
    return pd.concat(frames, ignore_index=True)
