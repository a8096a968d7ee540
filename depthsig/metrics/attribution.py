"""Which states, by depth and position, the output depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from depthsig.metrics.distributions import probability_l2
from depthsig.metrics.registry import metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

_CSORDAS, _SUNDARARAJAN = "Csordás, Manning & Potts 2505.13898", "Sundararajan et al. 1703.01365"

IG_STEPS, IG_MOST, IG_ERROR = 32, 256, 0.05
"""Steps of an integral, doubled up to the most until the completeness error is below the last."""

metric(
    "erasure.effect", on="erasure", kind="token", axis="depth", label="change of output by erasing a state",
    formula="max ‖p − p'‖₂ over the answer's predictions (else the positions after t), h_d[t] := mean residual at d",
    source=_CSORDAS, unit="probability", fused="l2", worst=None, limits=(0, 2**0.5), figure="token_map",
    norm="log", drawn=(1e-4, 2**0.5),
    section="Erasure",
)(probability_l2)  # fmt: skip


class Attribution(NamedTuple):
    """What every token contributes, and how far the sum is from what it should be, relative to it."""

    values: Float[Tensor, "token"]
    completeness: float


@metric(
    "attribution.completeness", on="attribution", label="completeness error", unit="fraction", result="completeness",
    formula="mean over prompts of the largest |Σ IG_d − (F(h_d) − F(baseline))| / |F(h_d) − F(baseline)| over depths",
    source=_SUNDARARAJAN, section="Attribution",
)  # fmt: skip
@metric(
    "attribution.ig", on="attribution", kind="token", axis="depth", label="integrated gradient", result="values",
    formula="(h_d[t] − mean_t h_d)·∫ ∂F/∂h_d[t], F the summed log-probability of the answer (else of the next tokens)",
    source=f"{_CSORDAS}; {_SUNDARARAJAN}", unit="nats", worst=None, centre=0.0, figure="token_map",
    norm="symlog", drawn=(-10, 10),
    section="Attribution",
)  # fmt: skip
def attribute(
    rest: Callable[[Float[Tensor, "row token d"]], Float[Tensor, "row"]], h: Float[Tensor, "token d"],
    baseline: Float[Tensor, "token d"],
) -> Attribution:  # fmt: skip
    """Integrated gradients, with as many steps as it takes for them to add up.

    32 steps, doubled up to 256 until the completeness error is below 5 %.

    Args:
        rest: of a batch of states, differentiable, one number a row.
        h: the states of one prompt at a depth. baseline: where the integral begins.
    """
    steps, rows = IG_STEPS, max(1, min(IG_STEPS, 1024 // len(h)))
    found = integrated_gradients(rest, h, baseline, steps, rows)
    while found.completeness >= IG_ERROR and steps < IG_MOST:
        steps *= 2
        found = integrated_gradients(rest, h, baseline, steps, rows)
    return found


def integrated_gradients(
    function: Callable[[Float[Tensor, "row token d"]], Float[Tensor, "row"]],
    states: Float[Tensor, "token d"],
    baseline: Float[Tensor, "token d"],
    steps: int = IG_STEPS,
    rows: int = 8,
) -> Attribution:
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
    import torch  # lazily: entries are read where torch is not installed

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
    return Attribution(values, error)
