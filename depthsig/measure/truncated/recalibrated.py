"""Readouts of prefixes that were fitted on calibration prompts: a temperature and an affine map a depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.translators import TunedLens


@dataclass(frozen=True)
class Recalibrated:
    """What is fitted for k = 1 .. S−1; at k = S nothing is, and the readout is the model's own.

    Attributes:
        temperatures: τ of every k; empty where none was asked for.
        maps: h + W h + b of every k, W = A − I; None where none was asked for.
        record: what ``signature.json`` keeps: the prompts, and what was chosen at every k.
    """

    temperatures: Sequence[float] = ()
    maps: TunedLens | None = None
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def tempered(self, logits: Float[Tensor, "row vocab"], k: int) -> Float[Tensor, "row vocab"]:
        """Logits of the first k steps divided by their temperature, in place."""
        return logits.div_(self.temperatures[k - 1])

    def mapped(self, hidden: Float[Tensor, "row d"], k: int) -> Float[Tensor, "row d"]:
        """A h_k + b, added up in float32 and returned in the dtype of ``hidden``."""
        assert self.maps is not None, "an affine readout needs its maps"
        return self.maps.translate(hidden, k - 1)
