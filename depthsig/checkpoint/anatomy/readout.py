"""From a residual state to logits: final norm, head, soft-cap and scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from depthsig.checkpoint.hooks import first_tensor


@dataclass(frozen=True)
class Readout:
    """The model's own way from the last residual state to its logits.

    Attributes:
        norms: the modules between the last step and the head, in order (a final norm; for
            OPT-350m a projection; empty for models without any).
        head: the unembedding.
        transform: what is done to the head's output (soft-cap, scale); None for nothing.
        names: how a certificate's message names them.
        vocab: length of a logit vector, as it was seen: heads need not have a weight that tells.
    """

    norms: tuple[nn.Module, ...] = field(repr=False)
    head: nn.Module = field(repr=False)
    transform: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    vocab: int = 0

    def normed(self, hidden: Tensor) -> Tensor:
        """``hidden`` [..., d] as the head takes it."""
        for norm in self.norms:
            hidden = norm(hidden)
        return hidden

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab] of residual states [..., d], in the model's dtype."""
        logits = first_tensor(self.head(self.normed(hidden)))
        assert logits is not None, "a head that was seen to give logits gives none"
        return logits if self.transform is None else self.transform(logits)

    def into(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Float32 logits of ``hidden`` [row, d], written into ``out`` [>= row, vocab].

        A matmul into a preallocated buffer costs no page faults: on a CPU that is a quarter of
        the time of a head of 50,000 words.
        """
        rows = hidden.shape[0]
        view = out[:rows]
        if not self._plain_linear(hidden.dtype):
            return view.copy_(self(hidden))
        head = self.head
        assert isinstance(head, nn.Linear)
        torch.mm(self.normed(hidden), head.weight.t(), out=view)
        if head.bias is not None:
            view += head.bias
        return view if self.transform is None else self.transform(view)

    def _plain_linear(self, dtype: torch.dtype) -> bool:
        head = self.head
        hooks = head._forward_hooks or head._forward_pre_hooks or "forward" in head.__dict__
        return type(head) is nn.Linear and dtype == torch.float32 == head.weight.dtype and not hooks
