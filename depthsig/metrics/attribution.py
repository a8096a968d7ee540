"""Which states, by depth and position, the output depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthsig.metrics.registry import Metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

_SOURCE = "Csordás, Manning & Potts 2505.13898"

METRICS = (
    Metric(
        "erasure.effect", ("erasure",), "token", "change of output by erasing a state",
        "max ‖p − p'‖₂ over the answer's predictions (else the positions after t), h_d[t] := mean residual at d",
        _SOURCE, axis="depth", unit="probability", worst=None, limits=(0, 2**0.5),
    ),
    Metric(
        "attribution.ig", ("attribution",), "token", "integrated gradient",
        "(h_d[t] − mean_t h_d)·∫ ∂F/∂h_d[t], F the summed log-probability of the answer (else of the next tokens)",
        _SOURCE + "; Sundararajan et al. 1703.01365", axis="depth", unit="nats", worst=None, diverging=0.0,
    ),
    Metric(
        "attribution.completeness", ("attribution",), "score", "completeness error",
        "mean over prompts of the largest |Σ IG_d − (F(h_d) − F(baseline))| / |F(h_d) − F(baseline)| over depths",
        "Sundararajan et al. 1703.01365", unit="fraction",
    ),
)  # fmt: skip


def integrated_gradients(
    function: Callable[[Float[Tensor, "row token d"]], Float[Tensor, "row"]],
    states: Float[Tensor, "token d"],
    baseline: Float[Tensor, "token d"],
    steps: int = 32,
    rows: int = 8,
) -> tuple[Float[Tensor, "token"], float]:
    """Integrated gradients of ``function`` along the straight line from ``baseline`` to ``states``.

    (x − b)·(1/m) Σ_k ∇F(b + (k − ½)/m·(x − b)), the midpoint rule with m = ``steps``, summed over
    d. Source: Sundararajan et al. 1703.01365.

    Args:
        function: of a batch of states, differentiable, one number a row.
        rows: states that go through ``function`` at once.

    Returns:
        Attribution of every token, and the completeness error |Σ − (F(x) − F(b))| / |F(x) − F(b)|.

    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> values, error = integrated_gradients(lambda h: (h**2).sum((1, 2)), x, torch.zeros(2, 2))
    >>> values.tolist(), round(error, 6)
    ([5.0, 9.0], 0.0)
    """
    import torch

    direction = (states - baseline).detach()
    total = torch.zeros_like(states, dtype=torch.float32)
    alphas = (torch.arange(steps, device=states.device, dtype=torch.float32) + 0.5) / steps
    for some in alphas.split(rows):
        points = (baseline + some[:, None, None].to(states.dtype) * direction).detach().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(function(points).sum(), points)
        total += gradient.float().sum(0)
    values = (direction.float() * total / steps).sum(-1)
    with torch.no_grad():
        ends = function(torch.stack([states, baseline]))
    change = float(ends[0].double() - ends[1].double())
    error = abs(float(values.double().sum()) - change) / max(abs(change), 1e-12)
    return values, error
