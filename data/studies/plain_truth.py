"""What verdicts are about, computed plainly: hooks and loops of PyTorch, nothing of depthsig.

Of a model of :func:`~data.studies.planting.token_wise` the rows are the whole vocabulary, and what comes out
is no estimate but the value that an endless number of random prompts would give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, log_softmax


@dataclass(frozen=True)
class Truth:
    """Of a model with S steps.

    Attributes:
        late_share: of ‖p − p'‖ with a step skipped, the share of the last third of steps.
        settling: the mean depth from which JSD to the final distribution stays below half of ln 2.
        effective: by KL, top-5 overlap and cosine; NaN where never reached.
        costs: what skipping each step costs in nats, of targets that are uniform over known tokens.
        attention_over_mlp: geometric mean over steps of how far attention moves the state, over MLPs.
    """

    late_share: float
    settling: float
    effective: tuple[float, float, float]
    costs: Float[ndarray, "step"]
    attention_over_mlp: float


@torch.no_grad()
def plain_truth(model: nn.Module, tokens: int) -> Truth:
    """Of a token-wise Llama, over all pairs of one of the first ``tokens`` tokens and a next one of them."""
    ids = torch.stack([torch.zeros(tokens, dtype=torch.long), torch.arange(tokens)], dim=1)
    seen = _Seen(model)
    logits = model(ids, use_cache=False).logits[:, 1].double()
    seen.close()
    steps = len(seen.states)
    p = log_softmax(logits, -1)
    lens = [log_softmax(model.lm_head(model.model.norm(h)).double(), -1) for h in seen.states] + [p]
    l2, costs = [], []
    for layer in model.model.layers:
        handle = layer.register_forward_hook(lambda _, args, out: args[0])
        edited = log_softmax(model(ids, use_cache=False).logits[:, 1].double(), -1)
        handle.remove()
        l2.append(float((edited.exp() - p.exp()).norm(dim=-1).mean()))
        costs.append(float((p[:, :tokens].mean(-1) - edited[:, :tokens].mean(-1)).mean()))
    weights = [min(1.0, max(0.0, s + 1 - 2 * steps / 3)) for s in range(steps)]
    share = sum(w * e for w, e in zip(weights, l2, strict=True)) / sum(l2) if sum(l2) else math.nan
    return Truth(share, _settling(lens), _effective(lens, seen), np.array(costs), seen.attention_over_mlp())


class _Seen:
    """States and what parts add, at position 1."""

    def __init__(self, model: nn.Module) -> None:
        self.states: list[Tensor] = []
        self.attn: list[Tensor] = []
        self.mlp: list[Tensor] = []
        self._handles = []
        for layer in model.model.layers:
            self._handles += [
                layer.register_forward_pre_hook(lambda _, args: self.states.append(args[0][:, 1])),
                layer.self_attn.register_forward_hook(lambda _, args, out: self.attn.append(out[0][:, 1])),
                layer.mlp.register_forward_hook(lambda _, args, out: self.mlp.append(out[:, 1])),
            ]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def attention_over_mlp(self) -> float:
        logs = []
        for h, a, m in zip(self.states, self.attn, self.mlp, strict=True):
            moved_a, moved_m = float((_norm(a) / _norm(h)).mean()), float((_norm(m) / _norm(h + a)).mean())
            logs.append(math.log(moved_a / moved_m) if moved_a and moved_m else math.nan)
        return math.exp(sum(logs) / len(logs))


def _norm(x: Tensor) -> Tensor:
    return x.double().norm(dim=-1)


def _first(holds: list[bool]) -> float:
    """From where a condition holds to the end."""
    last = max((i for i, one in enumerate(holds) if not one), default=-1)
    return math.nan if last == len(holds) - 1 else float(last + 1)


def _settling(lens: list[Tensor]) -> float:
    final = lens[-1]
    jsd = []
    for q in lens:
        mean = torch.logaddexp(q, final) - math.log(2)
        jsd.append(((final.exp() * (final - mean)).sum(-1) + (q.exp() * (q - mean)).sum(-1)) / 2 / math.log(2))
    below = torch.stack(jsd) < 0.5
    return float(np.mean([_first(below[:, row].tolist()) for row in range(below.shape[1])]))


def _effective(lens: list[Tensor], seen: _Seen) -> tuple[float, float, float]:
    final, top = lens[-1], [set(row.tolist()) for row in lens[-1].topk(5).indices]
    kl = [float((q.exp() * (q - final)).sum(-1).mean()) for q in lens]
    overlap = [
        np.mean([len(set(row.tolist()) & own) / 5 for row, own in zip(q.topk(5).indices, top, strict=True)])
        for q in lens
    ]
    cosines = []
    for h, a, m in zip(seen.states, seen.attn, seen.mlp, strict=True):
        parts = [(a + m, h), (a, h), (m, h + a)]
        cosines.append(np.mean([float(cosine_similarity(u.double(), r.double(), dim=-1).mean()) for u, r in parts]))
    return (
        _first([k < max(kl) / 2 for k in kl]), _first([bool(o > 0.3) for o in overlap]),
        _first([bool(c >= 0) for c in cosines]),
    )  # fmt: skip
