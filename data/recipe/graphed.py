"""A training run on a CUDA device: an optimizer's step is one replayed graph, so that runs share a card.

The arithmetic is :class:`~data.recipe.run.Run`'s: weights, residual stream and optimizer in float32, matrix products
in bfloat16. Attention is torch's fused one, and the matrices are rounded to bfloat16 once a step for all uses of
them. What is read back is read once, at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .corpus import OTHER_WEIGHT
from .model import Block, Llama, rotate
from .optim import Optimizer, orthogonalise
from .recipe import Recipe
from .run import Run

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
WARM = 3
"""Steps that run as they are before the first is captured: libraries and optimizer allocate in them what they keep."""


class GraphedOptimizer(Optimizer):
    """The same updates from tensors alone, so that a graph can hold them: the rate and the count stay on the device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        # Powers of it correct Adam's means; in float32 they would differ from Python's.
        self.steps = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def apply(self, model: nn.Module, gradients: Sequence[Tensor], scale: Tensor) -> None:
        """One update of every parameter, in the order of ``model.parameters()``, at ``scale`` times the full rate."""
        self.steps += 1
        matrices: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        others: list[tuple[Tensor, Tensor]] = []
        for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
            kind = matrices.setdefault(p.shape, []) if p.ndim == 2 and "embed" not in name else others
            kind.append((p, gradient))
        for group in matrices.values():
            self._muon_of(*map(list, zip(*group, strict=True)), scale)
        self._adam_of(*map(list, zip(*others, strict=True)), scale)

    def _muon_of(self, parameters: list[Tensor], gradients: list[Tensor], scale: Tensor) -> None:
        momenta = self._kept("m", parameters)
        torch._foreach_mul_(momenta, 0.95)
        torch._foreach_add_(momenta, gradients, alpha=0.05)
        rows, columns = parameters[0].shape
        updates = orthogonalise(torch.stack(gradients) * 0.05 + torch.stack(momenta) * 0.95)
        updates = updates * (max(1.0, rows / columns) ** 0.5 * self.lr * scale)
        torch._foreach_mul_(parameters, 1 - scale * self.lr * self.decay)
        torch._foreach_sub_(parameters, list(updates.unbind()))

    def _adam_of(self, parameters: list[Tensor], gradients: list[Tensor], scale: Tensor) -> None:
        means, squares = self._kept("m", parameters), self._kept("v", parameters)
        torch._foreach_lerp_(means, gradients, 0.1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 0.05)
        spread = torch._foreach_div(squares, (1 - 0.95**self.steps).float())
        torch._foreach_sqrt_(spread)
        torch._foreach_add_(spread, 1e-8)
        updates = torch._foreach_div(means, (1 - 0.9**self.steps).float())
        torch._foreach_div_(updates, spread)
        torch._foreach_mul_(updates, scale * self.adam_lr)
        torch._foreach_sub_(parameters, updates)

    def _kept(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        for p in parameters:
            self.state.setdefault(p, {})
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in parameters]


class GraphedRun(Run):
    """A run of a recipe on ``device``; on a CPU it does the same without graphs.

    What it saves, :class:`Run` resumes to export it. It is not put down in the middle: a run takes a minute.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: str = "cuda") -> None:
        super().__init__(recipe, folder)
        self.device = torch.device(device)
        self.model.to(self.device)
        self.optimizer: GraphedOptimizer = GraphedOptimizer(self.device)
        context = recipe.shape.context
        self._ids = torch.zeros(recipe.rows, context + 1, dtype=torch.long, device=self.device)
        self._weights = torch.ones(recipe.rows, context, device=self.device)
        self._scale = torch.zeros((), device=self.device)
        self._at = torch.zeros(1, dtype=torch.long, device=self.device)
        self._seen = torch.zeros(recipe.steps, 2, device=self.device)
        self._layers: list[int] = []
        self._eager = 0
        self._stream = torch.cuda.Stream(self.device) if self.on_card else None
        self._begin()

    @property
    def on_card(self) -> bool:
        """Whether there is a stream and a graph."""
        return self.device.type == "cuda"

    def take(self, ids: Tensor, answers: Tensor) -> None:
        """One step, after the growth that is due; nothing is waited for.

        Args:
            ids: the step's token ids [row, context + 1], on the device, where they stay as they are.
            answers: which of the predicted tokens are of answers [row, context].
        """
        for _ in range(self.recipe.growth.count(self.step)):
            self.settle()
            self.grow()
            self._begin()
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
            self._ids.copy_(ids)
            self._weights.copy_(answers).clamp_(min=OTHER_WEIGHT)
            self._scale.fill_(self.recipe.rate(self.step))
            self._work()
        self._layers.append(len(self.model.blocks))
        self.step += 1

    def save(self) -> None:
        """What :meth:`Run.save` writes, from the device."""
        self.settle()
        self.log = []
        for step, (loss, answers) in enumerate(self._seen[: self.step].tolist()):
            tokens = step * self.recipe.tokens_per_step
            row: dict[str, float] = {"step": step, "tokens": tokens, "layers": self._layers[step]}
            self.log.append({**row, "loss": loss, "answer_loss": answers})
        self.optimizer.count = self.step
        super().save()

    @property
    def last(self) -> float:
        """The latest step's loss on answers, in nats a token; waits for it."""
        self.settle()
        return float(self._seen[self.step - 1, 1])

    def settle(self) -> None:
        """Wait for all that was begun."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def _begin(self) -> None:
        """New weights: what was captured is of others."""
        self._graph: torch.cuda.CUDAGraph | None = None
        masters = [getattr(block, name) for block in self.model.blocks for name in MATRICES]
        self._masters: list[Tensor] = [*masters, self.model.embed]
        self._rounded = [p.detach().bfloat16().requires_grad_() for p in self._masters]
        self.settle()  # they are made on another stream than they are used on

    def _work(self) -> None:
        if not self.on_card or self._eager < WARM:
            self._update()
            self._eager += 1
            return
        if self._graph is None:
            self.settle()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._update()
        self._graph.replay()

    def _update(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._rounded, self._masters)
        losses = self._token_losses()
        weights = self._weights.flatten()
        loss = (losses * weights).sum() / weights.sum()
        gradients = self._gradients(loss)
        with torch.no_grad():
            answers = (weights == 1.0).float()
            row = torch.stack([loss, (losses * answers).sum() / answers.sum()])
            self._seen.index_copy_(0, self._at, row[None])
            self._at += 1
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            torch._foreach_mul_(gradients, (1 / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.apply(self.model, gradients, self._scale)

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        """Gradients of all parameters in float32, those of rounded matrices taken for the matrices'."""
        rounded = set(map(id, self._masters))
        parameters = list(self.model.parameters())
        exact = [p for p in parameters if id(p) not in rounded] + [self.model.embed]
        found = torch.autograd.grad(loss, [*exact, *self._rounded])
        total = {id(p): g for p, g in zip(exact, found[: len(exact)], strict=True)}
        for p, g in zip(self._masters, found[len(exact) :], strict=True):
            total[id(p)] = total[id(p)] + g.float() if id(p) in total else g.float()
        return [total[id(p)] for p in parameters]

    def _token_losses(self) -> Tensor:
        """Loss of every predicted token, flat."""
        ids, model = self._ids, self.model
        x = F.embedding(ids[:, :-1], model.embed)
        matrices = [self._rounded[i : i + len(MATRICES)] for i in range(0, len(self._rounded) - 1, len(MATRICES))]
        # The model's own shape counts the layers it has now.
        for layer in model.shape.order or range(len(model.blocks)):
            x = _through(model.blocks[layer], matrices[layer], x, model)  # type: ignore[arg-type]
        y = F.rms_norm(x, (x.shape[-1],), model.norm, model.shape.norm_eps)
        logits = F.linear(y.bfloat16(), self._rounded[-1])
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


def _through(block: Block, matrices: Sequence[Tensor], x: Tensor, model: Llama) -> Tensor:
    """:meth:`Block.forward` with rounded matrices and fused attention; the residual stream stays float32."""
    q, k, v, o, gate, up, down = matrices
    b, t, d = x.shape
    y = F.rms_norm(x, (d,), block.norm1, block.eps).bfloat16()
    heads = F.linear(y, torch.cat([q, k, v])).view(b, t, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    turned = rotate(heads[:2], model.cos[:t], model.sin[:t])  # type: ignore[index]
    y = F.scaled_dot_product_attention(turned[0], turned[1], heads[2], is_causal=True)
    x = x + F.linear(y.transpose(1, 2).reshape(b, t, d), o)
    y = F.rms_norm(x, (d,), block.norm2, block.eps).bfloat16()
    opened, shown = F.linear(y, torch.cat([gate, up])).chunk(2, dim=-1)
    return x + F.linear(F.silu(opened) * shown, down)
