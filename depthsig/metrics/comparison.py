"""Many distributions against one reference, without keeping any of them.

This is where the lens and the skip metrics spend their time: vocabulary-sized arithmetic that is
bound by memory, not by the head's matmul. The reference's sums are taken once; an alternative is
read in views of a few dozen rows that stay in cache, its maximum and top 5 found once, its
exponential taken in place, and everything else is a row dot product. The pure functions of
:mod:`depthsig.metrics.distributions` say what is computed; this says it fast, in float32, and
goes back to them where two distributions nearly agree and float32 would lose the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from depthsig.metrics import distributions as exact

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

QUANTITIES = frozenset(
    ("kl", "kl_reverse", "jsd", "overlap5", "top1", "entropy", "nll", "rank", "l2", "loss", "tokens", "probs")
)
"""What can be asked for: with p the reference and q the alternative, ``kl`` is KL(q‖p) and
``kl_reverse`` KL(p‖q); ``nll``, ``rank`` and ``loss`` (NLL of q − NLL of p) are of the targets;
``tokens`` and ``probs`` are the top 5 of q."""

VIEW_ROWS = 32
"""Rows reduced at a time: 32 rows of 50,000 words are 6 MB, which stay in a shared cache."""

TINY = 1e-37
"""Stands for probabilities that underflow."""

NEAR = 2e-3
"""Below this KL (nats) a row is computed again exactly: float32 sums are good to some 1e-6."""


@dataclass
class Reference:
    """The distributions ``p`` that others are compared with, and their sums.

    ``logits`` [row, vocab] is taken over: every row is shifted to a maximum of 0 in place, since
    some models' logits all lie near −100, where float32 sums would lose what is compared.
    ``targets`` [row] holds the next token's id, −1 where there is none.
    """

    logits: Float[Tensor, "row vocab"]
    targets: Int[Tensor, row]
    wanted: frozenset[str]
    probs: Float[Tensor, "row vocab"] | None = None
    logsum: Float[Tensor, row] = field(init=False)
    norm2: Float[Tensor, row] | None = field(init=False, default=None)
    top: Int[Tensor, "row 5"] | None = field(init=False, default=None)
    nll: Float[Tensor, row] = field(init=False)
    _scratch: dict[str, Tensor] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        import torch

        unknown = self.wanted - QUANTITIES
        if unknown:
            raise ValueError(f"unknown quantities {sorted(unknown)}; known: {sorted(QUANTITIES)}")
        needs_probs = bool(self.wanted & {"kl_reverse", "jsd", "l2"})
        if needs_probs and self.probs is None:
            self.probs = torch.empty_like(self.logits)
        rows = self.logits.shape[0]
        if "overlap5" in self.wanted:
            self.top = exact.top_ids(self.logits, _five(self.logits))
        elif "top1" in self.wanted:
            self.top = self.logits.argmax(-1, keepdim=True)
        self.logsum = self.logits.new_empty(rows, dtype=torch.float64)
        below = self.logits.new_empty(rows, dtype=torch.float64)
        norms = []
        for view in _views(rows):
            logits = self.logits[view]
            peak = logits.amax(-1, keepdim=True)
            below[view] = _below_peak(logits, self.targets[view], peak)
            logits -= peak
            weights = torch.exp(
                logits, out=self._space("delta", len(logits)) if self.probs is None else self.probs[view]
            )
            total = weights.sum(-1)
            self.logsum[view] = total.double().log()
            if self.probs is not None:
                # Never 0, so that the logarithm of p + q always exists.
                weights.mul_((1 / total)[:, None]).clamp_min_(TINY)
            if "l2" in self.wanted:
                norms.append(self._dot(weights, weights))
        if norms:
            self.norm2 = torch.cat(norms)
        self.nll = (self.logsum + below).masked_fill(self.targets < 0, float("nan"))

    def _space(self, name: str, rows: int) -> Float[Tensor, "row vocab"]:
        """Memory that is used again and again: fresh pages for every view would cost more than the arithmetic."""
        if name not in self._scratch:
            self._scratch[name] = self.logits.new_empty(min(VIEW_ROWS, len(self.logits)), self.logits.shape[-1])
        return self._scratch[name][:rows]

    def _dot(self, a: Float[Tensor, "row vocab"], b: Float[Tensor, "row vocab"]) -> Float[Tensor, row]:
        """Row dot products (faster than a batched matmul of single rows)."""
        import torch

        return torch.mul(a, b, out=self._space("product", len(a))).sum(-1)

    def compare(
        self, logits: Float[Tensor, "row vocab"], leave_out: frozenset[str] = frozenset()
    ) -> dict[str, Float[Tensor, "row ..."]]:
        """The wanted quantities of ``logits``, which are overwritten; those in ``leave_out`` are not."""
        import torch

        pieces: dict[str, list[Tensor]] = {}
        for view in _views(logits.shape[0]):
            for name, value in self._compare_view(logits[view], view, self.wanted - leave_out).items():
                pieces.setdefault(name, []).append(value)
        return {name: torch.cat(values) for name, values in pieces.items()}

    def _compare_view(
        self, logits: Float[Tensor, "row vocab"], view: slice, want: frozenset[str]
    ) -> dict[str, Tensor]:
        import torch

        out: dict[str, Tensor] = {}
        targets = self.targets[view]
        if want & {"overlap5", "tokens", "probs"}:
            top = exact.top_ids(logits, _five(logits))
            out |= self._top_quantities(top, view)
            values = logits.gather(-1, top)
            peak = values[:, :1]
        elif "top1" in want:
            # max(dim) gives the first of equal maxima: the lower id.
            peak, first = logits.max(-1, keepdim=True)
            out |= self._top_quantities(first, view)
        else:
            peak = logits.amax(-1, keepdim=True)
        if "rank" in want:
            at_target = logits.gather(-1, targets.clamp_min(0)[:, None])
            # Ones in float32, exact up to 2**24 words: twice as fast to write and sum as booleans.
            larger = torch.gt(logits, at_target, out=self._space("product", len(logits)))
            out["rank"] = (larger.sum(-1).double() + 1).masked_fill(targets < 0, float("nan"))
        below = _below_peak(logits, targets, peak)
        logits -= peak
        need_delta = bool(want & {"kl", "kl_reverse", "jsd", "entropy"})
        delta = None
        if need_delta:
            delta = torch.sub(logits, self.logits[view], out=self._space("delta", len(logits)))
        weights = torch.exp_(logits)
        total = weights.sum(-1)
        logsum = total.double().log()
        if want & {"nll", "loss"}:
            nll = (logsum + below).masked_fill(targets < 0, float("nan"))
            out["nll"], out["loss"] = nll, nll - self.nll[view]
        if "probs" in want:
            out["probs"] = (values - peak - logsum[:, None]).exp()
        if delta is not None:
            out |= self._divergences(weights, total, logsum, delta, view, want)
        if "l2" in want:
            out["l2"] = self._l2(weights, total, view)
        return {name: value for name, value in out.items() if name in want}

    def _top_quantities(self, top: Int[Tensor, "row 5"], view: slice) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {"tokens": top}
        if self.top is not None:
            out["overlap5"] = exact._overlap(self.top[view], top)
            out["top1"] = (self.top[view][:, 0] == top[:, 0]).double()
        return out

    def _divergences(
        self,
        weights: Float[Tensor, "row vocab"],
        total: Float[Tensor, row],
        logsum: Float[Tensor, row],
        delta: Float[Tensor, "row vocab"],
        view: slice,
        want: frozenset[str],
    ) -> dict[str, Tensor]:
        """KL both ways, JSD and entropy from q's weights and δ = logits_q − logits_p."""
        out: dict[str, Tensor] = {}
        gap = (logsum - self.logsum[view]).float()
        if want & {"kl", "jsd", "entropy"}:
            kl = self._dot(weights, delta) / total - gap
            out["kl"] = kl
        if "entropy" in want:
            # Σ q·logits_q = Σ q·δ + Σ q·logits_p: q's own logits are gone, overwritten in place.
            mean = self._dot(weights, self.logits[view]) / total + (kl + gap)
            out["entropy"] = logsum - mean
        if self.probs is not None and "kl_reverse" in want:
            mean_p = self._dot(self.probs[view], delta)
            out["kl_reverse"] = self._refined(gap - mean_p, self.probs[view], delta, mean_p)
        if "jsd" in want:
            # Before the logarithms, which take δ's memory.
            near = kl < NEAR
            exactly = self._exact_jsd(near, delta, view)
        if "kl" in want and bool((kl < NEAR).any()):
            out["kl"] = self._refined(kl, weights / total[:, None], -delta, -kl - gap)
        if "jsd" in want:
            out["jsd"] = self._jsd(weights, total, delta, kl, view).clamp_min(0.0).double()
            if exactly is not None:
                out["jsd"][near] = exactly
        return out

    def _refined(
        self,
        plain: Float[Tensor, row],
        probs: Float[Tensor, "row vocab"],
        gained: Float[Tensor, "row vocab"],
        mean: Float[Tensor, row],
    ) -> Float[Tensor, row]:
        """KL(p‖p') with ``gained`` = logits' − logits: where it is small, not from the plain sums.

        From centred differences of logits, whose first-order terms cancel exactly, float32 is
        good to 1e-8 there: log1p(Σ p·expm1(gained − Σ p·gained)).
        """
        import torch

        near = plain < NEAR
        if not bool(near.any()):
            return plain
        if not bool(near.all()):
            probs, gained, mean = probs[near], gained[near], mean[near]
        centred = torch.sub(gained, mean[:, None], out=self._space("centred", len(gained))).expm1_()
        better = self._dot(probs, centred).double().log1p().clamp_min(0.0)
        out = plain.double()
        # A word that gains more than float32 can hold is one that p gives no mass at all.
        out[near] = torch.where(better.isfinite(), better, out[near])
        return out

    def _exact_jsd(
        self, near: Bool[Tensor, row], delta: Float[Tensor, "row vocab"], view: slice
    ) -> Float[Tensor, row] | None:
        if not bool(near.any()):
            return None
        p = self.logits[view][near].double()
        return exact.js_divergence(p, p + delta[near].double())

    def _jsd(
        self,
        weights: Float[Tensor, "row vocab"],
        total: Float[Tensor, row],
        delta: Float[Tensor, "row vocab"],
        kl: Float[Tensor, row],
        view: slice,
    ) -> Float[Tensor, row]:
        """ln 2 − ½[Σ (p + q)·ln(1 + q/p) − KL(q‖p)], with ln(1 + q/p) = ln(p + q) − ln p."""
        import math

        import torch

        assert self.probs is not None
        both = torch.addcmul(self.probs[view], weights, (1 / total)[:, None], out=self._space("both", len(weights)))
        # The logarithms are subtracted word by word: their sums are two large numbers whose
        # difference float32 would lose. ln p lacks its constant, which Σ (p + q) = 2 brings back.
        ratio = torch.log(both, out=delta).sub_(self.logits[view])
        return math.log(2.0) - 0.5 * (self._dot(both, ratio) + 2 * self.logsum[view].float() - kl)

    def _l2(self, weights: Float[Tensor, "row vocab"], total: Float[Tensor, row], view: slice) -> Float[Tensor, row]:
        """‖p − q‖₂; the plain difference, since ‖p‖² − 2p·q + ‖q‖² cancels where p ≈ q."""
        import torch

        assert self.probs is not None
        weights *= (1 / total)[:, None]  # as p was made, so that equal logits are at distance 0
        weights.clamp_min_(TINY).sub_(self.probs[view])
        return torch.linalg.vector_norm(weights, dim=-1)


def compare_logits(
    reference: Float[Tensor, "row vocab"],
    other: Float[Tensor, "row vocab"],
    targets: Int[Tensor, row],
    wanted: Iterable[str],
) -> dict[str, Float[Tensor, "row ..."]]:
    """One comparison, leaving both inputs as they were.

    >>> import torch
    >>> a = torch.zeros(1, 6)
    >>> float(compare_logits(a, a, torch.tensor([2]), ["kl"])["kl"])
    0.0
    """
    held = Reference(reference.float().clone(), targets, frozenset(wanted))
    return held.compare(other.float().clone())


def _five(logits: Float[Tensor, "row vocab"]) -> int:
    return min(5, logits.shape[-1])


def _views(rows: int) -> list[slice]:
    return [slice(i, min(i + VIEW_ROWS, rows)) for i in range(0, rows, VIEW_ROWS)]


def _below_peak(
    logits: Float[Tensor, "row vocab"], targets: Int[Tensor, row], peak: Float[Tensor, "row 1"]
) -> Float[Tensor, row]:
    """How far the target's logit lies below the largest one."""
    return (peak.double() - logits.gather(-1, targets.clamp_min(0)[:, None]).double()).squeeze(-1)
