"""Memory for the weights of one layer at a time, into which a background thread reads."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from depthsig.checkpoint.streaming.units import LayerWeights

Weights = Mapping[str, nn.Parameter]
"""The weights of a model that come and go, by name."""


ALIGNMENT = 512
"""Bytes to which weights are aligned in their buffer, as a GPU's allocator does it."""


class Layout:
    """Where in a buffer each weight of a unit is.

    Attributes:
        nbytes: of all of them, in the dtype that the model computes in.
    """

    def __init__(self, unit: LayerWeights, weights: Weights, device: torch.device) -> None:
        self.weights, self.nbytes = weights, 0
        self.starts: dict[str, int] = {}
        for name in unit.names:
            shift = unit.shift_of(name, weights[name].dtype) if device.type == "cpu" else 0
            self.starts[name] = self.nbytes + shift
            self.nbytes += -(-(shift + weights[name].nbytes) // ALIGNMENT) * ALIGNMENT

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The weights in a buffer [byte], each in its shape and dtype."""
        found = {}
        for name, start in self.starts.items():
            weight = self.weights[name]
            found[name] = buffer[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
        return found


@dataclass
class Buffer:
    """A buffer.

    Attributes:
        host: where files are read to; on a CPU the weights themselves.
        device: where the weights are used.
        unit: what is in it, or on its way.
        pending: the reading of it; None when it has arrived.
    """

    host: Tensor = field(repr=False)
    device: Tensor = field(repr=False)
    unit: LayerWeights | None = None
    pending: Future[None] | None = None

    @classmethod
    def of(cls, nbytes: int, device: torch.device) -> Buffer:
        """A buffer of so many bytes; pinned where a GPU copies from it."""
        host = torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=device.type == "cuda")
        return cls(host, host if device.type == "cpu" else torch.empty(nbytes, dtype=torch.uint8, device=device))

    def arrive(self) -> None:
        """Wait for what is on its way, and bring it to where it is used.

        Raises:
            InputError: what went wrong in the thread that read it.
        """
        if self.pending is None:
            return
        try:
            self.pending.result()
            if self.device is not self.host:
                self.device.copy_(self.host)  # from pinned memory, and in the stream's order: waits for earlier work
        except Exception:
            self.unit = self.pending = None  # whatever is in it is nobody's
            raise
        except BaseException:
            self.unit = None  # interrupted: it is still being read, which has to be waited for
            raise
        self.pending = None
