"""How fast this model runs here: its own layers, readouts and metrics, timed on pieces of its own prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.streaming.stream import stream_of
from depthsig.commands.analysis.prepared import Prepared
from depthsig.commands.forecasting.constants import machine
from depthsig.engine.batch import Batch, make_batch
from depthsig.engine.certificates import Verdict
from depthsig.engine.device import Pending
from depthsig.engine.memory import divide, readout_rows, sizes
from depthsig.engine.network import Network
from depthsig.engine.program import Change, Program
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.measure.calling import values_of, wide
from depthsig.measure.comparing import Desk
from depthsig.measure.providers import CleanBatch, CleanProvider, Work
from depthsig.measure.schedule import CLEAN, EDITED
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.where import measured
from depthsig.metrics import Metric
from depthsig.metrics.entries.runs import OUTPUT, READ_TRUNCATED
from depthsig.tables.samples import Samples

NOT_OBSERVED = ("readout", "weights", "transport")
"""What is forecast by its readouts, as prefixes are, and what sees no prompt."""

PIECE_FLOPS = 1.2e10
"""Of a piece that is timed: a quarter of a second of a slow core, and enough for the full speed of what is timed."""

LONG_ENOUGH = 0.1
"""Seconds of a piece that is timed once."""


@dataclass(frozen=True)
class Pace:
    """Seconds of the pieces that runs are made of; on a CPU with one thread, of processor time.

    Attributes:
        clean: a token of the clean run, all its steps.
        step: a token in one step of an edited run. effect: what metrics of later updates add to that.
        read: a token read out, by the kind of run that reads it, with that run's metrics; "" is the readout alone.
        observed: a token of the clean run, by the kind of run that its states feed. entries: metrics in that.
        machine: how much slower than the machine of reference this one is at what is not arithmetic.
    """

    clean: float
    step: float
    effect: float
    read: Mapping[str, float]
    observed: Mapping[str, float]
    entries: Mapping[str, int]
    machine: float

    @classmethod
    def of(cls, ready: Prepared) -> Pace:
        """Time every piece that an analysis needs, in a second or two."""
        work = Work(ready.model, ready.request, ready.prompts.tokens, Verdict(True, True, ()))
        with torch.no_grad():
            return _Timed(work).pace()


def flops(network: Network) -> tuple[float, float]:
    """Of one token through one step and through the head: two a parameter."""
    sizes = [sum(p.numel() for p in layer.module.parameters()) for layer in network.anatomy.layers]
    executed = [sizes[step.layer] for step in network.plan]
    return 2 * sum(executed) / max(1, len(executed)), 2.0 * network.readout.vocab * network.trace.width


class _Timed:
    """Times pieces of a request's work."""

    def __init__(self, work: Work) -> None:
        self.work, self.network, self.request = work, work.network, work.request
        self.layer, self.head = flops(self.network)
        waits = self.network.device.type == "cuda"
        self.wait: Callable[[], None] = torch.cuda.synchronize if waits else lambda: None
        alone = self.network.device.type == "cpu" and torch.get_num_threads() == 1
        # Of this thread alone, where another one reads layers meanwhile.
        own = time.thread_time if self.network.is_streamed else time.process_time
        self.clock = own if alone else time.perf_counter
        self.stream = None if alone else stream_of(self.network.module)

    def pace(self) -> Pace:
        """Every piece once."""
        batch, part = self._sample(self.layer * self.work.steps, divide(self.network, self.request.bytes).batch_tokens)
        parts = any(p(part, found).needs_parts for p in CLEAN if (found := self.request.on(*p.kinds)))
        tokens = batch.ids.numel()
        clean = self._seconds(lambda: self.network.clean(batch.ids, parts=parts)) / tokens
        ground = Clean.of(self.network, batch, parts=parts)
        edited = any(self.request.on(*p.kinds) for p in EDITED)
        return Pace(
            clean=clean,
            step=self._step(ground) if edited else clean / max(1, self.work.steps),
            effect=self._effect(ground),
            read=self._read(ground),
            observed=self._observed(),
            entries={p.kinds[0]: len(self.request.on(*p.kinds)) for p in CLEAN},
            machine=machine(),
        )

    def _seconds(self, run: Callable[[], object]) -> float:
        """Once; what is short, again, for the first time is the slower one."""
        best = self._once(run)
        return best if best > LONG_ENOUGH else min(best, self._once(run))

    def _once(self, run: Callable[[], object]) -> float:
        self.wait()
        started, waited = self.clock(), self._waited()
        run()
        self.wait()
        return self.clock() - started - (self._waited() - waited)

    def _waited(self) -> float:
        """Seconds of the clock for which layers that are read were waited for: reading is forecast by itself."""
        return 0.0 if self.stream is None else self.stream.waited

    def _sample(self, cost: float, most: int) -> tuple[Batch, Work]:
        """Prompts of the usual length, cut so that a piece of ``cost`` operations a token stays small."""
        counted = sorted(self.work.counted, key=lambda p: p.n_tokens)
        usual = counted[len(counted) // 2]
        tokens = max(8, min(most, int(PIECE_FLOPS / max(1.0, cost))))
        length = min(usual.n_tokens, tokens)
        rows = max(1, min(len(counted), tokens // length))
        kept = tuple(p for p in usual.positions if p < length) or (length - 1,)
        cut = [replace(usual, index=i, ids=usual.ids[:length], answer_span=None, positions=kept) for i in range(rows)]
        work = replace(self.work, prompts=cut)
        return make_batch([p.ids for p in cut], range(rows), self.network.device), work

    def _step(self, ground: Clean) -> float:
        """A token through one step, in a block as full as edited runs fill it."""
        steps, (prompts, tokens, _) = self.work.steps, ground.shape
        first = max(0, steps - 2) if self.network.is_chain else steps // 2
        many = max(1, sizes(self.network.device).step_tokens // (prompts * tokens))
        mask = torch.ones(prompts, tokens, dtype=torch.bool, device=self.network.device)
        programs = [Program.clean(steps).with_change(first, Change("layer", mask=mask), "")] * many
        computed = max(1, steps - 1 - first)
        return self._seconds(lambda: list(run_programs(ground, programs))) / (many * prompts * tokens * computed)

    def _effect(self, ground: Clean) -> float:
        """What metrics of later updates take for a token and step."""
        entries = [one for one in self.request.needed.values() if "delta_edited" in one.asks()]
        delta = wide(ground.run.outputs[0]).flatten(0, 1)
        offered = {"delta": delta, "delta_edited": delta.flip(0)}
        return sum(self._seconds(lambda one=one: values_of(one, offered, len(delta))) for one in entries) / len(delta)  # type: ignore[misc]

    def _read(self, ground: Clean) -> dict[str, float]:
        """A row read out, by kind of run: as many rows together as there are."""
        # Of another depth than the end: beside itself a distribution is compared at another speed.
        last, other = (h.flatten(0, 1) for h in (ground.run.outputs[-1], ground.run.inputs[self.work.steps // 2]))
        measured_tokens = sum(len(p.positions) for p in self.work.counted)
        allowed = max(8, int(PIECE_FLOPS / max(1.0, self.head)))
        rows = max(1, min(readout_rows(self.network, self.request.bytes), measured_tokens, allowed))
        end, h = (states.repeat(-(-rows // len(last)), 1)[:rows] for states in (last, other))
        found = {"": self._reading(end, h, [])}
        for provider in (*CLEAN, *EDITED):
            # One lens's metrics at a time: each has readouts of its own.
            by_kind = [self._read_by(kind) for kind in provider.kinds if self._read_by(kind)]
            if by_kind:
                found[provider.kinds[0]] = sum(self._reading(end, h, entries) for entries in by_kind) / len(by_kind)
        return found

    def _read_by(self, kind: str) -> list[Metric]:
        """The metrics of one kind of run that need no more than its readouts."""
        asks = {one: set(one.asks()) for one in self.request.on(kind) if one.kind != "token"}
        return [one for one, names in asks.items() if set(OUTPUT) & names and names <= {*OUTPUT, "h"}]

    def _reading(self, end: Float[Tensor, "row d"], h: Float[Tensor, "row d"], entries: Sequence[Metric]) -> float:
        """A readout of some rows, and the metrics that compare it with the model's own."""
        readout, rows = self.network.readout, len(h)
        desk = Desk(self.network, rows)
        targets = torch.zeros(rows, dtype=torch.long, device=h.device)
        with undisturbed(self.network.module):
            against = desk.against(desk.read("final", readout, end), targets, entries) if entries else None

            def read() -> None:
                logits = desk.read("lens", readout, h)
                if against is not None:
                    against.values(entries, logits, h=wide(h))

            return self._seconds(read) / rows

    def _observed(self) -> dict[str, float]:
        """A token of the clean run, seen by what measures its states, and by what runs passes of a loop."""
        found = {}
        for provider in CLEAN:
            entries = self.request.on(*provider.kinds)
            if not entries or provider.kinds[0] in (*NOT_OBSERVED, *READ_TRUNCATED):
                continue
            usual = max(self.work.counted, key=lambda p: p.n_tokens)
            cost = provider(self.work, entries).cost(usual)
            most = divide(self.network, self.request.bytes).batch_tokens
            batch, part = self._sample((cost.steps + self.work.steps) * self.layer + cost.readouts * self.head, most)
            found[provider.kinds[0]] = self._observing(provider(part, entries), batch, part)
        return found

    def _observing(self, observer: CleanProvider, batch: Batch, part: Work) -> float:
        run = self.network.clean(batch.ids, parts=observer.needs_parts)
        where = measured(batch, part.counted, self.request.keep_first)

        def observe() -> None:
            later = Pending()
            observer.observe(CleanBatch(part, batch, run, where, later), Samples(len(part.prompts)), TokenRows())
            later.settle()

        return self._seconds(observe) / batch.ids.numel()
