"""Where transformers puts each tensor of a checkpoint's files, and that no two of them go to one place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.tensors import read_tensor
from depthsig.errors import UnsupportedModelError, shown


@dataclass(frozen=True)
class Place:
    """What a tensor of the files becomes.

    Attributes:
        name: of the model's own tensor; where it has none of that name, the tensor is not used.
        part: which part of it, where it is put together from several (the experts of a layer); else None.
    """

    name: str
    part: tuple[str, str] | None = None


def find_places(files: Files, module: nn.Module) -> dict[str, Place]:
    """The place of every tensor of safetensors files, by its name there.

    transformers is asked: it renames what other versions called otherwise, and adds or drops the name of the base
    model, by rules that a loaded model keeps.
    """
    if files.gguf is not None or not isinstance(module, PreTrainedModel):
        return {name: Place(name) for name in files.tensors}
    rules = getattr(module, "_weight_conversions", None) or []
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    base, state = module.base_model_prefix, module.state_dict()

    def find(name: str) -> Place:
        found, pattern = rename_source_key(name, renamings, converters, base, state)
        if found not in state and name in state:
            found, pattern = rename_source_key(name, [], [], base, state)
        if pattern is None:
            return Place(found)
        return Place(found, (pattern, rename_source_key(name, renamings, [])[0].removeprefix(f"{base}.")))

    return {name: find(name) for name in files.tensors}


def refuse_collisions(files: Files, module: nn.Module, places: Mapping[str, Place], where: str) -> None:
    """Refuse two tensors of the files that go to one place with other numbers: which of them is run is chance.

    Raises:
        UnsupportedModelError: naming both, and the place.
    """
    state = module.state_dict().keys()
    groups: dict[str, dict[tuple[str, str] | None, list[HeldTensor]]] = defaultdict(lambda: defaultdict(list))
    for name, place in places.items():
        if place.name in state:
            groups[place.name][place.part].append(files.tensors[name])
    for target, parts in groups.items():
        whole = parts.get(None, [])
        # What is there whole, and in parts beside it, cannot be compared.
        pairs = [(whole[0], tensors[0]) for part, tensors in parts.items() if whole and part is not None]
        pairs += [
            (first, other) for first, *others in parts.values() for other in others if not _are_equal(first, other)
        ]
        if pairs:
            names = " and ".join(shown(tensor.name)[1:-1] for tensor in pairs[0])
            raise UnsupportedModelError(
                f"{where} holds {names}, which differ and are both read as {target} of {type(module).__name__}; "
                "one of them must go"
            )


def _are_equal(first: HeldTensor, other: HeldTensor) -> bool:
    if first.shape != other.shape:
        return False
    a, b = read_tensor(first), read_tensor(other)
    return torch.equal(a, b) if a.dtype == b.dtype else torch.equal(a.double(), b.double())
