"""Which weights come and go together: those of one layer that are its alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from depthsig.checkpoint.anatomy.components import module_lists
from depthsig.checkpoint.hooks import resolve
from depthsig.checkpoint.streaming.sources import Plain, Source


@dataclass(frozen=True)
class LayerWeights:
    """A layer's own weights.

    Attributes:
        index: of its layer, in the order of the module lists.
        layers: the modules that hold them; several where whole layers are tied.
        names: of the weights, one each.
        sources: what they are read from.
    """

    index: int
    layers: tuple[nn.Module, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    sources: tuple[Source, ...] = field(repr=False)

    def shift_of(self, name: str, dtype: torch.dtype) -> int:
        """Bytes from an aligned place at which a weight would lie if it was loaded."""
        plain = (source for source in self.sources if isinstance(source, Plain) and source.name == name)
        return next((source.extent.shift(dtype) for source in plain), 0)

    @property
    def file_bytes(self) -> int:
        """What reading it reads."""
        return sum(extent.nbytes for source in self.sources for extent in source.extents)


def find_units(module: nn.Module, sources: Sequence[Source]) -> list[LayerWeights]:
    """The units of a model; every other weight stays in memory.

    What two layers share without being one, what the files hold twice, and what is made together with a weight of
    another place stays, too.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    holders: Counter[int] = Counter()
    groups: dict[frozenset[int], list[nn.Module]] = {}
    for layer in _layers(module):
        own = frozenset(id(p) for p in layer.parameters())
        if own and own not in groups:
            holders.update(own)
        if own:
            groups.setdefault(own, []).append(layer)
    inside = {id(m) for layers in groups.values() for layer in layers for m in layer.modules()}
    outside = {id(p) for m in module.modules() if id(m) not in inside for p in m.parameters(recurse=False)}
    given = Counter(id(named[name]) for source in sources for name in source.names(module) if name in named)
    whole = {key: {p for p in key if holders[p] == 1 and given[p] == 1 and p not in outside} for key in groups}
    found = []
    for index, (key, layers) in enumerate(groups.items()):
        mine = [
            source for source in sources
            if all(n in named and id(named[n]) in whole[key] and named[n].is_floating_point()
                   for n in source.names(module))
        ]  # fmt: skip
        names = tuple(name for source in mine for name in source.names(module))
        if names:
            found.append(LayerWeights(index, tuple(layers), names, tuple(mine)))
    return found


def _layers(module: nn.Module) -> list[nn.Module]:
    members = [m for path in module_lists(module) for m in resolve(module, path)]
    return list({id(m): m for m in members}.values())
