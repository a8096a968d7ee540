"""Many distributions against one reference, without keeping any of them.

This is where the lens and the skip metrics spend their time: vocabulary-sized arithmetic that is
bound by memory, not by the head's matmul. The reference's sums are taken once; an alternative is
read in views of a few dozen rows that stay in cache, its maximum and top 5 found once, its
exponential taken in place, and everything else is a row dot product. The pure functions of
:mod:`depthsig.metrics.distributions` say what is computed; this says it fast, in float32, and
goes back to them where two distributions nearly agree and float32 would lose the difference. An
entry names in ``fused`` the quantity that is its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from depthsig.metrics import distributions as exact
from depthsig.metrics.quantities import AT_THE_END, check_known

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped
    from torch import Tensor

VIEW_ROWS = 32
"""Rows reduced at a time: 32 rows of 50,000 words are 6 MB, which stay in a shared cache."""

TINY = 1e-37
"""Stands for probabilities that underflow."""

FLOOR = -80.0
"""Shifted logits below this are e⁻⁸⁰ of the largest word or less."""

NEAR = 2e-3
"""Below this KL (nats) a row is computed again exactly: float32 sums are good to some 1e-6."""

_EXACT = {
    "kl": exact.kl_divergence,
    "kl_reverse": exact.kl_reverse,
    "jsd": exact.js_divergence,
    "entropy": lambda logits, final: exact.entropy(logits),
}
"""The definitions of what is taken from dot products."""


@dataclass
class Reference:
    """The distributions ``p`` that others are compared with, and their sums.

    ``logits`` [row, vocab] is taken over: every row is shifted to a maximum of 0 in place, since
    some models' logits all lie near −100, where float32 sums would lose what is compared.
    ``targets`` [row] holds the next token's id, −1 where there is none.
    """

    logits: Float[Tensor, "row vocab"]
    targets: Int[Tensor, "row"]
    wanted: frozenset[str]
    probs: Float[Tensor, "row vocab"] | None = None
    logsum: Float[Tensor, "row"] = field(init=False)
    mean: Float[Tensor, "row"] = field(init=False)
    top: Int[Tensor, "row 5"] | None = field(init=False, default=None)
    nll: Float[Tensor, "row"] = field(init=False)
    _scratch: dict[str, Tensor] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        import torch  # lazily: entries are read where torch is not installed

        check_known(self.wanted)
        needs_probs = bool(self.wanted & {"kl_reverse", "jsd", "l2"})
        if needs_probs and self.probs is None:
            self.probs = torch.empty_like(self.logits)
        rows = self.logits.shape[0]
        if "overlap5" in self.wanted:
            self.top = exact.top_ids(self.logits, _five(self.logits))
        elif "top1" in self.wanted:
            self.top = exact.first_max(self.logits)[1]
        self.logsum = self.logits.new_empty(rows, dtype=torch.float64)
        below = self.logits.new_empty(rows, dtype=torch.float64)
        self.mean = self.logits.new_zeros(rows)
        for view in _views(rows):
            logits = self.logits[view]
            peak = logits.amax(-1, keepdim=True)
            below[view] = _below_peak(logits, self.targets[view], peak)
            logits -= peak
            weights = torch.exp(
                logits, out=self._space("weights", len(logits)) if self.probs is None else self.probs[view]
            )
            total = weights.sum(-1)
            self.logsum[view] = total.double().log()
            if self.probs is not None:
                # Never 0, so that the logarithm of p + q always exists.
                weights.mul_((1 / total)[:, None]).clamp_min_(TINY)
            if "kl_reverse" in self.wanted:
                self.mean[view] = self._dot(weights, logits)
        self.nll = (self.logsum + below).masked_fill(self.targets < 0, float("nan"))

    def _space(self, name: str, rows: int) -> Float[Tensor, "row vocab"]:
        """Memory that is used again and again: fresh pages for every view would cost more than the arithmetic."""
        if name not in self._scratch:
            self._scratch[name] = self.logits.new_empty(min(VIEW_ROWS, len(self.logits)), self.logits.shape[-1])
        return self._scratch[name][:rows]

    def _dot(self, a: Float[Tensor, "row vocab"], b: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
        """Row dot products (faster than a batched matmul of single rows)."""
        import torch  # lazily: entries are read where torch is not installed

        return torch.mul(a, b, out=self._space("product", len(a))).sum(-1)

    def compare(
        self, logits: Float[Tensor, "row vocab"], leave_out: frozenset[str] = frozenset()
    ) -> dict[str, Shaped[Tensor, "row ..."]]:
        """The wanted quantities of ``logits``, which are overwritten; those in ``leave_out`` are not."""
        import torch  # lazily: entries are read where torch is not installed

        pieces: dict[str, list[Tensor]] = {}
        for view in _views(logits.shape[0]):
            for name, value in self._compare_view(logits[view], view, self.wanted - leave_out).items():
                pieces.setdefault(name, []).append(value)
        return {name: torch.cat(values) for name, values in pieces.items()}

    def compare_itself(
        self, leave_out: frozenset[str], space: Float[Tensor, "row vocab"]
    ) -> dict[str, Shaped[Tensor, "row ..."]]:
        """The reference beside itself; what follows from that is not computed. ``space`` is overwritten."""
        return self.compare(space.copy_(self.logits), leave_out | frozenset(AT_THE_END))

    def _compare_view(self, logits: Float[Tensor, "row vocab"], view: slice, want: frozenset[str]) -> dict[str, Tensor]:
        import torch  # lazily: entries are read where torch is not installed

        out: dict[str, Tensor] = {}
        targets = self.targets[view]
        if want & {"overlap5", "tokens", "probs"}:
            top = exact.top_ids(logits, _five(logits))
            out |= self._top_quantities(top, view)
            values = logits.gather(-1, top)
            peak = values[:, :1]
        elif "top1" in want:
            peak, first = exact.first_max(logits)
            out |= self._top_quantities(first, view)
        else:
            peak = logits.amax(-1, keepdim=True)
        if want & {"rank", "log_rank"}:
            at_target = logits.gather(-1, targets.clamp_min(0)[:, None])
            # Ones in float32, exact up to 2**24 words: twice as fast to write and sum as booleans.
            larger = torch.gt(logits, at_target, out=self._space("product", len(logits)))
            out["rank"] = (larger.sum(-1).double() + 1).masked_fill(targets < 0, float("nan"))
            out["log_rank"] = out["rank"].log()
        below = _below_peak(logits, targets, peak)
        logits -= peak
        above = self._above_underflow(logits)
        weights = torch.exp(above, out=self._space("weights", len(logits)))
        total = weights.sum(-1)
        logsum = total.double().log()
        if want & {"nll", "loss"}:
            nll = (logsum + below).masked_fill(targets < 0, float("nan"))
            out["nll"], out["loss"] = nll, nll - self.nll[view]
        if "probs" in want:
            out["probs"] = (values - peak - logsum[:, None]).exp()
        if want & {"kl", "kl_reverse", "jsd", "entropy"}:
            floor = None if above is logits else logits.new_full((len(logits),), FLOOR)
            out |= self._divergences(logits, weights, total, logsum, floor, view, want)
        if "l2" in want:
            out["l2"] = self._l2(weights, total, view)
        self._beyond_sums(out, logits, view)
        return {name: value for name, value in out.items() if name in want}

    def _beyond_sums(self, out: dict[str, Tensor], logits: Float[Tensor, "row vocab"], view: slice) -> None:
        """Rows with words that are ruled out (−∞), of which no dot product is a number: as they are defined."""
        given = [name for name in _EXACT if name in out]
        if not given:
            return
        lost = ~sum(out[name].double() for name in given).isfinite()  # type: ignore[union-attr]
        if bool(lost.any()):
            for name in given:
                out[name] = out[name].double()
                out[name][lost] = _EXACT[name](logits[lost], self.logits[view][lost])

    def _above_underflow(self, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        """Shifted logits, cut off where their exponential is nothing, if a sample shows many there.

        Numbers that underflow cost a processor fifteen times as much: at depth 0 most words do.
        """
        import torch  # lazily: entries are read where torch is not installed

        if float(logits[:, ::257].amin()) > FLOOR:
            return logits
        return torch.clamp(logits, min=FLOOR, out=self._space("product", len(logits)))

    def _top_quantities(self, top: Int[Tensor, "row k"], view: slice) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {"tokens": top}
        if self.top is not None:
            out["overlap5"] = exact.overlap(self.top[view], top)
            out["top1"] = (self.top[view][:, 0] == top[:, 0]).double()
        return out

    def _divergences(
        self,
        logits: Float[Tensor, "row vocab"],
        weights: Float[Tensor, "row vocab"],
        total: Float[Tensor, "row"],
        logsum: Float[Tensor, "row"],
        floor: Float[Tensor, "row"] | None,
        view: slice,
        want: frozenset[str],
    ) -> dict[str, Tensor]:
        """KL both ways, JSD and entropy, from dot products; again and exactly where they are small."""
        out: dict[str, Tensor] = {}
        gap = (logsum - self.logsum[view]).float()
        if want & {"kl", "jsd", "entropy"}:
            own = self._dot(weights, logits) / total
            kl = own - self._dot(weights, self.logits[view]) / total - gap
            if "kl" in want:
                out["kl"] = self._refined(kl, self.logits[view], logits, weights, floor, total)
            if "entropy" in want:
                out["entropy"] = logsum - own
            if "jsd" in want:
                out["jsd"] = self._jsd(weights, total, kl, view).clamp_min(0.0).double()
                near = kl < NEAR
                if bool(near.any()):
                    out["jsd"][near] = exact.js_divergence(self.logits[view][near], logits[near])
        if self.probs is not None and "kl_reverse" in want:
            reverse = gap - (self._dot(self.probs[view], logits) - self.mean[view])
            floor = math.log(TINY) + self.logsum[view].float()
            out["kl_reverse"] = self._refined(reverse, logits, self.logits[view], self.probs[view], floor)
        return out

    def _refined(
        self,
        plain: Float[Tensor, "row"],
        other: Float[Tensor, "row vocab"],
        own: Float[Tensor, "row vocab"],
        probs: Float[Tensor, "row vocab"],
        floor: Float[Tensor, "row"] | None,
        total: Float[Tensor, "row"] | None = None,
    ) -> Float[Tensor, "row"]:
        """KL(own‖other) where it is small, from centred differences of logits.

        Their first-order terms cancel exactly, so that float32 is good to 1e-8 there; the plain
        dot products are not. log1p(Σ p·expm1(gained − Σ p·gained)), gained = other − own.

        Args:
            probs: of ``own``, times ``total`` where that is given.
            floor: the logits that their least values stand for, where they were cut off.
        """
        import torch  # lazily: entries are read where torch is not installed

        near = plain < NEAR
        if not bool(near.any()):
            return plain
        if not bool(near.all()):
            own, other, probs = own[near], other[near], probs[near]
            floor, total = (None if one is None else one[near] for one in (floor, total))
        probs = probs if total is None else probs / total[:, None]
        gained = self._space("gained", len(own))
        # As cut off as their probabilities: a word that `own` all but excludes counts with what `other` gives it.
        base = own if floor is None else torch.maximum(own, floor[:, None], out=gained)
        torch.sub(other, base, out=gained)
        gained.sub_(self._dot(probs, gained)[:, None]).expm1_()
        better = self._dot(probs, gained).double().log1p().clamp_min(0.0)
        beyond = ~better.isfinite()
        if bool(beyond.any()):  # a word that gains more than float32 can hold
            better[beyond] = exact.kl_divergence(own[beyond], other[beyond])
        out = plain.double()
        out[near] = better
        return out

    def _jsd(
        self, weights: Float[Tensor, "row vocab"], total: Float[Tensor, "row"], kl: Float[Tensor, "row"], view: slice
    ) -> Float[Tensor, "row"]:
        """ln 2 − ½[Σ (p + q)·ln(1 + q/p) − KL(q‖p)], with ln(1 + q/p) = ln(p + q) − ln p."""
        import torch  # lazily: entries are read where torch is not installed

        assert self.probs is not None
        both = torch.addcmul(self.probs[view], weights, (1 / total)[:, None], out=self._space("both", len(weights)))
        # The logarithms are subtracted word by word: their sums are two large numbers whose
        # difference float32 would lose. ln p lacks its constant, which Σ (p + q) = 2 brings back.
        ratio = torch.log(both, out=self._space("ratio", len(both))).sub_(self.logits[view])
        return math.log(2.0) - 0.5 * (self._dot(both, ratio) + 2 * self.logsum[view].float() - kl)

    def _l2(
        self, weights: Float[Tensor, "row vocab"], total: Float[Tensor, "row"], view: slice
    ) -> Float[Tensor, "row"]:
        """‖p − q‖₂; the plain difference, since ‖p‖² − 2p·q + ‖q‖² cancels where p ≈ q."""
        import torch  # lazily: entries are read where torch is not installed

        assert self.probs is not None
        weights *= (1 / total)[:, None]  # as p was made, so that equal logits are at distance 0
        weights -= self.probs[view]  # p is at least TINY, whose square is nothing
        return torch.linalg.vector_norm(weights, dim=-1)


def compare_logits(
    reference: Float[Tensor, "row vocab"],
    other: Float[Tensor, "row vocab"],
    targets: Int[Tensor, "row"],
    wanted: Iterable[str],
) -> dict[str, Shaped[Tensor, "row ..."]]:
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
    logits: Float[Tensor, "row vocab"], targets: Int[Tensor, "row"], peak: Float[Tensor, "row 1"]
) -> Float[Tensor, "row"]:
    """How far the target's logit lies below the largest one."""
    return (peak.double() - logits.gather(-1, targets.clamp_min(0)[:, None]).double()).squeeze(-1)
