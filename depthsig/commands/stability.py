"""The stability card of a loop: does it settle, and how often may it run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.analyze import analyze
from depthsig.commands.early import Asked
from depthsig.commands.opening import Given, ReadyPrompts, ready_prompts
from depthsig.commands.stabilities.iteration_counts import counted_model, prompt_losses
from depthsig.commands.stabilities.options import check_options, parse_counts
from depthsig.engine.memory import parse_memory
from depthsig.errors import DepthsigError, DepthsigWarning
from depthsig.metrics import entry
from depthsig.metrics.rules import STABILITY
from depthsig.model import Model
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.plan.plan import SpanInfo
from depthsig.progress import Progress
from depthsig.signature import Signature
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.kinds import STABILITY_CARD
from depthsig.signature.folders.writing import ensure_writable, writing
from depthsig.signature.loops.stability_card import SCHEMA, StabilityCard
from depthsig.signature.provenance import versions
from depthsig.statistics.loop_stability import Interval, mean_of, regime_of, safe_counts
from depthsig.terms import NONE
from depthsig.untrusted import made_visible

if TYPE_CHECKING:
    import torch

OF_CARD = tuple(STABILITY[name] for name in (
    "radius", "residual", "radius_all", "residual_all", "lyapunov", "steps", "moves", "turns",
))  # fmt: skip
"""The metrics behind a card."""
SKETCHY = 0.003
"""A residual above this may go with an eigenvalue that is off by a hundredth: over all positions the map is far from
normal, and one of .01 was seen beside errors of 1 to 4 %."""


def stability(
    model: Any, prompts: Any = None, *, tokenizer: Any = None, counts: str | Sequence[int] | None = None,
    band: float = 0.05, probes: int = 4, n: int = 10, max_tokens: int = 64, control: bool = True,
    order: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    memory: str | int = "4GiB", seed: int = 0, out: str | Path | None = None, progress: bool | Progress | None = None,
) -> StabilityCard:  # fmt: skip
    """Does a loop settle, and how often may it run?

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes; it loops, or ``order``
            makes it.
        prompts: as for :func:`depthsig.analyze`.
        tokenizer: for a live model.
        counts: how often to run the loop for the loss: ``1:16``, ``1,2,4,8`` or a list. Default: 1 to twice as often
            as it runs.
        band: of loss above the best count's within which a count is safe, in nats.
        probes: of so many positions a prompt the derivative by their own state is taken.
        n: the first n prompts. Every other one chooses the range of safe counts, the rest checks it.
        max_tokens: cut prompts after this many tokens.
        control: measure the architecture with re-initialised weights, too.
        order, iterations: what runs, as for :func:`depthsig.analyze`.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)``.
        dtype, device, device_map: how and where it is loaded, as for :func:`depthsig.analyze`.
        revision, trust_remote_code, allow_pickle: as for :func:`depthsig.analyze`.
        memory: to use beside the model, in bytes or as ``4GiB``.
        seed: of generated prompts, of the bootstrap and of the control.
        out: folder for tables and record; checked before anything is computed.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: for a model without a loop, counts that are none, or a band below 0.
    """
    check_arguments(stability, locals())
    check_options(counts, band, probes, n, max_tokens, control)
    parse_memory(memory)
    if out is not None:
        ensure_writable(out, STABILITY_CARD)
    show = Progress.of(progress)
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    given = Given(model, tokenizer, loading, PlanOptions(order, None, None, iterations), forward)
    opened = given.open(seed, show, Asked(prompts, n, seed, looping=("loop",)))
    ready = ready_prompts(prompts, opened, n=n, n_named=n, max_tokens=max_tokens, seed=seed)
    card = _Measured(given, opened, ready, counts, band, probes, max_tokens, control, memory, seed, show).card()
    if out is not None:
        with writing(out, STABILITY_CARD) as folder:
            card.write(folder)
    return card


@dataclass(frozen=True)
class _Measured:
    """What a card is made of."""

    given: Given
    model: Model
    prompts: ReadyPrompts
    counts: str | Sequence[int] | None
    band: float
    probes: int
    max_tokens: int
    control: bool
    memory: str | int
    seed: int
    show: Progress

    def card(self) -> StabilityCard:
        """Measure, and put it together."""
        spans = self.model.plan.loops_that_run(["loop"])
        # First: what --counts cannot be is refused before the rest, which takes longer, is measured.
        losses, ran_by, why = self._losses(spans[0])
        signature = analyze(
            self.model, [list(p.ids) for p in self.prompts.tokens], metrics=OF_CARD, probes=self.probes, n=None,
            max_tokens=self.max_tokens, control=self.control, memory=self.memory, seed=self.seed, progress=self.show,
        )  # fmt: skip
        notes = list(dict.fromkeys(signature.info["warnings"]))
        loops, rows = [], []
        for span in spans:
            scope = f"{span.start}:{span.end}" if len(spans) > 1 else NONE
            regime, lines, told = _Loop(signature, scope, self.seed).judged()
            loops.append({
                "span": f"{span.start}:{span.end}", "regime": regime, "passes": span.count, "phases": span.size,
            })  # fmt: skip
            rows += [{"span": f"{span.start}:{span.end}", **line} for line in lines]
            notes += told
        if self.control and signature.control is None:
            notes.append("there is no re-initialised control, whose patterns may be the same (2606.12689)")
        notes += why
        table, found = self._counted(losses, spans[0].count)
        if losses and found is None:
            notes.append("there is no iteration count at which all prompts that choose have a loss: no range is safe")
        info = made_visible({
            "schema": SCHEMA, **self._identity(), "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "checkpoint": {"id": self.model.checkpoint.source, "content_hash": self.model.checkpoint.content_hash},
            "plan": str(self.model.plan), "prompts": self.prompts.name, "n": len(self.prompts.tokens),
            "seed": self.seed, "probes": self.probes, "loops": loops, "range": found, "ran_by": ran_by,
            "warnings": list(dict.fromkeys(notes)),
        })  # fmt: skip
        frames = pd.DataFrame(rows), _passes_table(signature, spans), table, _long(losses)
        return StabilityCard(info, *frames, self.model.checkpoint.name)

    def _identity(self) -> dict[str, str]:
        return {IDENTITY: identity_of({
            "checkpoint": self.model.checkpoint.content_hash or self.model.checkpoint.source,
            "dtype": str(self.model.dtype), "layers": list(self.model.plan.layers), "counts": self.counts,
            "declared": self.model.declared.record(), "prompts": [p.tokens_sha256 for p in self.prompts.tokens],
            "band": self.band, "probes": self.probes, "control": self.control, "seed": self.seed,
        })}  # fmt: skip

    def _losses(self, span: SpanInfo) -> tuple[dict[int, Float[ndarray, "prompt"]], str, list[str]]:
        """Losses by count, how counts were set, and why some or all are left out, which named ones never are."""
        found: dict[int, Float[ndarray, "prompt"]] = {}
        left: dict[str, list[int]] = {}
        try:
            at, ran_by = counted_model(self.given, self.model, span, self.seed)
            wanted = parse_counts(self.counts, span.count)
            with self.show.stage("iteration counts", len(wanted)) as tick, warnings.catch_warnings():
                warnings.simplefilter("ignore", DepthsigWarning)  # of labels that another count has no place for
                for count in wanted:
                    try:
                        model = self.model if count == span.count else at(count)
                    except DepthsigError as error:
                        if self.counts is not None:
                            raise
                        left.setdefault(" ".join(str(error).split()), []).append(count)
                        continue
                    found[count] = prompt_losses(model, self.prompts.tokens)
                    tick(1)
        except DepthsigError as error:
            if self.counts is not None:
                raise
            return {}, "", [f"the loss at other iteration counts is left out: {' '.join(str(error).split())}"]
        told = [f"the loss at {', '.join(map(str, some))} iterations is left out: {why}" for why, some in left.items()]
        return (found, ran_by, told) if len(found) > 1 else ({}, "", told)

    def _counted(
        self, losses: dict[int, Float[ndarray, "prompt"]], trained: int
    ) -> tuple[pd.DataFrame, dict[str, Any] | None]:
        """A row a count, and the range of safe ones."""
        if not losses:
            return pd.DataFrame(), None
        counts = list(losses)
        matrix = np.stack([losses[c] for c in counts], 1)
        # A prompt of one token has no loss at any count; one that diverges at some has none there.
        matrix = matrix[np.isfinite(matrix).any(1)]
        choose, check = matrix[::2], matrix[1::2]
        if not len(choose):
            return pd.DataFrame(), None
        found = safe_counts(choose, check, counts, self.band, self.seed)
        if found is None:
            return pd.DataFrame(), None
        rows = []
        for column, count in enumerate(counts):
            whole = mean_of(matrix[:, column], self.seed) if np.isfinite(matrix[:, column]).all() else _NONE
            held = mean_of(check[:, column], self.seed) if np.isfinite(check[:, column]).all() and len(check) else _NONE
            rows.append({
                "count": count, "loss": whole.value, "ci_low": whole.low, "ci_high": whole.high,
                "chosen_on": float(choose[:, column].mean()), "held_out": held.value, "held_low": held.low,
                "held_high": held.high, "safe": int(found.low <= count <= found.high),
            })  # fmt: skip
        excess = [float(v) if np.isfinite(v) else None for v in found.excess]
        told = {
            "band": float(self.band), "best": found.best, "low": found.low, "high": found.high,
            "low_ends": None if found.low_ends is None else list(found.low_ends),
            "high_ends": None if found.high_ends is None else list(found.high_ends), "excess": excess[0],
            "excess_low": excess[1], "excess_high": excess[2], "holds": found.holds, "held_low": found.held_low,
            "held_high": found.held_high, "trained": trained, "tried": counts,
        }  # fmt: skip
        return pd.DataFrame(rows), told


_NONE = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class _Loop:
    """One loop's numbers in a signature."""

    signature: Signature
    scope: str
    seed: int

    def judged(self) -> tuple[str, list[dict[str, Any]], list[str]]:
        """The regime, a row a quantity, and warnings."""
        last = {
            name: self._last(self.signature, STABILITY[name]) for name in ("radius", "radius_all", "moves", "turns")
        }
        steps = _per_prompt(self.signature, STABILITY["steps"], self.scope)
        with np.errstate(invalid="ignore", divide="ignore"):
            shrinks = mean_of(np.nanmean(steps[:, -1], 1) / np.nanmean(steps[:, 0], 1), self.seed)
        regime = regime_of(
            last["radius_all"], shrinks, last["turns"], stable=STABILITY["stable"], smaller=STABILITY["smaller"],
            straight=STABILITY["straight"],
        )  # fmt: skip
        lyapunov = self._score(self.signature)
        control = self.signature.control
        beside = {name: self._last(control, STABILITY[name]).value for name in last if control is not None}
        rows = [
            _row("spectral radius, a token's own state, last pass", last["radius"], beside.get("radius"), "",
                 "below 1, what differs in one token's state shrinks"),
            _row("spectral radius, all positions, last pass", last["radius_all"], beside.get("radius_all"), "",
                 "the largest of all tokens' own: earlier tokens do not depend on later ones"),
            _row("largest Lyapunov exponent", lyapunov, None if control is None else self._score(control).value,
                 "nats a pass", "below 0, differences shrink along the run; transient growth counts"),
            _row("last step over first", shrinks, None, "", "below 1, updates get smaller"),
            _row("last step, relative to the state", last["moves"], beside.get("moves"), "", "0 at a fixed point"),
            _row("cosine of the last two updates", last["turns"], beside.get("turns"), "",
                 "1 where they keep a direction"),
        ]  # fmt: skip
        return regime, rows, self._warnings(last["moves"], shrinks)

    def _warnings(self, moves: Interval, shrinks: Interval) -> list[str]:
        told = []
        where = "" if self.scope == NONE else f"loop {self.scope}: "
        if moves.value < STABILITY["resting"]:
            told.append(
                f"{where}the last pass moves states by {moves.value:.1e} of their size: they are at a fixed point, "
                "where instruments saturate (2607.20594) and cosines of updates are of rounding"
            )
        for name in ("residual", "residual_all"):
            worst = float(np.nanmax(_per_prompt(self.signature, STABILITY[name], self.scope), initial=0.0))
            if worst > SKETCHY:
                told.append(
                    f"{where}{STABILITY[name]} is up to {worst:.2g}: some eigenvalues may be off by more than 1 %"
                )
        return told

    def _last(self, signature: Signature, metric: str) -> Interval:
        """At the last pass, mean over phases."""
        values = _per_prompt(signature, metric, self.scope)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of prompts without any value
            return mean_of(np.nanmean(values[:, -1], 1), self.seed)

    def _score(self, signature: Signature) -> Interval:
        rows = signature.scores
        rows = rows[(rows["score"] == STABILITY["lyapunov"]) & (rows["scope"] == self.scope)]
        return Interval(*rows[["value", "ci_low", "ci_high"]].iloc[0].astype(float)) if len(rows) else _NONE


def _row(quantity: str, of: Interval, control: float | None, unit: str, says: str) -> dict[str, Any]:
    return {
        "quantity": quantity, "value": of.value, "ci_low": of.low, "ci_high": of.high,
        "control": np.nan if control is None else control, "unit": unit or NONE, "says": says,
    }  # fmt: skip


def _per_prompt(signature: Signature, metric: str, scope: str) -> Float[ndarray, "prompt iteration phase"]:
    rows = signature.samples(metric, scope=scope, agg="mean")
    prompts, number = np.unique(rows["prompt"].to_numpy(int), return_inverse=True)
    row, col = rows["row"].to_numpy(int), rows["col"].to_numpy(int)
    values = np.full((len(prompts), row.max() + 1, col.max() + 1), np.nan)
    values[number, row, col] = rows["value"].to_numpy(float)
    return values


def _passes_table(signature: Signature, spans: Sequence[SpanInfo]) -> pd.DataFrame:
    """Every matrix behind the card, with the control's values beside."""
    kept = ["metric", "scope", "row", "col", "value", "ci_low", "ci_high", "n_prompts"]
    matrices = [name for name in OF_CARD if entry(name).kind == "matrix"]

    def chosen(of: Signature) -> pd.DataFrame:
        return of.matrices[of.matrices["metric"].isin(matrices) & (of.matrices["agg"] == "mean")][kept]

    table = chosen(signature)
    if signature.control is not None:
        beside = chosen(signature.control)[["metric", "scope", "row", "col", "value"]]
        table = table.merge(
            beside.rename(columns={"value": "control"}), how="left", on=["metric", "scope", "row", "col"]
        )
    else:
        table = table.assign(control=np.nan)
    only = f"{spans[0].start}:{spans[0].end}"
    table = table.assign(scope=table["scope"].where(table["scope"] != NONE, only))
    return table.rename(columns={"scope": "span", "row": "iteration", "col": "phase"})


def _long(losses: dict[int, Float[ndarray, "prompt"]]) -> pd.DataFrame:
    """A row a prompt and count, of the prompts that have a loss."""
    if not losses:
        return pd.DataFrame()
    matrix = np.stack(list(losses.values()), 1)
    known = np.flatnonzero(np.isfinite(matrix).any(1))
    return pd.DataFrame([
        {"prompt": int(prompt), "held_out": place % 2, "count": count, "loss": float(matrix[prompt, column])}
        for place, prompt in enumerate(known) for column, count in enumerate(losses)
    ])  # fmt: skip
