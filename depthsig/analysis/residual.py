"""Residual-stream and contribution metrics over a clean run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.tokens import Measured
from depthsig.engine.clean import CleanRun, update_of
from depthsig.engine.model import Model
from depthsig.metrics.contribution import EPSILON
from depthsig.metrics.residual import CKA_TOKENS, angular_distance, cka_matrix, cosine_matrix

CHUNK_BYTES = 24 << 20
"""Tokens are taken a few at a time, so that a chunk's states of all depths stay in cache."""


@dataclass
class ResidualObserver:
    """Accumulates ``residual.*`` and ``contribution.*`` from the states of a clean run."""

    model: Model
    wanted: frozenset[str]
    samples: Samples
    parts: bool
    pooled: dict[tuple[int, int], int] = field(default_factory=dict)
    _pool: Float[Tensor, "depth token d"] | None = None

    def observe(self, run: CleanRun, where: Measured) -> None:
        """Accumulate one batch."""
        width = run.inputs[0].shape[-1] * 8 * (len(run.inputs) + 1)
        for chunk in where.chunks(max(1, CHUNK_BYTES // width)):
            states = torch.stack([chunk.take(h) for h in run.states], dim=1)
            if self.wanted & _STATE_METRICS:
                self._states(states.double(), chunk)
            if self.wanted & _STEP_METRICS or self.wanted & _CONTRIBUTION_METRICS:
                self._steps(run, states.double(), chunk)
            if "residual.cka" in self.wanted:
                self._keep_pooled(states, chunk)

    def _add(self, name: str, values: Tensor, chunk: Measured, part: str = "") -> None:
        if name in self.wanted:
            self.samples.add(Key(name, part), values.double().cpu().numpy(), chunk.prompts)

    def _states(self, states: Float[Tensor, "token depth d"], chunk: Measured) -> None:
        if "residual.norm" in self.wanted:
            self._add("residual.norm", states.norm(dim=-1), chunk)
        if self.wanted & {"residual.angular", "residual.cosine"}:
            cosines = cosine_matrix(states)
            self._add("residual.cosine", cosines, chunk)
            if "residual.angular" in self.wanted:
                self._add("residual.angular", _by_distance(angular_distance(cosines)), chunk)

    def _steps(self, run: CleanRun, states: Float[Tensor, "token depth d"], chunk: Measured) -> None:
        before = states[:, :-1]
        if self.wanted & _STEP_METRICS:
            after = torch.stack([chunk.take(h) for h in run.outputs], dim=1).double()
            norms = before.norm(dim=-1) * after.norm(dim=-1)
            cosines = _safe_cosine((before * after).sum(-1), norms)
            self._add("residual.io_cosine", cosines, chunk)
            self._add("residual.block_influence", 1.0 - cosines, chunk)
        if not self.wanted & _CONTRIBUTION_METRICS:
            return
        for part, u, r in self._contributions(run, before, chunk):
            self._contribution(part, u, r, chunk)

    def _contributions(
        self, run: CleanRun, before: Float[Tensor, "token step d"], chunk: Measured
    ) -> list[tuple[str, Tensor, Tensor]]:
        """(part, u, r) with u and r [token, step, d]; NaN at steps whose parts are not known."""
        updates = torch.stack([chunk.take(update_of(run, s)) for s in range(len(run.inputs))], dim=1)
        found = [("layer", updates.double(), before)]
        if self.parts and any(a is not None for a in run.attn):
            attn = _stack(run.attn, chunk, before)
            mlp = _stack(run.mlp, chunk, before)
            layers = (self.model.anatomy.layers[step.layer] for step in self.model.plan)
            parallel = torch.tensor([layer.parallel for layer in layers], device=before.device)
            mid = torch.where(parallel[:, None], before, before + attn)
            found += [("attn", attn, before), ("mlp", mlp, mid)]
        return found

    def _contribution(self, part: str, u: Tensor, r: Tensor, chunk: Measured) -> None:
        u_norm, r_norm = u.norm(dim=-1), r.norm(dim=-1)
        self._add("contribution.norm", u_norm, chunk, part)
        self._add("contribution.relative", u_norm / r_norm.clamp_min(EPSILON), chunk, part)
        if "contribution.cosine" in self.wanted:
            cosines = _safe_cosine((u * r).sum(-1), u_norm * r_norm)
            self._add("contribution.cosine", cosines, chunk, part)
        if "contribution.cosine_matrix" in self.wanted:
            self._add("contribution.cosine_matrix", cosine_matrix(u), chunk, part)

    def _keep_pooled(self, states: Float[Tensor, "token depth d"], chunk: Measured) -> None:
        slots = [self.pooled.get((int(p), t), -1) for p, t in zip(chunk.prompts, chunk.positions.tolist(), strict=True)]
        chosen = [i for i, slot in enumerate(slots) if slot >= 0]
        if not chosen:
            return
        if self._pool is None:
            shape = (states.shape[1], len(self.pooled), states.shape[2])
            self._pool = torch.zeros(shape, dtype=torch.float32)
        self._pool[:, [slots[i] for i in chosen]] = states[chosen].float().cpu().transpose(0, 1)

    def cka(self) -> Float[np.ndarray, "depth depth"] | None:
        """Debiased linear CKA over the pooled tokens."""
        return None if self._pool is None else cka_matrix(self._pool).numpy()


_STATE_METRICS = frozenset({"residual.norm", "residual.angular", "residual.cosine"})
_STEP_METRICS = frozenset({"residual.io_cosine", "residual.block_influence"})
_CONTRIBUTION_METRICS = frozenset(
    {"contribution.norm", "contribution.relative", "contribution.cosine", "contribution.cosine_matrix"}
)


def pooled_slots(positions: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The first tokens, in prompt order, that CKA pools: (prompt, position) to their place."""
    return {where: slot for slot, where in enumerate(positions[:CKA_TOKENS])}


def _stack(tensors: list[Tensor | None], chunk: Measured, like: Tensor) -> Tensor:
    missing = torch.full_like(like[:, 0], float("nan"))
    return torch.stack([missing if t is None else chunk.take(t).double() for t in tensors], dim=1)


def _safe_cosine(dot: Tensor, norms: Tensor) -> Tensor:
    """Cosines clamped to [-1, 1]; 0 with a zero vector; NaN stays."""
    cosines = (dot / norms.clamp_min(1e-300)).clamp(-1.0, 1.0)
    return torch.where(norms == 0, torch.zeros_like(cosines), cosines)


def _by_distance(matrix: Float[Tensor, "token depth depth"]) -> Float[Tensor, "token depth n"]:
    """[d, d + n] as row d, column n (1-based in the table; NaN where d + n is beyond the end)."""
    size = matrix.shape[-1]
    out = torch.full_like(matrix, float("nan"))[..., : size - 1]
    for n in range(1, size):
        out[:, : size - n, n - 1] = matrix.diagonal(offset=n, dim1=-2, dim2=-1)
    return out[:, :-1]
