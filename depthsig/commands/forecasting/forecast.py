"""What an analysis would do, and about how long it would take: nothing is measured but the model's own pace."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from depthsig.commands.analysis.certified import are_kept
from depthsig.commands.analysis.control import control_request
from depthsig.commands.analysis.prepared import Prepared
from depthsig.commands.calibration.calibrating import calibration_size
from depthsig.commands.forecasting import constants as known
from depthsig.commands.forecasting.counting import count
from depthsig.commands.forecasting.layer_reads import LayersRead, reading_of
from depthsig.commands.forecasting.pace import Pace
from depthsig.engine.certificates import Verdict, chosen_of
from depthsig.engine.memory import divide, row_bytes
from depthsig.errors import DepthsigWarning
from depthsig.measure.providers import CleanProvider, Cost, Work
from depthsig.measure.request import Request
from depthsig.measure.schedule import providers
from depthsig.metrics.entries.runs import RECALIBRATED
from depthsig.model import Model


@dataclass(frozen=True)
class Piece:
    """A job: its runs over all prompts, the tokens that go through steps and readouts, and its seconds."""

    name: str
    runs: int
    step_tokens: int
    readout_tokens: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What an analysis would take.

    Attributes:
        prompts, tokens: those that take part.
        pieces: of what is measured of the model itself.
        stages: seconds by stage, in the order in which they come; loading as it was just now.
        memory: bytes beside the model that it may take.
        reading: of layers that are read as they are needed; None where all are in memory.
    """

    plan: str
    prompts: int
    tokens: int
    pieces: tuple[Piece, ...]
    stages: dict[str, float]
    memory: int
    reading: LayersRead | None = None

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(self.stages.values())

    def record(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {**asdict(self), "seconds": self.seconds}

    def __str__(self) -> str:
        lines = [f"plan: {self.plan}", f"prompts: {self.prompts} of {self.tokens} tokens in all"]
        lines += [
            f"{p.name}: {p.runs:,} runs, {p.step_tokens:,} tokens through steps, {p.readout_tokens:,} read out, "
            f"{duration(p.seconds)}"
            for p in self.pieces
        ]
        lines += [f"{name}: {duration(seconds)}" for name, seconds in self.stages.items()]
        if self.reading is not None:
            lines.append(
                f"layers read from files: {self.reading.passes} times all of them, {self.reading.bytes / 1e9:.1f} GB, "
                f"{duration(self.reading.seconds)}, while others are computed with"
            )
        lines.append(f"estimated time: {duration(self.seconds)}")
        lines.append(f"estimated memory beside the model: up to {self.memory / 2**30:.2g} GiB")
        return "\n".join(lines)


def forecast(ready: Prepared) -> Forecast:
    """What an analysis would do.

    Raises:
        InputError: for the bad input that it would refuse, too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DepthsigWarning)  # they are for whoever reads results
        return estimate(ready, Pace.of(ready))


def estimate(ready: Prepared, pace: Pace) -> Forecast:
    """The same, at a known pace: of other prompts or another request, too."""
    work = _work(ready, ready.request)
    pieces = _pieces(work, pace)
    spans, slower = bool(ready.model.plan.spans), pace.machine
    counts = count(work, spans, drawn=True)
    stages = {
        "starting": known.START * slower,
        "loading": min(ready.watch.cpu["load"], ready.watch.wall["load"]),  # not what else the machine did meanwhile
        "certificates": 0.0 if _are_kept(ready) else _certificates(work, pace),
        **_calibration(ready, work, pace),
        "measuring": sum(p.seconds for p in pieces),
        "tables and tests": counts.table_seconds * slower,
    }
    reading = reading_of(work, certified=_are_kept(ready))
    if reading is not None:
        computing = stages["certificates"] + stages["measuring"]
        stages["waiting for layers"] = max(0.0, reading.seconds - computing)
    control = control_request(ready.request) if ready.wants_control and reading is None else None
    if control is not None:
        twin = _work(ready, control)
        stages["control"] = _control(ready.model, twin, pace, spans) + sum(_calibration(ready, twin, pace).values())
    stages["drawing"] = counts.drawing_seconds * slower
    return Forecast(
        str(ready.model.plan), len(work.counted), sum(p.n_tokens for p in work.counted), pieces, stages,
        _memory(work, any(p.name != "clean run" for p in pieces)), reading,
    )  # fmt: skip


def _work(ready: Prepared, request: Request) -> Work:
    return Work(ready.model, request, ready.prompts.tokens, Verdict(True, True, ()))


def _pieces(work: Work, pace: Pace) -> tuple[Piece, ...]:
    """The clean run with all that it feeds, and every kind of edited run."""
    clean, edited = providers(work)
    tokens = sum(p.n_tokens for p in work.counted)
    whole = [Cost(1, work.steps, 0) + sum((o.cost(p) for o in clean), Cost()) for p in work.counted]
    seconds = tokens * pace.clean + sum(_observing(o, work, pace) for o in clean)
    pieces = [_piece("clean run", whole, work, seconds)]
    for provider in edited:
        piece = _piece(provider.name, [provider.cost(p) for p in work.counted], work, 0.0)
        taken = piece.step_tokens * (pace.step + known.EFFECT * pace.effect * (provider.name in known.EFFECTIVE))
        taken += piece.readout_tokens * pace.read.get(provider.kinds[0], pace.read[""])
        again = tokens * pace.clean * (1 + provider.needs_means)
        pieces.append(replace(piece, seconds=again + taken * known.OVERHEAD.get(provider.name, 1.0)))
    return tuple(pieces)


def _observing(observer: CleanProvider, work: Work, pace: Pace) -> float:
    """What one that sees the clean run takes beside it."""
    kind = observer.kinds[0]
    if kind in pace.observed:
        asked, timed = work.request.on(*observer.kinds), pace.entries.get(kind, 1)
        return pace.observed[kind] * sum(p.n_tokens for p in work.counted) * len(asked) / max(1, timed)
    readouts = sum(observer.cost(p).readouts * p.n_tokens for p in work.counted)
    return readouts * pace.read.get(kind, pace.read[""])


def _piece(name: str, costs: Sequence[Cost], work: Work, seconds: float) -> Piece:
    lengths = [p.n_tokens for p in work.counted]
    return Piece(
        name,
        round(sum(cost.runs for cost in costs)),
        round(sum(cost.steps * n for cost, n in zip(costs, lengths, strict=True))),
        round(sum(cost.readouts * n for cost, n in zip(costs, lengths, strict=True))),
        seconds,
    )


def _certificates(work: Work, pace: Pace) -> float:
    """Forwards and readouts of the prompts that are chosen, as one padded batch, alone, and edited."""
    lengths = [len(ids) for ids in chosen_of([p.ids for p in work.prompts])] or [0]
    padded, alone, edited = len(lengths) * max(lengths), sum(lengths), 4 * min(lengths)
    run = (2 if work.network.is_native else 4) * padded + alone + edited
    read = 3 * padded + alone + edited
    seconds = run * pace.clean + read * pace.read[""]
    return seconds + (known.CERTIFICATE + known.CERTIFICATE_STEP * work.steps) * pace.machine


def _calibration(ready: Prepared, work: Work, pace: Pace) -> dict[str, float]:
    """Fitting the readouts of truncated runs, where that is to be done."""
    calibration = ready.prompts.calibration
    temperature, affine = (bool(work.request.on(kind)) for kind in RECALIBRATED)
    if calibration is None or not (temperature or affine):
        return {}
    readouts = known.TEMPERATURE_READOUTS * temperature + known.MAP_READOUTS * known.THERE_AND_BACK * affine
    each = readouts * calibration_size(calibration) * pace.read[""]
    each += known.EIGENVECTORS * work.network.trace.width**3 * pace.machine * affine
    run = sum(p.n_tokens for p in calibration.tokens) * pace.clean
    return {"calibration": (work.steps - 1) * each + run}


def _are_kept(ready: Prepared) -> bool:
    ids = [p.ids for p in ready.prompts.tokens]
    return ready.keep and not ready.recheck and are_kept(ready.model, ids)


def _control(model: Model, work: Work, pace: Pace, spans: bool) -> float:
    """Drawing the weights, certificates, measuring and tables; no figures are made of it."""
    weights = sum(p.numel() for p in model.module.parameters())
    built = weights * known.DRAW_WEIGHT + known.TRACE + known.TRACE_STEP * work.steps
    tables = count(work, spans, drawn=False).table_seconds
    return (built + tables) * pace.machine + _certificates(work, pace) + sum(p.seconds for p in _pieces(work, pace))


def _memory(work: Work, edited: bool) -> int:
    budget = divide(work.network, work.request.bytes)
    rows = row_bytes(work.network) * budget.rows
    width = work.network.trace.width * (3 * work.steps + 8) * work.network.dtype.itemsize
    return min(work.request.bytes, rows + width * budget.batch_tokens + (budget.states if edited else 0))


def duration(seconds: float) -> str:
    """In words."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
