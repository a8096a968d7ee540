"""Lens and skip metrics in plain whole-tensor code on hooked full forwards: what depthsig is held against.

Nothing here is depthsig's. It is what a careful user writes without it: all prompts in one batch, one hooked
forward a skipped step, every quantity over the whole ``[prompt, position, vocab]`` at once, in float32, and
nothing read back from the device before the end. It is for transformers of Llama's modules (``model.layers``,
``model.norm``, ``lm_head``) and for prompts of equal length. Position 0 is never edited and never measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LENS = ("kl", "kl_reverse", "jsd", "overlap5", "top1", "entropy", "target_nll", "target_rank")
SKIP = ("output_l2", "kl", "loss", "top1")
PARTS = {"layer": "", "attn": "self_attn", "mlp": "mlp"}

Means = dict[str, list[float]]
"""For each metric the mean over all measured positions, at each depth or for each skipped step."""


class Compared:
    """What readouts are compared with: the model's own logits at the measured positions.

    Attributes:
        seen: the measured positions, from a first one to the last.
    """

    def __init__(self, logits: Tensor, ids: Tensor, first: int = 1) -> None:
        self.seen = slice(first, None)
        self.logits = logits[:, self.seen]
        self.logs = self.logits.float().log_softmax(-1)
        self.p = self.logs.exp()
        self.targets = ids[:, first + 1 :, None]  # the last position has none
        self.top5 = self.logits.topk(5).indices

    def nll(self, logs: Tensor) -> Tensor:
        """−ln of the next token's probability."""
        return -logs[:, :-1].gather(-1, self.targets).squeeze(-1)

    def lens(self, logits: Tensor, names: Sequence[str] = LENS) -> dict[str, Tensor]:
        """The named lens metrics of a readout at the measured positions, averaged."""
        logs = logits.float().log_softmax(-1)
        q = logs.exp()
        formulas: dict[str, Callable[[], Tensor]] = {
            "kl": lambda: (q * (logs - self.logs)).sum(-1),
            "kl_reverse": lambda: (self.p * (self.logs - logs)).sum(-1),
            "jsd": lambda: self._jsd(q, logs),
            "overlap5": lambda: (logits.topk(5).indices[..., None] == self.top5[..., None, :]).any(-1).float(),
            "top1": lambda: (logits.argmax(-1) == self.logits.argmax(-1)).float(),
            "entropy": lambda: -(q * logs).sum(-1),
            "target_nll": lambda: self.nll(logs),
            "target_rank": lambda: self._rank(logits),
        }
        return {name: formulas[name]().mean() for name in names}

    def skip(self, logits: Tensor) -> dict[str, Tensor]:
        """The skip metrics of an edited run's logits at the measured positions, averaged."""
        logs = logits.float().log_softmax(-1)
        return {
            "output_l2": (logs.exp() - self.p).norm(dim=-1).mean(),
            "kl": (self.p * (self.logs - logs)).sum(-1).mean(),
            "loss": (self.nll(logs) - self.nll(self.logs)).mean(),
            "top1": (logits.argmax(-1) == self.logits.argmax(-1)).float().mean(),
        }

    def _jsd(self, q: Tensor, logs: Tensor) -> Tensor:
        middle = ((q + self.p) / 2).log()
        return 0.5 * (self.p * (self.logs - middle) + q * (logs - middle)).nan_to_num().sum(-1)

    def _rank(self, logits: Tensor) -> Tensor:
        at_target = logits[:, :-1].gather(-1, self.targets)
        return (logits[:, :-1] > at_target).sum(-1).float() + 1


def listed(rows: Sequence[dict[str, Tensor]]) -> Means:
    """The numbers, read from the device all at once."""
    return {name: torch.stack([row[name] for row in rows]).tolist() for name in rows[0]}


@torch.no_grad()
def lens(module: nn.Module, ids: Tensor, names: Sequence[str] = LENS) -> Means:
    """Lens metrics at every depth, 0 to the number of layers: one hooked forward, and a readout a depth."""
    states: list[Tensor] = []
    layers = list(module.model.layers)
    with hooked([(layer, lambda args, out: states.append(args)) for layer in layers]):
        logits = module(ids, use_cache=False).logits
    final = Compared(logits, ids)
    rows = [final.lens(module.lm_head(module.model.norm(state[:, final.seen])), names) for state in states]
    return listed([*rows, final.lens(final.logits, names)])


@torch.no_grad()
def skip(
    module: nn.Module, ids: Tensor, *,
    steps: Sequence[int] | None = None, part: str = "layer", cut: int | None = None, effect: bool = True,
) -> Means:  # fmt: skip
    """Skip metrics of every layer's part (or of ``steps``): one hooked forward each, and the clean one.

    Args:
        cut: positions from 1 to before the cut are edited and those from it on measured; None: all both.
        effect: compare the updates of all later layers, too, as ``skip.effect`` does; they are not returned.
    """
    layers = list(module.model.layers)
    edited = slice(1, cut)
    before: list[Tensor] = []
    with hooked(_updates(layers, before) if effect else []):
        clean = Compared(module(ids, use_cache=False).logits, ids, cut or 1)
    rows = []
    for step in range(len(layers)) if steps is None else steps:
        after: list[Tensor] = []
        place = layers[step].get_submodule(PARTS[part])
        edit = [(place, _without(edited, is_layer=part == "layer"))]
        with hooked([*edit, *_updates(layers, after)] if effect else edit):
            logits = module(ids, use_cache=False).logits
        for one, other in zip(before[step + 1 :], after[step + 1 :], strict=True):
            relative_change(one[:, clean.seen], other[:, clean.seen]).mean()
        rows.append(clean.skip(logits[:, clean.seen]))
    return listed(rows)


def relative_change(one: Tensor, other: Tensor) -> Tensor:
    """‖other − one‖ over ‖one‖, for each position."""
    one, other = one.float(), other.float()
    return (other - one).norm(dim=-1) / one.norm(dim=-1).clamp_min(1e-6)


Hook = Callable[[Tensor, Any], Any]
"""``hook(what goes in, what comes out)``; what it returns, if a tensor, comes out instead."""


def _updates(layers: Sequence[nn.Module], into: list[Tensor]) -> list[tuple[nn.Module, Hook]]:
    return [(layer, lambda hidden, out: into.append(out - hidden)) for layer in layers]


def _without(edited: slice, is_layer: bool) -> Hook:
    """A layer gives what it got; attention or MLP gives nothing."""

    def edit(hidden: Tensor, out: Tensor) -> Tensor:
        out = out.clone()
        out[:, edited] = hidden[:, edited] if is_layer else 0
        return out

    return edit


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Hooks on modules, in their order, removed at the end; of a tuple that comes out, the first is the state."""

    def adapted(hook: Hook) -> Callable[..., Any]:
        def on_forward(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            whole = isinstance(output, Tensor)
            new = hook(args[0] if args else kwargs["hidden_states"], output if whole else output[0])
            return new if new is None or whole else (new, *output[1:])

        return on_forward

    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(adapted(hook), with_kwargs=True).remove)
        yield
