"""Similarity of layers' weights, per parameter group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthsig.metrics.registry import metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor


@metric(
    "weights.cosine", on="weights", level="pooled", rows="layer", cols="layer",
    parts=("q", "k", "v", "o", "gate", "up", "down", "all"), label="cosine of weights",
    formula="cos of two layers' flattened parameters of a group; `all`: concatenated; norms and biases excluded",
    source="Kapl et al. 2512.08819", worst=None, centre=0.0, limits=(-1, 1),
)  # fmt: skip
def weight_cosine(layers: Sequence[Sequence[Tensor]]) -> Float[Tensor, "layer layer"]:
    """Cosines between layers, each given as its parameters of one group.

    Every layer's parameters are flattened and concatenated; NaN between layers whose shapes
    differ. 1 on the diagonal, 0 with a layer of zeros.

    >>> import torch
    >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> weight_cosine([[a], [b], [a + b]])[0].round(decimals=4).tolist()
    [1.0, 0.0, 0.4472]
    """
    import torch  # lazily: entries are read where torch is not installed

    n = len(layers)
    matrix = torch.full((n, n), float("nan"), dtype=torch.float64)
    alike: dict[tuple, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer:
            alike.setdefault(tuple(tuple(p.shape) for p in layer), []).append(index)
    for members in alike.values():
        dots = _dots([layers[i] for i in members])
        norms = dots.diagonal().sqrt()
        cosines = (dots / norms.clamp_min(1e-300) / norms.clamp_min(1e-300)[:, None]).clamp(-1.0, 1.0)
        cosines.diagonal().fill_(1.0)
        matrix[torch.tensor(members)[:, None], torch.tensor(members)] = cosines
    return matrix


def _dots(layers: Sequence[Sequence[Tensor]]) -> Float[Tensor, "layer layer"]:
    """Dot products between layers in float64, a few million numbers at a time."""
    import torch  # lazily: entries are read where torch is not installed

    step = max(1, (1 << 22) // len(layers))
    total = torch.zeros(len(layers), len(layers), dtype=torch.float64)
    for parameters in zip(*layers, strict=True):
        pieces = [p.detach().reshape(-1).split(step) for p in parameters]
        for piece in zip(*pieces, strict=True):
            rows = torch.stack([x.double().to(piece[0].device) for x in piece])
            total += (rows @ rows.T).cpu()
    return total
