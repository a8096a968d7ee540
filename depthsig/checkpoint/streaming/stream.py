"""A model whose layers get their weights when they run, and lose them when others do.

A weight that is not there keeps its identity, shape, dtype and device, and is NaN: whatever reads it then computes
NaN, which is refused, and never a number of something else.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.finite import refuse_weight
from depthsig.checkpoint.streaming.buffers import Buffer, Layout, Weights
from depthsig.checkpoint.streaming.reader import Reader
from depthsig.checkpoint.streaming.units import LayerWeights
from depthsig.errors import UnsupportedModelError

_KEY = "_depthsig_stream"


def stream_of(module: nn.Module) -> Stream | None:
    """What reads the layers of a model as they are needed; None where all are in memory."""
    found = module.__dict__.get(_KEY)
    return found if isinstance(found, Stream) else None


def streamed_names(module: nn.Module) -> frozenset[str]:
    """The weights of a model that come and go, under all their names; none where all are in memory."""
    stream = stream_of(module)
    if stream is None:
        return frozenset()
    own = {id(weight) for weight in stream.weights.values()}
    return frozenset(name for name, p in module.named_parameters(remove_duplicate=False) if id(p) in own)


class Stream:
    """Reads layers as they run, the next one while one runs; two are held at most.

    Attributes:
        units: what is read at once, in the order of the layers.
        reads: how often each unit was read.
        waited: seconds for which computing waited for reading.
        spent: seconds that reading took, in the background.
    """

    def __init__(self, module: Any, units: Sequence[LayerWeights], reader: Reader, device: torch.device) -> None:
        self.module, self.units, self.reader = module, tuple(units), reader
        named = dict(module.named_parameters(remove_duplicate=False))
        self.weights: Weights = {name: named[name] for unit in units for name in unit.names}
        self.reads = [0] * len(units)
        self.waited = self.spent = 0.0
        self._stubs = {name: stub_like(weight) for name, weight in self.weights.items()}
        self._slots: list[Buffer] = []
        self._layouts = {unit.index: Layout(unit, self.weights, device) for unit in units}
        self._size = max(layout.nbytes for layout in self._layouts.values())
        self._device = device
        self._running: list[int] = []
        self._bound: set[int] = set()
        self._after = {unit.index: unit.index + 1 for unit in units}
        self._last: int | None = None
        self._place = {unit.index: number for number, unit in enumerate(self.units)}
        self._checked: set[int] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="depthsig-stream")
        module.__dict__[_KEY] = self
        for unit in self.units:
            for layer in unit.layers:
                layer.__dict__["forward"] = _forward_of(self, unit, layer.forward)

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors that were read from the files, those that stay in memory among them."""
        return self.reader.bytes_read

    @property
    def pass_bytes(self) -> int:
        """Bytes of the files that one pass over all layers reads."""
        return sum(unit.file_bytes for unit in self.units)

    @property
    def speed(self) -> float:
        """Bytes a second at which layers were read so far."""
        done = sum(number * unit.file_bytes for number, unit in zip(self.reads, self.units, strict=True))
        return done / max(self.spent, 1e-9)

    @property
    def held_bytes(self) -> int:
        """Bytes of the buffers, when both are there: of two layers."""
        return 2 * self._size

    @contextmanager
    def holding(self, unit: LayerWeights) -> Iterator[None]:
        """Within it, a layer has its weights; afterwards, too, until another one needs the memory."""
        if torch.is_grad_enabled():
            raise UnsupportedModelError(
                "gradients through layers need their weights again on the way back, which --stream does not keep; "
                "load the model without --stream for this"
            )
        self._running.append(unit.index)
        try:
            self._enter(unit)
            yield
        finally:
            self._running.pop()

    def _enter(self, unit: LayerWeights) -> None:
        if self._last is not None and self._last != unit.index:
            self._after[self._last] = unit.index
        self._last = unit.index
        slot = next((one for one in self._slots if one.unit is unit), None)
        if slot is None:
            slot = self._free(unit)
            self._order(unit, slot)
        started = time.perf_counter()
        slot.arrive()
        self.waited += time.perf_counter() - started
        if unit.index not in self._bound:
            self._bound.add(unit.index)
            try:
                for name, view in self._layouts[unit.index].views(slot.device).items():
                    self.weights[name].data = view
            except BaseException:
                self._let_go(unit)
                raise
        self._prefetch(unit)

    def _prefetch(self, unit: LayerWeights) -> None:
        """Read what came after this layer last time; only forwards, for a pass may be the last one."""
        number = self._place.get(self._after[unit.index])
        if number is None or self._after[unit.index] <= unit.index:
            return
        following = self.units[number]
        if any(slot.unit is following for slot in self._slots) or len(set(self._running)) > 1:
            return
        self._order(following, self._free(unit))

    def _free(self, unit: LayerWeights) -> Buffer:
        """A buffer that no layer needs which is running, emptied; a third only where layers run inside layers."""
        needed = {*self._running, unit.index}
        for slot in self._slots if len(self._slots) > 1 else ():
            if slot.unit is None or slot.unit.index not in needed:
                self._empty(slot)
                return slot
        self._slots.append(Buffer.of(self._size, self._device))
        return self._slots[-1]

    def _empty(self, slot: Buffer) -> None:
        held, slot.unit = slot.unit, None
        if held is not None:
            self._let_go(held)
        slot.arrive()

    def _let_go(self, unit: LayerWeights) -> None:
        """Stubs again, for all of a unit's weights."""
        self._bound.discard(unit.index)  # first: whoever is interrupted below has them bound anew
        for name in unit.names:
            self.weights[name].data = self._stubs[name]

    def _order(self, unit: LayerWeights, slot: Buffer) -> None:
        slot.unit = None
        slot.pending = self._thread.submit(self._read, unit, slot)
        slot.unit = unit  # not before: whoever is interrupted here leaves a buffer that is nobody's

    def _read(self, unit: LayerWeights, slot: Buffer) -> None:
        """In the background."""
        started, views = time.perf_counter(), self._layouts[unit.index].views(slot.host)
        with torch.no_grad():
            for source in unit.sources:
                source.read(self.reader, self.module, {name: views[name] for name in source.names(self.module)})
            self.reads[self._place[unit.index]] += 1
            self.spent += time.perf_counter() - started
            if unit.index not in self._checked:
                for name, view in views.items():
                    refuse_weight(name, view)
                self._checked.add(unit.index)


def stub_like(weight: Tensor) -> Tensor:
    """NaN in the shape of a weight, in the memory of one number; no two are at the same place."""
    return torch.full((), torch.nan, dtype=weight.dtype, device=weight.device).expand(weight.shape)


def _forward_of(stream: Stream, unit: LayerWeights, own: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's forward, with its weights there. Who lets something else stand for it needs none."""

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with stream.holding(unit):
            return own(*args, **kwargs)

    return forward
