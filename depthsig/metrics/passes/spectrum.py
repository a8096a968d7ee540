"""How a pass of a loop stretches small differences: the spectral radius of its derivative, and the Lyapunov exponent.

F takes the states that enter a pass at a phase to those that enter the next pass there. Its derivative is only ever
met by what it makes of vectors, and transposed: one forward with its graph kept, then a backward pass a vector. A
matrix and its transpose have the same eigenvalues, and products of them the same Lyapunov exponents.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from depthsig.metrics.registry import F, metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Complex, Float
    from torch import Tensor

    Transposed = Callable[[Float[Tensor, "row n"]], Float[Tensor, "row n"]]

KRYLOV = 32
"""Krylov vectors at most, one backward pass each."""
_LOOK, _EVERY = 8, 4
"""After so many of them the eigenvalue is looked at for the first time, and then each time after so many."""
CONVERGED = 3e-4
"""Relative residual of an eigenvalue that is not followed any further."""
_NOTHING = 1e-5
"""What is left of a vector, beside what it was, that lies in the space that is spanned already, up to rounding."""

_SOURCE = "Arnoldi 1951"
_PASS: dict[str, Any] = {
    "rows": "iteration", "cols": "phase", "row_label": "iteration k", "section": "Loop dynamics", "default": False,
    "groups": ("loop",), "limits": (0, None), "norm": "log",
}  # fmt: skip


class Spectrum(NamedTuple):
    """The eigenvalue of the largest modulus, of every row's matrix.

    Attributes:
        radius: its modulus. residual: ‖Av − λv‖/|λ| of the eigenvector v of norm 1 that was found; 0 where it is exact.
        vector: that v, of the transposed matrix.
    """

    radius: Float[Tensor, "row"]
    residual: Float[Tensor, "row"]
    vector: Complex[Tensor, "row n"]


def _radius(id: str, on: str, label: str, of: str) -> Callable[[F], F]:
    return metric(
        id, on=on, label=label, formula=f"max |λ|, λ an eigenvalue of ∂F/∂x {of}, F one pass", source=_SOURCE,
        result="radius", drawn=(0.1, 10), **_PASS,
    )  # fmt: skip


def _residual(id: str, on: str, of: str) -> Callable[[F], F]:
    return metric(
        id, on=on, label=f"residual of {of}", formula="‖Av − λv‖/|λ|, v the eigenvector found, of norm 1",
        source=_SOURCE, result="residual", drawn=(1e-6, 1), **_PASS,
    )  # fmt: skip


@_radius("loop.spectral_radius", "pass.own", "spectral radius, a token's own state", "of a token to itself")
@_residual("loop.spectral_residual", "pass.own", "loop.spectral_radius")
@_radius("loop.spectral_radius_all", "pass.all", "spectral radius, all positions", "over all positions but the first")
@_residual("loop.spectral_residual_all", "pass.all", "loop.spectral_radius_all")
def spectral_radius(transposed: Transposed, probe: Float[Tensor, "row n"]) -> Spectrum:
    """The largest modulus of an eigenvalue by Arnoldi's method, at most :data:`KRYLOV` steps, fewer where it is found.

    The dominant eigenvalues of a pass are often a complex pair, with which the ratio of norms in a power iteration
    oscillates for ever; the Krylov space holds both.

    Args:
        transposed: every row's matrix, transposed, times a vector. probe: where the Krylov space begins, no row zero.

    >>> import torch
    >>> turn = 0.9 * torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    >>> round(float(spectral_radius(lambda v: v @ turn, torch.ones(1, 2)).radius), 6)
    0.9
    """
    import torch  # lazily: entries are read where torch is not installed

    rows, n = probe.shape
    most = min(KRYLOV, n)
    basis = [probe.float() / probe.float().norm(dim=-1, keepdim=True)]
    h = torch.zeros(rows, most + 1, most, dtype=torch.float64)
    found = Spectrum(
        torch.full((rows,), math.nan, dtype=torch.float64), torch.full((rows,), math.inf, dtype=torch.float64),
        torch.zeros(rows, n, dtype=torch.complex64, device=probe.device),
    )  # fmt: skip
    for j in range(most):
        w, column = transposed(basis[j]).float(), torch.zeros(rows, j + 1, device=probe.device)
        before = w.norm(dim=-1)
        for _ in range(2):  # once leaves what rounding made of it
            for i, q in enumerate(basis):
                along = (q * w).sum(-1)
                column[:, i] += along
                w = w - along[:, None] * q
        left = w.norm(dim=-1)
        left = torch.where(left > _NOTHING * before, left, 0.0)
        h[:, : j + 1, j], h[:, j + 1, j] = column.double().cpu(), left.double().cpu()
        basis.append(torch.where(left[:, None] > 0, w / left.clamp_min(1e-30)[:, None], 0.0))
        if j + 1 == most or (j + 1 >= _LOOK and (j + 1 - _LOOK) % _EVERY == 0):
            # A row that was found stays as it was: what it gives does not depend on the rows beside it.
            open_ = ~(found.residual <= CONVERGED)
            now = _largest(h[:, : j + 2, : j + 1], basis)
            found = Spectrum(
                torch.where(open_, now.radius, found.radius), torch.where(open_, now.residual, found.residual),
                torch.where(open_.to(probe.device)[:, None], now.vector, found.vector),
            )  # fmt: skip
            if bool((found.residual <= CONVERGED).all()):
                break
    return found


def _largest(h: Float[Tensor, "row m1 m"], basis: Sequence[Float[Tensor, "row n"]]) -> Spectrum:
    """The Ritz value of the largest modulus, its residual, and its vector in full."""
    import torch  # lazily: entries are read where torch is not installed

    lost = ~torch.isfinite(h).all(-1).all(-1)
    values, vectors = torch.linalg.eig(torch.where(lost[:, None, None], 0.0, h[:, :-1]))
    at = values.abs().argmax(-1)
    one = torch.arange(len(at))
    radius, y = values[one, at].abs(), vectors[one, :, at]
    residual = h[:, -1, -1] * y[:, -1].abs() / radius.clamp_min(1e-300)
    vector = torch.stack(list(basis[: h.shape[-1]]), 1)
    full = torch.einsum("rm,rmn->rn", y.to(vector.device, torch.complex64), vector.to(torch.complex64))
    nan = torch.where(lost, math.nan, 0.0)
    return Spectrum(radius + nan, residual + nan, full)


@metric(
    "loop.lyapunov", on="passes", label="largest Lyapunov exponent", unit="nats", section="Loop dynamics",
    formula="mean over passes of ln ‖Jᵀw‖/‖w‖, w carried from the last pass back to the first, all positions",
    source="Benettin et al. 1980", default=False, groups=("loop",),
    undefined="the derivative of a pass is 0, or no number",
)  # fmt: skip
def lyapunov(along: Sequence[Transposed], probe: Float[Tensor, "1 n"]) -> float:
    """The mean log growth of a vector that is carried through all passes, in nats a pass; NaN where nothing is left.

    It begins as the dominant eigenvector of the last pass, which a random one would first have to turn to, and goes
    from there back to the first: passes are few, and through transposed matrices the exponents are the same.

    Args:
        along: for every pass, the first one first, its derivative transposed, times vectors.
        probe: as of :func:`spectral_radius`.

    >>> import torch
    >>> round(lyapunov([lambda v: 2.0 * v, lambda v: 0.5 * v], torch.ones(1, 3)), 6) + 0.0
    0.0
    """
    import torch  # lazily: entries are read where torch is not installed

    start = spectral_radius(along[-1], probe).vector
    w = torch.stack([start.real, start.imag])
    total = 0.0
    for transposed in reversed(along):
        w = w / w.norm().clamp_min(1e-30)
        w = torch.stack([transposed(part) for part in w]).float()
        grown = float(w.norm())
        if not (grown > 0 and math.isfinite(grown)):
            return math.nan
        total += math.log(grown)
    return total / len(along)
