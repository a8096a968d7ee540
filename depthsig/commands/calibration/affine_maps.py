"""The affine readout of a prefix: h_k → A h_k + b, then the model's own norm and head.

A and b make small, over the calibration tokens, the mean NLL of the next token plus a ridge towards the
identity. Both are in standardised coordinates: A h + b = h + s(B x + c), x = (h − μ)/s, with μ and s the mean
and the standard deviation of every dimension of h_k; the ridge is λ/(2d)·(‖B‖² + ‖c‖²), so that λ/2 is what it
costs, in nats, to move every dimension by its own standard deviation. A held-out fifth of the prompts chooses λ, from
strong to weak as long as that helps, the identity being the strongest; with the λ that was chosen the map is then
fitted to all.

The loss is minimised by L-BFGS on all tokens. Its first guess of the inverse Hessian is K-FAC's (Martens & Grosse
1503.05671), the Kronecker product of the information about the mapped state, estimated from tokens that are drawn
from the predictions, and of the second moments of x, with the ridge in it: some ten steps are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from depthsig.commands.calibration.calibration_tokens import CalibrationTokens, FollowingLoss

STRENGTHS = (10000.0, 3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""λ, in nats, from strong to weak."""
WORTH, WORTH_TRYING, MOST_ITERATIONS = 1e-4, 2e-3, 30
"""Nats that a step must gain for another to follow, in the end and while λ is chosen; steps at most, for every λ."""
PATIENCE = 2
"""So many λ that do no better than the identity end the search; once one has helped, one that does not."""
KEPT = 8
"""Steps that L-BFGS remembers."""
DAMPING = 1e-2
"""Added to the information, as a share of its mean: few tokens tell nothing of most directions."""


@dataclass(frozen=True)
class AffineMap:
    """h + W h + b in float32, with λ as it was chosen; None: the identity, which no map did better than."""

    weight: Float[Tensor, "d d"]
    bias: Float[Tensor, "d"]
    ridge: float | None


Matrix = Float[Tensor, "d more"]
"""(B, c) side by side: width x (width + 1)."""


@dataclass
class Standard:
    """States in standardised coordinates, with a column of ones for c."""

    mean: Float[Tensor, "d"]
    scale: Float[Tensor, "d"]
    inputs: Float[Tensor, "token more"]
    basis: Matrix = field(init=False)
    moments: Float[Tensor, "more"] = field(init=False)

    def __post_init__(self) -> None:
        gram = (self.inputs.T @ self.inputs).double() / len(self.inputs)
        values, vectors = torch.linalg.eigh(gram)
        self.moments, self.basis = values.clamp_min(0).float(), vectors.float()

    @classmethod
    def of(cls, states: Float[Tensor, "token d"]) -> Standard:
        """The coordinates of these states; a dimension that never varies has the scale of the others."""
        states = states.float()
        mean, scale = states.mean(0), states.std(0, correction=0)
        floor = scale.mean().clamp_min(1e-6)
        scale = torch.where(scale > 1e-3 * floor, scale, floor)
        return cls(mean, scale, pad((states - mean) / scale, (0, 1), value=1.0))

    def moved(self, states: Float[Tensor, "token d"], matrix: Matrix, some: Bool[Tensor, "token"]) -> Tensor:
        """Some of the states as a map leaves them, in float32."""
        return states[some].float() + self.scale * (self.inputs[some] @ matrix.T)

    def folded(self, matrix: Matrix) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d"]]:
        """W and b of the same map on states as they are."""
        weight = self.scale.double()[:, None] * matrix[:, :-1].double() / self.scale.double()
        bias = self.scale.double() * matrix[:, -1].double() - weight @ self.mean.double()
        return weight.float(), bias.float()


def fit_affine(
    loss: FollowingLoss, tokens: CalibrationTokens, seed: int, tick: Callable[[float], None] = lambda amount: None
) -> AffineMap:
    """The map of one depth.

    Args:
        seed: of the tokens that are drawn. tick: told how many tokens were read out, there and back.
    """
    space, held = Standard.of(tokens.states), tokens.held
    fit = _Fit(loss, tokens, space, seed, tick)
    matrix = torch.zeros(len(space.mean), len(space.mean) + 1, device=tokens.states.device)
    best, ridge, chosen = loss.value(tokens.states[held], tokens.targets[held]), None, matrix
    worse = 0
    for strength in STRENGTHS:
        matrix = fit.minimised(matrix, strength, ~held, WORTH_TRYING)
        value = loss.value(space.moved(tokens.states, matrix, held), tokens.targets[held])
        if value < best:
            best, ridge, chosen, worse = value, strength, matrix, 0
            continue
        worse += 1
        if ridge is not None or worse == PATIENCE:
            break
    if ridge is not None:
        chosen = fit.minimised(chosen, ridge, torch.ones_like(held), WORTH)
    return AffineMap(*space.folded(chosen), ridge)


@dataclass
class _Fit:
    loss: FollowingLoss
    tokens: CalibrationTokens
    space: Standard
    seed: int
    tick: Callable[[float], None]

    def minimised(self, start: Matrix, strength: float, some: Bool[Tensor, "token"], worth: float) -> Matrix:
        """The map of one λ on some of the tokens."""
        ridge = strength / len(self.space.mean)
        targets, inputs = self.tokens.targets[some], self.space.inputs[some]
        generator = torch.Generator(start.device).manual_seed(self.seed)
        states = self.space.moved(self.tokens.states, start, some)
        value, pulled, drawn = self.loss.gradient(states, targets, generator)
        assert drawn is not None, "tokens were drawn"
        guess = _Guess.of(drawn * self.space.scale, self.space, ridge)
        memory = _Memory(guess)
        matrix, slope = start, self._slope(pulled, inputs, start, ridge)
        value += ridge / 2 * float(matrix.square().sum())
        self.tick(len(targets))
        for _ in range(MOST_ITERATIONS):
            towards = -memory.applied(slope)
            found = self._along(matrix, value, slope, towards, targets, some, ridge)
            if found is None:
                break
            new, lower, new_slope = found
            memory.keep(new - matrix, new_slope - slope)
            gained, matrix, value, slope = value - lower, new, lower, new_slope
            if gained < worth:
                break
        return matrix

    def _along(
        self, matrix: Matrix, value: float, slope: Matrix, towards: Matrix, targets: Int[Tensor, "_kept"],
        some: Bool[Tensor, "token"], ridge: float,
    ) -> tuple[Matrix, float, Matrix] | None:  # fmt: skip
        """The first point on a line, ever nearer, that is better by what the slope promises; None if none is."""
        promised, length = float((slope * towards).sum()), 1.0
        while promised < 0 and length > 1e-3:
            new = matrix + length * towards
            found, pulled, _ = self.loss.gradient(self.space.moved(self.tokens.states, new, some), targets)
            self.tick(len(targets))
            found += ridge / 2 * float(new.square().sum())
            if found <= value + 1e-4 * length * promised:
                return new, found, self._slope(pulled, self.space.inputs[some], new, ridge)
            length *= 0.3
        return None

    def _slope(
        self, pulled: Float[Tensor, "token d"], inputs: Float[Tensor, "token more"], matrix: Matrix, ridge: float
    ) -> Matrix:
        return (pulled * self.space.scale).T @ inputs / len(inputs) + ridge * matrix


@dataclass
class _Guess:
    """(F ⊗ C + λ/d)⁻¹ in the eigenvectors of the information F and the second moments C."""

    left: Float[Tensor, "d d"]
    right: Float[Tensor, "more more"]
    curvature: Matrix

    @classmethod
    def of(cls, drawn: Float[Tensor, "token d"], space: Standard, ridge: float) -> _Guess:
        information = (drawn.T @ drawn).double() / len(drawn)
        values, vectors = torch.linalg.eigh(information)
        values = values.clamp_min(0) + DAMPING * values.clamp_min(0).mean() + 1e-12
        return cls(vectors.float(), space.basis, values.float()[:, None] * space.moments + ridge)

    def applied(self, matrix: Matrix) -> Matrix:
        return self.left @ ((self.left.T @ matrix @ self.right) / self.curvature) @ self.right.T


class _Memory:
    """The two loops of L-BFGS (Nocedal & Wright, algorithm 7.4) around a guess of the inverse Hessian."""

    def __init__(self, guess: _Guess) -> None:
        self.guess = guess
        self.steps: list[tuple[Matrix, Matrix, float]] = []

    def keep(self, step: Matrix, change: Matrix) -> None:
        """Remember a step and what it changed of the slope, where the objective curves upwards along it."""
        product = float((step * change).sum())
        if product > 1e-12:
            self.steps = [*self.steps[-KEPT + 1 :], (step, change, product)]

    def applied(self, slope: Matrix) -> Matrix:
        """The inverse Hessian, as far as it is known, times a slope."""
        rest, shares = slope, []
        for step, change, product in reversed(self.steps):
            shares.append(float((step * rest).sum()) / product)
            rest = rest - shares[-1] * change
        found = self.guess.applied(rest)
        for (step, change, product), share in zip(self.steps, reversed(shares), strict=True):
            found = found + step * (share - float((change * found).sum()) / product)
        return found
