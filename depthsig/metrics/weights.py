"""Similarity of layers' weights, per parameter group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthsig.metrics.registry import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

METRICS = (
    Metric(
        "weights.cosine", ("weights",), "matrix", "cosine of weights",
        "cos of two layers' flattened parameters of a group; `all`: concatenated; norms and biases excluded",
        "Kapl et al. 2512.08819",
        parts=("q", "k", "v", "o", "gate", "up", "down", "all"), rows="layer", cols="layer",
        worst=None, diverging=0.0, limits=(-1, 1),
    ),
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
    import torch

    n = len(layers)
    matrix = torch.full((n, n), float("nan"), dtype=torch.float64)
    shapes = [tuple(tuple(p.shape) for p in layer) for layer in layers]
    squares = [sum(float(_dot(p, p)) for p in layer) for layer in layers]
    for i in range(n):
        for j in range(i, n):
            if shapes[i] != shapes[j] or not layers[i]:
                continue
            dot = sum(float(_dot(p, q)) for p, q in zip(layers[i], layers[j], strict=True))
            norms = (squares[i] * squares[j]) ** 0.5
            cosine = dot / norms if norms else 0.0
            same = 1.0 if norms else 0.0
            matrix[i, j] = matrix[j, i] = same if i == j else max(-1.0, min(1.0, cosine))
    return matrix


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot product in float64, a few million numbers at a time."""
    total = a.new_zeros((), dtype=__import__("torch").float64)
    for x, y in zip(a.flatten().split(1 << 22), b.flatten().split(1 << 22), strict=True):
        total = total + x.double() @ y.double()
    return total
