"""Loop dynamics: how the states of successive passes move, and whether they settle.

Everything is per phase of the cycle: x^k is the state entering pass k at that phase, k = 0..K−1 of
the K passes that run, x^K the state that an additional pass would begin with there, and
Δ^k = x^{k+1} − x^k. Arrays hold the passes along their first axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthsig.metrics.registry import Metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_PAPPONE = "Pappone et al. 2509.23314"
_BLAYNEY = "Blayney et al. 2604.11791"
_CODER = "LoopCoder-v2 2606.18023"


def _matrix(name: str, label: str, formula: str, source: str, **more: object) -> Metric:
    return Metric(
        f"loop.{name}", ("loop",), "matrix", label, formula, source,
        rows="iteration k", cols="phase", **more,  # type: ignore[arg-type]
    )  # fmt: skip


METRICS: tuple[Metric, ...] = (
    _matrix("step_norm", "step size ‖Δ^k‖", "‖x^{k+1} − x^k‖₂", _PAPPONE, limits=(0, None)),
    _matrix("step_relative", "relative step size", "‖Δ^k‖/‖x^k‖", _PAPPONE, limits=(0, None)),
    _matrix(
        "turn_cosine", "cosine of successive steps", "cos(Δ^k, Δ^{k−1}), k ≥ 1", _PAPPONE,
        diverging=0.0, limits=(-1, 1),
    ),
    _matrix("acceleration", "acceleration", "‖Δ^k − Δ^{k−1}‖₂, k ≥ 1", _PAPPONE, limits=(0, None)),
    _matrix(
        "fixed_point_gap", "fixed-point gap", "‖F(x^K) − x^K‖/‖x^K‖, F one more pass than run (row K)", _CODER,
        limits=(0, None),
    ),
    _matrix("distance_to_last", "distance to x^K", "‖x^k − x^K‖/‖x^K‖", _BLAYNEY, limits=(0, None)),
    _matrix(
        "output_kl", "KL of successive readouts", "KL(p^{k+1} ‖ p^k), p^k the lens at x^k", _CODER,
        unit="nats", limits=(0, None),
    ),
    _matrix(
        "attention_entropy", "attention entropy",
        "−Σ_j a_ij ln a_ij of the layer at phase p in pass k, mean over heads", "LoopCoder-v2 2606.18023; " + _BLAYNEY,
        unit="nats", limits=(0, None),
    ),
    Metric(
        "loop.pca", ("loop",), "token", "states of the passes",
        "x^k at phase 0 on the first two principal components of the kept tokens' states (rank 1 and 2; index k)",
        _PAPPONE,
    ),
)  # fmt: skip

_CODA = "Lu 2507.02199"


def _coda(name: str, label: str, formula: str, **more: object) -> Metric:
    return Metric(
        f"coda.{name}", ("coda",), "profile", label, formula + ", c_d: h_d through what comes after the loop",
        _CODA, axis="depth", **more,  # type: ignore[arg-type]
    )  # fmt: skip


METRICS += (
    _coda("kl", "coda lens KL", "KL(c_d ‖ p)", unit="nats", limits=(0, None)),
    _coda(
        "overlap5", "coda lens top-5 overlap", "|top5(c_d) ∩ top5(p)|/5", worst="min", unit="fraction", limits=(0, 1)
    ),
    _coda("top1", "coda lens top-1 agreement", "argmax c_d = argmax p", worst="min", unit="fraction", limits=(0, 1)),
    _coda("entropy", "coda lens entropy", "H(c_d)", unit="nats", limits=(0, None)),
    _coda("target_nll", "coda lens NLL", "−ln c_d(next token)", unit="nats", limits=(0, None)),
    _coda("target_rank", "coda lens rank", "1 + number of strictly larger", log=True, limits=(1, None)),
)

EPSILON = 1e-6


def steps(states: Float[Tensor, "pass *batch d"]) -> Float[Tensor, "step *batch d"]:
    """Δ^k = x^{k+1} − x^k in float64; one fewer than states."""
    states = states.double()
    return states[1:] - states[:-1]


def step_norm(states: Float[Tensor, "pass *batch d"]) -> Float[Tensor, "step *batch"]:
    """‖Δ^k‖₂ for k = 0 .. passes − 2.

    >>> import torch
    >>> step_norm(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [5.0]
    """
    return steps(states).norm(dim=-1)


def step_relative(states: Float[Tensor, "pass *batch d"]) -> Float[Tensor, "step *batch"]:
    """‖Δ^k‖/max(‖x^k‖, ε)."""
    return step_norm(states) / states[:-1].double().norm(dim=-1).clamp_min(EPSILON)


def turn_cosine(states: Float[Tensor, "pass *batch d"]) -> Float[Tensor, "turn *batch"]:
    """cos(Δ^k, Δ^{k−1}) for k = 1 .. passes − 2; 0 with a zero step.

    >>> import torch
    >>> turn_cosine(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])).tolist()
    [0.0]
    """
    from depthsig.metrics.residual import cosine

    moved = steps(states)
    return cosine(moved[1:], moved[:-1])


def acceleration(states: Float[Tensor, "pass *batch d"]) -> Float[Tensor, "turn *batch"]:
    """‖Δ^k − Δ^{k−1}‖₂ for k = 1 .. passes − 2."""
    moved = steps(states)
    return (moved[1:] - moved[:-1]).norm(dim=-1)


def fixed_point_gap(last: Float[Tensor, "*batch d"], after: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖F(x^K) − x^K‖/max(‖x^K‖, ε), of x^K and what one more pass makes of it; 0 at a fixed point."""
    last, after = last.double(), after.double()
    return (after - last).norm(dim=-1) / last.norm(dim=-1).clamp_min(EPSILON)


def distance_to_last(states: Float[Tensor, "pass *batch d"]) -> Float[Tensor, "step *batch"]:
    """‖x^k − x^K‖/max(‖x^K‖, ε), for every state before the last, x^K."""
    states = states.double()
    return (states[:-1] - states[-1]).norm(dim=-1) / states[-1].norm(dim=-1).clamp_min(EPSILON)


def output_kl(logits: Float[Tensor, "pass *batch vocab"]) -> Float[Tensor, "step *batch"]:
    """KL(p^{k+1} ‖ p^k) in nats between the readouts of successive passes."""
    from depthsig.metrics.distributions import kl_divergence

    return kl_divergence(logits[1:], logits[:-1])


def attention_entropy(weights: Float[Tensor, "*batch head query key"]) -> Float[Tensor, "*batch query"]:
    """−Σ_j a_ij ln a_ij in nats, mean over heads; 0 where all weight is on one key, ln n at most.

    >>> import torch
    >>> round(float(attention_entropy(torch.full((1, 1, 4), 0.25))), 6)
    1.386294
    """
    weights = weights.double()
    logs = weights.clamp_min(1e-300).log()
    return -(weights * logs).sum(-1).mean(-2)


def principal_components(
    states: Float[Tensor, "point d"], k: int = 2
) -> tuple[Float[Tensor, "point k"], Float[Tensor, "k"]]:
    """Coordinates of points on their first ``k`` principal components, and the variance shares.

    The sign of a component is fixed by making its largest loading positive.
    """
    import torch

    states = states.double()
    centred = states - states.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:k]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    total = float((sizes**2).sum()) or 1.0
    return centred @ (axes * signs).T, sizes[:k] ** 2 / total
