"""Muon for the matrices, AdamW for embedding and norms.

Muon (Jordan et al. 2024): momentum, orthogonalised by five Newton-Schulz steps in bf16. Matrices
of one shape are orthogonalised together in one batched product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(updates: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of a batch [n, rows, cols], approximately."""
    x = updates.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if flip else x).float()


class Optimizer:
    """State per parameter, so that a layer can be copied with its state."""

    def __init__(self, lr: float = 0.02, decay: float = 0.05, adam_lr: float = 2e-3) -> None:
        self.lr, self.decay, self.adam_lr = lr, decay, adam_lr
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.count = 0

    def step(self, model: nn.Module, scale: float) -> None:
        """One update of every parameter with a gradient, at ``scale`` times the full rate."""
        self.count += 1
        matrices: dict[torch.Size, list[nn.Parameter]] = {}
        for name, p in model.named_parameters():
            if p.grad is None:
                continue
            if p.ndim == 2 and "embed" not in name:
                matrices.setdefault(p.shape, []).append(p)
            else:
                self._adam(p, scale)
        for shape, group in matrices.items():
            self._muon(shape, group, scale)

    @torch.no_grad()
    def _muon(self, shape: torch.Size, group: list[nn.Parameter], scale: float) -> None:
        for p in group:
            state = self.state.setdefault(p, {"m": torch.zeros_like(p)})
            state["m"].mul_(0.95).add_(p.grad, alpha=0.05)
        nesterov = torch.stack([p.grad * 0.05 + self.state[p]["m"] * 0.95 for p in group])
        updates = orthogonalise(nesterov) * max(1.0, shape[0] / shape[1]) ** 0.5
        for p, update in zip(group, updates, strict=True):
            p.mul_(1 - scale * self.lr * self.decay).add_(update, alpha=-scale * self.lr)

    @torch.no_grad()
    def _adam(self, p: nn.Parameter, scale: float) -> None:
        state = self.state.setdefault(p, {"m": torch.zeros_like(p), "v": torch.zeros_like(p), "t": torch.zeros(())})
        state["t"] += 1
        t = float(state["t"])
        state["m"].lerp_(p.grad, 0.1)
        state["v"].lerp_(p.grad * p.grad, 0.05)
        update = (state["m"] / (1 - 0.9**t)) / ((state["v"] / (1 - 0.95**t)).sqrt() + 1e-8)
        p.add_(update, alpha=-scale * self.adam_lr)

    def copy_state(self, source: nn.Module, target: nn.Module) -> None:
        """Give a copied layer the optimizer state of the one that it was copied from."""
        for p, q in zip(source.parameters(), target.parameters(), strict=True):
            if p in self.state:
                self.state[q] = {k: v.clone() for k, v in self.state[p].items()}

    def dump(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """State by parameter name, to save."""
        return {n: self.state[p] for n, p in model.named_parameters() if p in self.state}

    def restore(self, model: nn.Module, saved: dict[str, dict[str, Tensor]]) -> None:
        """Undo :meth:`dump`."""
        self.state = {p: saved[n] for n, p in model.named_parameters() if n in saved}
