"""A whole study of repeats: tables, ranking, prediction, and the folder they are written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.analyze import analyze
from depthsig.commands.early import Asked
from depthsig.commands.opening import Given
from depthsig.commands.repeats.grammar import check_options, parse_damping, parse_times
from depthsig.commands.repeats.prediction import METRICS, prediction_table
from depthsig.commands.repeats.tasks import TaskScores, load_task, repeat_task
from depthsig.measure.request import Names
from depthsig.model import Model
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.progress import Progress
from depthsig.prompts import Prompt
from depthsig.signature import Signature, tabular
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.kinds import REPEAT
from depthsig.signature.folders.writing import ensure_writable, writing
from depthsig.signature.provenance import versions
from depthsig.signature.repeated import SCHEMA
from depthsig.signature.storage import write_record
from depthsig.untrusted import made_visible

if TYPE_CHECKING:
    import torch

SHOWN = 15
PREDICT_PROMPTS = 10
"""Prompts of each task that the signature is measured on."""


@dataclass(frozen=True)
class Study:
    """Tables by name (``repeat``, ``ranking``, ``prediction``) with their provenance.

    Attributes:
        name: of the checkpoint.
    """

    info: dict[str, Any]
    frames: dict[str, pd.DataFrame]
    scores: TaskScores = field(repr=False)
    name: str = "model"

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

    def save(self, out: str | Path, draw: Callable[[Study, Path], Any] | None = None) -> Path:
        """Write tables, per-prompt values, figures and provenance; whole or not at all.

        Args:
            draw: puts figures and a page into the folder that it is given.

        Raises:
            InputError: if the folder is no result of this kind, or cannot be written.
        """
        with writing(out, REPEAT) as folder:
            for name, frame in self.frames.items():
                tabular.write(frame, folder / f"{name}.csv")
            tabular.write(samples(self.scores), folder / "samples.parquet")
            if draw is not None:
                draw(self, folder)
            write_record(folder / REPEAT, self.info)
        return Path(out)


def repeat(
    model: Any, task: Names | Path | Sequence[str | Path] | None = None, *, tokenizer: Any = None,
    span: str | tuple[int, int] | None = None,
    times: str | Sequence[int] = (1, 2), damping: str | float | Sequence[float] = 1.0, n: int = 100,
    shots: int = 0, predict: bool = False, order: str | None = None, grown: str | None = None,
    iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    max_tokens: int = 256, memory: str | int = "1GiB", seed: int = 0, out: str | Path | None = None,
    progress: bool | Progress | None = None,
) -> Study:  # fmt: skip
    """Run a span of layers several times, and see what that does to loss and accuracy.

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes.
        task: prompts with answers: names or files, as a list or comma-separated. Default: all
            primitives.
        tokenizer: for a live model.
        span: layers ``A:B`` to repeat; None for every span that can be.
        times: how often the span runs in all, as ``1,2,3`` or numbers.
        damping: each more pass goes this far, above 0 and at most 1; 1 is naive.
        n: prompts of each task.
        shots: so many solved examples, 0 to 8, before each prompt; none is ever asked itself.
        predict: does the signature tell which span is worth it? (all spans)
        order, grown, iterations: what runs, and its labels, as for :func:`depthsig.analyze`.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)``.
        dtype, device, device_map: how and where it is loaded, as for :func:`depthsig.analyze`.
        revision, trust_remote_code, allow_pickle: as for :func:`depthsig.analyze`.
        max_tokens: prompts that are longer are left out.
        memory: for states on their way, in bytes or as ``1GiB``.
        seed: of generated prompts and of the bootstrap.
        out: folder for the tables; checked before anything is computed.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: for a span that straddles a loop's border, a task without answers, bad counts.
    """
    check_arguments(repeat, locals())
    if span is not None and not isinstance(span, str):
        span = f"{span[0]}:{span[1]}"  # a pair, which reads as one and is recorded as text
    tasks = check_options(
        task, n=n, span=span, times=times, damping=damping, predict=predict, memory=memory, shots=shots
    )
    if out is not None:
        ensure_writable(out, REPEAT)
    show = Progress.of(progress)
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    given = Given(model, tokenizer, loading, PlanOptions(order, None, grown, iterations), forward)
    opened = given.open(seed, show, Asked(tasks=tasks, n=n, span=span, seed=seed, shots=shots))
    found = study(
        opened, tasks, span=span, times=times, damping=damping, n=n, shots=shots, seed=seed, max_tokens=max_tokens,
        memory=memory, predict=predict, progress=show,
    )  # fmt: skip
    if out is not None:
        found.save(out)
    return found


def study(
    model: Model, tasks: Sequence[str | Path], *, span: str | None = None, times: str | Sequence[int] = (1, 2),
    damping: str | float | Sequence[float] = 1.0, n: int = 100, shots: int = 0, seed: int = 0,
    max_tokens: int = 256, memory: str | int = "1GiB", predict: bool = False, progress: Progress | None = None,
) -> Study:  # fmt: skip
    """As :func:`repeat`, of a loaded model: repeats on tasks, the spans ranked, and the signature asked."""
    counts, alphas = parse_times(times), parse_damping(damping)
    options = {"n": n, "shots": shots, "seed": seed, "max_tokens": max_tokens, "memory": memory}
    scores = repeat_task(
        model, tasks, span=span, times=counts, damping=alphas, progress=progress,
        n=n, shots=shots, seed=seed, max_tokens=max_tokens, memory=memory,
    )  # fmt: skip
    frames = {"repeat": scores.table()}
    if counts:
        frames["ranking"] = pd.concat([scores.ranking(t, d) for t in counts for d in alphas], ignore_index=True)
    if predict and counts:
        signature = _signature(model, tasks, n, shots, seed, max_tokens, progress)
        tables = [prediction_table(scores, signature, model.plan, times=t, damping=d) for t in counts for d in alphas]
        frames["prediction"] = pd.concat(tables, ignore_index=True)
    asked = {"tasks": [str(t) for t in tasks], "span": span, "times": list(counts), "damping": list(alphas), **options}
    made_of = {
        "checkpoint": model.checkpoint.content_hash or model.checkpoint.source, "dtype": str(model.dtype),
        "layers": list(model.plan.layers), "declared": model.declared.record(), "predict": predict, **asked,
    }  # fmt: skip
    info = {
        "schema": SCHEMA, IDENTITY: identity_of(made_of), "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "checkpoint": {"id": model.checkpoint.source, "content_hash": model.checkpoint.content_hash},
        "plan": str(model.plan), "declared": model.declared.record(), "random_state": model.random_state,
        **asked,
    }  # fmt: skip
    return Study(made_visible(info), frames, scores, model.checkpoint.name)


def _signature(
    model: Model, tasks: Sequence[str | Path], n: int, shots: int, seed: int, max_tokens: int, progress: Progress | None
) -> Signature:
    """A signature on the first prompts of the tasks themselves."""
    prompts: list[Any] = []
    for task in tasks:
        # Examples are of the prompts that no task asks, so that with them all are read that are asked.
        ready = load_task(task, model, n if shots else min(n, PREDICT_PROMPTS), seed, max_tokens, shots)
        prompts += [Prompt("", ids=p.ids) for p in ready[:PREDICT_PROMPTS]]
    return analyze(
        model, prompts, metrics=METRICS, scopes=("current",), parts=("layer",), max_tokens=max_tokens,
        progress=progress or False,
    )  # fmt: skip


def samples(scores: TaskScores) -> pd.DataFrame:
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
