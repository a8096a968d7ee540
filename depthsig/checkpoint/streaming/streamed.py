"""Building a model of which only what is outside its layers is in memory.

transformers builds it as it always does, given tensors that read nothing until they are asked for: so that its class,
its dtypes, its tied weights, its buffers and what it says of missing weights are those of the loaded model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.streaming.headers import Extent, read_extents
from depthsig.checkpoint.streaming.reader import Reader
from depthsig.checkpoint.streaming.sources import find_sources
from depthsig.checkpoint.streaming.stream import Stream, stub_like
from depthsig.checkpoint.streaming.units import LayerWeights, find_units
from depthsig.errors import UnsupportedModelError

Build = Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]]
"""From tensors by name to a model of transformers, and what it says of its loading."""


@dataclass(frozen=True)
class Shell:
    """A model whose layers hold no numbers yet: their weights are on the meta device.

    Attributes:
        info: what transformers said of loading it.
    """

    module: Any
    info: Mapping[str, Any]
    units: list[LayerWeights] = field(repr=False)
    reader: Reader = field(repr=False)

    def start(self, device: torch.device) -> nn.Module:
        """The model on its device, reading its layers as they run."""
        placed: nn.Module = self.module._apply(lambda t: t if t.is_meta else t.to(device))
        _stand_in(placed, device)
        Stream(placed, self.units, self.reader, device)
        return placed


def build_shell(files: Files, build: Build, check: Callable[[Mapping[str, Any]], None], where: str) -> Shell:
    """Build a model and read what stays in memory.

    Args:
        build: calls transformers. check: refuses what it said was missing, before anything is read.

    Raises:
        InputError: for files that are damaged. UnsupportedModelError: for a model that has no layers to stream.
    """
    extents = {one.name: one for file in files.weights for one in read_extents(file)}
    reader = Reader(files.weights)
    module, info = build({name: _Unread(extent, None) for name, extent in extents.items()})
    check(info)
    if not isinstance(module, PreTrainedModel):
        raise UnsupportedModelError(f"{where} is no model of transformers, whose layers --stream knows to read")
    units = find_units(module, list(find_sources(files, module, extents)))
    if not units:
        raise UnsupportedModelError(
            f"{where}: {type(module).__name__} keeps no layers in a ModuleList whose weights are in its files one by "
            "one; load it without --stream"
        )
    later = {extent.name for unit in units for source in unit.sources for extent in source.extents}
    state = {name: _Unread(extent, None if name in later else reader) for name, extent in extents.items()}
    del module, units
    module, info = build(state)
    check(info)
    return Shell(module, info, find_units(module, list(find_sources(files, module, extents))), reader)


class _Unread:
    """A tensor of a file, as transformers takes them: read when it is moved to a device.

    Without a reader it comes without numbers.
    """

    def __init__(self, extent: Extent, reader: Reader | None) -> None:
        self.extent, self.reader = extent, reader

    def __getitem__(self, index: Any) -> _Unread:
        return self

    @property
    def dtype(self) -> torch.dtype:
        """As it lies in the file."""
        return self.extent.dtype

    def is_floating_point(self) -> bool:
        """Whether its numbers are."""
        return self.extent.dtype.is_floating_point

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor in a dtype, its own where none is named."""
        if self.reader is not None:
            return self.reader.tensor(self.extent, dtype)
        return torch.empty(self.extent.shape, dtype=dtype or self.extent.dtype, device="meta")


def _stand_in(module: nn.Module, device: torch.device) -> None:
    """NaN for every weight without numbers: ties stay ties."""
    made: dict[int, nn.Parameter] = {}
    for one in module.modules():
        for name, weight in one._parameters.items():
            if weight is not None and weight.is_meta:
                if id(weight) not in made:
                    like = torch.empty(0, dtype=weight.dtype, device=device)
                    stub = stub_like(like.new_empty(1).expand(weight.shape))
                    made[id(weight)] = nn.Parameter(stub, requires_grad=weight.requires_grad)
                one._parameters[name] = made[id(weight)]
