"""Loop dynamics: how the states of successive passes move, and whether they settle.

Everything is per phase of the cycle: x^k is the state entering pass k at that phase, k = 0..K−1 of
the K passes that run, x^K the state that an additional pass would begin with there, and
Δ^k = x^{k+1} − x^k. ``xs`` holds x^0 .. x^K along its first axis, ``x_next`` what one more pass than
run makes of x^K. A result has a row a pass; the rows of a matrix that it does not fill are undefined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthsig.metrics.distributions import kl_divergence
from depthsig.metrics.registry import metric
from depthsig.metrics.residual import cosine
from depthsig.metrics.vectors import EPSILON

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_PAPPONE, _BLAYNEY, _CODER = "Pappone et al. 2509.23314", "Blayney et al. 2604.11791", "LoopCoder-v2 2606.18023"
_LOOP: dict[str, Any] = {
    "on": "loop", "rows": "iteration", "cols": "phase", "row_label": "iteration k", "section": "Loop dynamics",
}  # fmt: skip
_SIZES: dict[str, Any] = {"norm": "log", "drawn": (0.1, 1e4), **_LOOP}
_RATIOS: dict[str, Any] = {"norm": "log", "drawn": (1e-2, 10), **_LOOP}


def pass_steps(xs: Float[Tensor, "state *batch d"]) -> Float[Tensor, "step *batch d"]:
    """Δ^k = x^{k+1} − x^k in float64; one fewer than states."""
    xs = xs.double()
    return xs[1:] - xs[:-1]


@metric(
    "loop.step_norm", label="step size ‖Δ^k‖", formula="‖x^{k+1} − x^k‖₂", source=_PAPPONE, limits=(0, None), **_SIZES
)
def step_norm(xs: Float[Tensor, "state *batch d"]) -> Float[Tensor, "step *batch"]:
    """‖Δ^k‖₂ for k = 0 .. K−1.

    >>> import torch
    >>> step_norm(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [5.0]
    """
    return pass_steps(xs).norm(dim=-1)


@metric(
    "loop.step_relative",
    label="relative step size",
    formula="‖Δ^k‖/‖x^k‖",
    source=_PAPPONE,
    limits=(0, None),
    **_RATIOS,
)
def step_relative(xs: Float[Tensor, "state *batch d"]) -> Float[Tensor, "step *batch"]:
    """‖Δ^k‖/max(‖x^k‖, ε)."""
    return step_norm(xs) / xs[:-1].double().norm(dim=-1).clamp_min(EPSILON)


@metric(
    "loop.turn_cosine", label="cosine of successive steps", formula="cos(Δ^k, Δ^{k−1}), k ≥ 1", source=_PAPPONE,
    centre=0.0, limits=(-1, 1), domain="from row 1", **_LOOP,
)  # fmt: skip
def turn_cosine(xs: Float[Tensor, "state *batch d"]) -> Float[Tensor, "turn *batch"]:
    """cos(Δ^k, Δ^{k−1}) for k = 1 .. K−1; 0 with a zero step.

    >>> import torch
    >>> turn_cosine(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])).tolist()
    [0.0]
    """
    moved = pass_steps(xs)
    return cosine(moved[1:], moved[:-1])


@metric(
    "loop.acceleration", label="acceleration", formula="‖Δ^k − Δ^{k−1}‖₂, k ≥ 1", source=_PAPPONE, limits=(0, None),
    domain="from row 1", **_SIZES,
)  # fmt: skip
def acceleration(xs: Float[Tensor, "state *batch d"]) -> Float[Tensor, "turn *batch"]:
    """‖Δ^k − Δ^{k−1}‖₂ for k = 1 .. K−1."""
    moved = pass_steps(xs)
    return (moved[1:] - moved[:-1]).norm(dim=-1)


@metric(
    "loop.fixed_point_gap", label="fixed-point gap", formula="‖F(x^K) − x^K‖/‖x^K‖, F one more pass than run (row K)",
    source=_CODER, limits=(0, None), domain="last row", **_RATIOS,
)  # fmt: skip
def fixed_point_gap(
    xs: Float[Tensor, "state *batch d"], x_next: Float[Tensor, "*batch d"]
) -> Float[Tensor, "1 *batch"]:
    """‖F(x^K) − x^K‖/max(‖x^K‖, ε), of the last state and what one more pass makes of it; 0 at a fixed point.

    >>> import torch
    >>> fixed_point_gap(torch.ones(2, 4), torch.ones(4)).tolist()
    [0.0]
    """
    last, after = xs[-1:].double(), x_next.double()[None]
    return (after - last).norm(dim=-1) / last.norm(dim=-1).clamp_min(EPSILON)


@metric(
    "loop.distance_to_last", label="distance to x^K", formula="‖x^k − x^K‖/‖x^K‖", source=_BLAYNEY, limits=(0, None),
    **_RATIOS,
)  # fmt: skip
def distance_to_last(xs: Float[Tensor, "state *batch d"]) -> Float[Tensor, "step *batch"]:
    """‖x^k − x^K‖/max(‖x^K‖, ε), for every state before the last, x^K."""
    xs = xs.double()
    return (xs[:-1] - xs[-1]).norm(dim=-1) / xs[-1].norm(dim=-1).clamp_min(EPSILON)


@metric(
    "loop.output_kl", label="KL of successive readouts", formula="KL(p^{k+1} ‖ p^k), p^k the lens at x^k",
    source=_CODER, unit="nats", limits=(0, None), norm="log", drawn=(1e-5, 30), **_LOOP,
)  # fmt: skip
def output_kl(
    logits: Float[Tensor, "*batch vocab"], logits_next: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(p^{k+1} ‖ p^k) in nats, of the readouts of two successive passes."""
    return kl_divergence(logits_next, logits)


@metric(
    "loop.attention_entropy", label="attention entropy",
    formula="−Σ_j a_ij ln a_ij of the layer at phase p in pass k, mean over heads", source=f"{_CODER}; {_BLAYNEY}",
    unit="nats", limits=(0, None), norm="log", drawn=(1e-2, 10), **_LOOP,
)  # fmt: skip
def attention_entropy(attention: Float[Tensor, "*batch head query key"]) -> Float[Tensor, "*batch query"]:
    """−Σ_j a_ij ln a_ij in nats, mean over heads; 0 where all weight is on one key, ln n at most.

    >>> import torch
    >>> round(float(attention_entropy(torch.full((1, 1, 4), 0.25))), 6)
    1.386294
    """
    attention = attention.double()
    logs = attention.clamp_min(1e-300).log()
    return -(attention * logs).sum(-1).mean(-2)


def principal_components(
    states: Float[Tensor, "point d"], k: int = 2
) -> tuple[Float[Tensor, "point k"], Float[Tensor, "k"]]:
    """Coordinates of points on their first ``k`` principal components, and the variance shares.

    The sign of a component is fixed by making its largest loading positive.
    """
    import torch  # lazily: entries are read where torch is not installed

    states = states.double()
    centred = states - states.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:k]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    total = float((sizes**2).sum()) or 1.0
    return centred @ (axes * signs).T, sizes[:k] ** 2 / total


@metric(
    "loop.pca", on="loop", level="pooled", kind="token", axis="iteration", label="states of the passes",
    formula="x^k at phase 0 on the first two principal components of the kept tokens' states (rank 1 and 2; index k)",
    source=_PAPPONE, figure="trajectories", section="Loop dynamics", worst=None,
)  # fmt: skip
def pass_components(xs: Float[Tensor, "state token d"]) -> Float[Tensor, "state token 2"]:
    """Tokens' states before every pass, on the first two principal components of all of them."""
    points, _ = principal_components(xs.flatten(0, 1))
    return points.unflatten(0, xs.shape[:2])
