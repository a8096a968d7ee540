"""Fitting the translators of a tuned lens: one affine map a depth, KL to the final output.

The loss is KL(p‖q_d), averaged over tokens: the final distribution from the lens', as Belrose et
al. (2303.08112) and their code have it; it is ``tuned.kl_reverse``. So is the optimiser: SGD with
Nesterov momentum, its rate falling linearly to 0, weight decay towards the identity, the gradient
of each map clipped to norm 1. Two things differ, for the sake of few tokens and slow machines.
Maps act on standardised states (h̃ = h + s(A (h − μ)/r + c), r and s the standard deviations of
h_d and h_S), where one rate suits dimensions of any size. And training starts from the best of
the ridge regressions of h_S on h_d (Din et al. 2303.09435) and of the identity, since a regression
needs no vocabulary and costs less than one step; from there a rate of 0.3 does better than their
1. Whatever was best on the held-out tokens is kept, the identity among it: there the lens is never
worse than the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.translators import TunedLens
from depthsig.engine.batch import batches
from depthsig.engine.memory import CPU
from depthsig.engine.network import Network
from depthsig.measure.where import measured
from depthsig.metrics.comparison import Reference
from depthsig.prompts import TokenPrompt

STEP_TOKENS = 256
"""Tokens of a step of training."""

RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Penalties of the regressions, in units of a standardised dimension's variance."""

MOMENTUM = 0.9
EVALUATIONS = 8

States = Float[Tensor, "depth token d"]
Map = tuple[Float[Tensor, "d d"], Float[Tensor, "d"]]


def capture(model: Network, prompts: Sequence[TokenPrompt], max_tokens: int, batch_size: int | None) -> States:
    """The states h_0 .. h_S at every counted token of the prompts, in the model's dtype."""
    pieces = []
    ids = [p.ids for p in prompts]
    with torch.no_grad():
        for batch in batches(ids, model.device, max_tokens=max_tokens, batch_size=batch_size):
            run, where = model.clean(batch.ids), measured(batch, prompts)
            pieces.append(torch.stack([where.take(state) for state in run.states]))
    return torch.cat(pieces, dim=1)


class HeldOut:
    """KL(p‖q_d) on tokens that no map is fitted to."""

    def __init__(self, model: Network, states: States) -> None:
        self.model, self.states = model, states
        shape = (min(CPU.readout_rows, states.shape[1]), model.readout.vocab)
        self._final, self._probs, self._own = (torch.empty(shape, device=states.device) for _ in range(3))

    def kl(self, maps: dict[int, list[Map]]) -> dict[int, list[float]]:
        """Mean over tokens, in nats, of every map of every depth."""
        sums = {depth: [0.0] * len(candidates) for depth, candidates in maps.items()}
        count = self.states.shape[1]
        with undisturbed(self.model.module):
            for start in range(0, count, CPU.readout_rows):
                piece = self.states[:, start : start + CPU.readout_rows]
                rows = piece.shape[1]
                none = torch.full((rows,), -1, device=piece.device)
                final = self.model.readout.into(piece[-1], self._final)
                reference = Reference(final, none, frozenset({"kl_reverse"}), self._probs[:rows])
                for depth, candidates in maps.items():
                    for i, (weight, bias) in enumerate(candidates):
                        state = TunedLens((weight,), (bias,)).translate(piece[depth], 0)
                        logits = self.model.readout_at(depth).into(state, self._own)
                        sums[depth][i] += float(reference.compare(logits)["kl_reverse"].double().sum())
        return {depth: [value / count for value in values] for depth, values in sums.items()}


@dataclass
class Fit:
    """The best map of a depth so far.

    Attributes:
        plain, best: held-out KL of the plain lens, and with ``map``.
        kept: where the map comes from: ``identity``, ``ridge 0.1`` or ``step 40``.
    """

    plain: float
    best: float
    map: Map
    kept: str = "identity"

    def offer(self, value: float, found: Map, name: str) -> None:
        """Take a map if it is better."""
        if value < self.best:
            self.best, self.map, self.kept = value, found, name


@dataclass
class Standardised:
    """A map in standardised coordinates: h̃ = h + s(A (h − μ)/r + c), with A and c to be trained."""

    centre: Float[Tensor, "d"]
    scale: Float[Tensor, "d"]
    out: Float[Tensor, "d"]
    a: Float[Tensor, "d d"]
    c: Float[Tensor, "d"]

    @classmethod
    def of(cls, states: Float[Tensor, "token d"], final: Float[Tensor, "token d"]) -> Standardised:
        """The identity, in the coordinates of these states."""
        width = states.shape[-1]
        zero = states.new_zeros(width)
        return cls(states.mean(0), _spread(states), _spread(final), states.new_zeros(width, width), zero)

    def regressed(self, states: Float[Tensor, "token d"], final: Float[Tensor, "token d"]) -> list[Standardised]:
        """The ridge regressions of h_S − h_d on h_d, one a penalty."""
        inputs = ((states - self.centre) / self.scale).double()
        goal = ((final - states) / self.out).double()
        c = goal.mean(0)
        gram, cross = inputs.T @ inputs / len(inputs), inputs.T @ (goal - c) / len(inputs)
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved = [torch.linalg.solve(gram + penalty * eye, cross) for penalty in RIDGES]
        return [Standardised(self.centre, self.scale, self.out, x.T.float().contiguous(), c.float()) for x in solved]

    def translate(self, states: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """States as the map leaves them, in float32."""
        states = states.float()
        inputs = (states - self.centre) / self.scale
        return states + self.out * torch.nn.functional.linear(inputs, self.a, self.c)

    def folded(self) -> Map:
        """W and b of the same map: h + W h + b."""
        weight = (self.out[:, None] * self.a / self.scale).detach().double()
        bias = (self.out * self.c).detach().double() - weight @ self.centre.double()
        return weight.float(), bias.float()


def _spread(states: Float[Tensor, "token d"]) -> Float[Tensor, "d"]:
    """Standard deviations; a dimension that never varies is left at the scale of the others."""
    spread = states.std(0, correction=0)
    floor = spread.mean().clamp_min(1e-6)
    return torch.where(spread > 1e-3 * floor, spread, floor)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; ``seed`` draws the tokens of each step."""

    steps: int
    rate: float
    decay: float
    seed: int


@dataclass
class Trainer:
    """Trains all depths side by side, so that a batch's final distribution is computed once.

    Attributes:
        tick: told of every step that is done.
    """

    model: Network
    held_out: HeldOut
    schedule: Schedule
    tick: Callable[[float], None] = lambda amount: None
    fits: dict[int, Fit] = field(default_factory=dict)
    _maps: dict[int, Standardised] = field(default_factory=dict)

    def fit(self, pools: Sequence[Callable[[], States]]) -> dict[int, Fit]:
        """Fit a map to every depth 0..S−1; each pool of states is used for its share of the steps."""
        shares = [round(self.schedule.steps * i / len(pools)) for i in range(len(pools) + 1)]
        states: States | None = pools[0]()
        assert states is not None
        self._start(states)
        with self._optimiser() as step:
            for number, pool in enumerate(pools):
                if number:
                    states = None  # one pool at a time is in memory
                    states = pool()
                for k in range(shares[number], shares[number + 1]):
                    step(states, k)
        return self.fits

    def _start(self, states: States) -> None:
        """The plain lens, and the best of the regressions to start from."""
        final = states[-1].float()
        nothing = self._zero(states)
        plain = self.held_out.kl({depth: [nothing] for depth in range(len(states) - 1)})
        for depth, (value,) in plain.items():
            self.fits[depth] = Fit(value, value, nothing)
            own = states[depth].float()
            identity = Standardised.of(own, final)
            candidates = identity.regressed(own, final)
            values = self.held_out.kl({depth: [c.folded() for c in candidates]})[depth]
            best = min(range(len(values)), key=values.__getitem__)
            self.fits[depth].offer(values[best], candidates[best].folded(), f"ridge {RIDGES[best]:g}")
            self._maps[depth] = candidates[best] if values[best] < value else identity

    @staticmethod
    def _zero(states: States) -> Map:
        width = states.shape[-1]
        zero = torch.zeros(width, width, device=states.device)
        return zero, zero[0]

    @contextmanager
    def _optimiser(self) -> Iterator[Callable[[States, int], None]]:
        """Yields a function that does step k on states; parameters need no gradients afterwards."""
        parameters = [t.requires_grad_() for m in self._maps.values() for t in (m.a, m.c)]
        plan = self.schedule
        optimiser = torch.optim.SGD(
            parameters, lr=plan.rate * (1 - MOMENTUM), momentum=MOMENTUM, nesterov=True, weight_decay=plan.decay
        )
        falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / max(1, plan.steps))
        generator = torch.Generator().manual_seed(plan.seed)
        looks = {round(plan.steps * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}

        def step(states: States, k: int) -> None:
            rows = torch.randint(states.shape[1], (min(STEP_TOKENS, states.shape[1]),), generator=generator)
            self._gradients(states[:, rows.to(states.device)])
            optimiser.step()
            falling.step()
            if k + 1 in looks:
                self._look(k + 1)
            self.tick(1)

        try:
            yield step
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)

    def _gradients(self, states: States) -> None:
        """Gradients of the mean KL(p‖q_d): with z the lens' logits they begin as softmax(z) − p."""
        with undisturbed(self.model.module):
            p = self.model.readout(states[-1]).float().softmax(-1)
            for depth, own in self._maps.items():
                with torch.enable_grad():
                    moved = own.translate(states[depth]).to(states.dtype)
                    logits = self.model.readout_at(depth)(moved)
                towards = logits.detach().float().softmax(-1).sub_(p).to(logits.dtype)
                # Asked for by name: nothing is left in the .grad of the model's own parameters.
                sums = torch.autograd.grad(logits, (own.a, own.c), towards)
                # The mean is taken here: before, float16 would lose it.
                own.a.grad, own.c.grad = (g / len(p) for g in sums)
                clip_grad_norm_((own.a, own.c), 1.0)

    def _look(self, step: int) -> None:
        folded = {depth: own.folded() for depth, own in self._maps.items()}
        values = self.held_out.kl({depth: [found] for depth, found in folded.items()})
        for depth, (value,) in values.items():
            self.fits[depth].offer(value, folded[depth], f"step {step}")
