"""Which layers share parameters: seen in where the numbers are stored, not in which module holds them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from depthsig.checkpoint.anatomy.offloaded import stored
from depthsig.checkpoint.fingerprint import digest_of


def tied_to(modules: Sequence[nn.Module]) -> tuple[int, ...]:
    """For every layer, the first one that has exactly the same parameters (itself, if none has).

    Mixture-of-Recursions ties whole layers that are separate modules: they are one layer.
    """
    first: dict[tuple, int] = {}
    found = []
    for index, module in enumerate(modules):
        key = tuple((name, _place(p, value), tuple(p.shape)) for (name, value), p in zip(
            stored(module), module.parameters(), strict=True
        ))  # fmt: skip
        found.append(first.setdefault(key, index) if key else index)
    return tuple(found)


def _place(parameter: nn.Parameter, value: Tensor | None) -> int | str:
    """Where a parameter's numbers are; of one that is offloaded, which has no place to speak of, what they are."""
    return digest_of(value) if parameter.is_meta and value is not None else parameter.data_ptr()


def shared_pieces(modules: Sequence[nn.Module]) -> list[str]:
    """One line for each piece that layers share without being the same (Zamba2's attention blocks).

    >>> a, b = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    >>> b[0].weight, b[0].bias = a[0].weight, a[0].bias
    >>> shared_pieces([a, b])
    ['layers 0, 1 share the parameters of 0 (same storage)']
    """
    tied = tied_to(modules)
    holders: dict[tuple[str, int], list[int]] = {}
    for index, module in enumerate(modules):
        if tied[index] != index:
            continue
        for child, part in module.named_children():
            pointers = sorted({p.data_ptr() for p in part.parameters() if p.numel() and not p.is_meta})
            for pointer in pointers:
                holders.setdefault((child, pointer), []).append(index)
    groups = {(child, tuple(layers)) for (child, _), layers in holders.items() if len(layers) > 1}
    lines = []
    for child, layers in sorted(groups, key=lambda g: (g[1], g[0])):
        lines.append(f"layers {', '.join(map(str, layers))} share the parameters of {child} (same storage)")
    return lines
