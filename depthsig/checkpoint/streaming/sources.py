"""What of the files each weight of a model is made of, by transformers' own rules of renaming and conversion."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.core_model_loading import WeightConverter, dot_natural_key

from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.places import find_places
from depthsig.checkpoint.streaming.headers import Extent
from depthsig.checkpoint.streaming.reader import Reader


class Source(Protocol):
    """What one weight, or several at once, are made of."""

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The tensors of the files that are read for it."""

    def names(self, module: nn.Module) -> tuple[str, ...]:
        """The weights that it gives."""

    def read(self, reader: Reader, module: nn.Module, into: Mapping[str, Tensor]) -> None:
        """Put their numbers into memory of theirs, by name."""


@dataclass(frozen=True)
class Plain:
    """One weight as it lies in a file, perhaps under another name or in another dtype."""

    name: str
    extent: Extent

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The one tensor."""
        return (self.extent,)

    def names(self, module: nn.Module) -> tuple[str, ...]:
        """The one weight."""
        return (self.name,)

    def read(self, reader: Reader, module: nn.Module, into: Mapping[str, Tensor]) -> None:
        """Straight to where it belongs."""
        reader.read(self.extent, into[self.name])


@dataclass(frozen=True)
class Converted:
    """Weights that transformers puts together or takes apart, as the experts of a layer.

    Attributes:
        first: the name under which it does so.
        pieces: name in the file, pattern of it, and place.
    """

    first: str
    converter: Any
    pieces: tuple[tuple[str, str, Extent], ...]

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Every piece."""
        return tuple(extent for _, _, extent in self.pieces)

    def names(self, module: nn.Module) -> tuple[str, ...]:
        """The weights that come out, seen on tensors without numbers."""
        return tuple(self._made(module, lambda e: torch.empty(e.shape, dtype=e.dtype, device="meta")))

    def read(self, reader: Reader, module: nn.Module, into: Mapping[str, Tensor]) -> None:
        """In memory of their own first, in the dtype of what is made of them, as transformers does it."""
        dtype = next(iter(into.values())).dtype
        for name, found in self._made(module, lambda e: reader.tensor(e, dtype)).items():
            into[name].copy_(found)

    def _made(self, module: nn.Module, read: Any) -> dict[str, Tensor]:
        config: Any = module.config
        own = copy.deepcopy(self.converter)
        for name, pattern, extent in self.pieces:
            own.add_tensor(self.first, name, pattern, read(extent))
        found = own.convert(self.first, model=module, config=config)
        return {name: one[0] if isinstance(one, list) else one for name, one in found.items()}


def find_sources(files: Files, module: nn.Module, extents: Mapping[str, Extent]) -> Iterator[Source]:
    """Every weight that the files hold for a model that transformers has built from them.

    Args:
        extents: of the files, by name.
    """
    state = module.state_dict().keys()
    rules = getattr(module, "_weight_conversions", None) or []
    by_pattern = {p: rule for rule in rules if isinstance(rule, WeightConverter) for p in rule.source_patterns}
    parts: dict[str, list[tuple[str, str, Extent]]] = defaultdict(list)
    places = find_places(files, module)
    for name in sorted(places, key=dot_natural_key):
        place = places[name]
        if place.name not in state:
            continue
        if place.part is None:
            yield Plain(place.name, extents[name])
        else:
            parts[place.name].append((name, place.part[0], extents[name]))
    for first, pieces in parts.items():
        yield Converted(first, by_pattern[pieces[0][1]], tuple(pieces))
