"""Lenses: what the model would predict if it stopped at a depth.

The distribution q_d at depth d is read from the residual state h_d: by the model's own readout (final
norm, head, soft-cap and scale) as it is (``lens.*``), through the translator of a tuned lens
(``tuned.*``), transported to the end by a Jacobian lens (``jacobian.*``), or after what comes after the
loop (``coda.*``). p is the final distribution. At d = S the lens is the model itself, so every divergence
is 0 there. Position 0 is never measured.

A tuned lens reads h̃_d = h_d + W_d h_d + b_d; its translators are fitted so that KL(p‖q_d), which is
``tuned.kl_reverse``, is small (Belrose et al. 2303.08112). So it measures what a state already holds in
whatever basis, where the plain lens also measures how far that basis is from the final one.

A Jacobian lens reads J_d h_d, J_d the mean derivative of h_S by h_d (Gurnee et al. 2026): what the model is
disposed to say because of h_d, to first order. J_d h_d lives where h_S does, and is read as h_S is, norm and
all, also at depths where the plain lens leaves the norm out because it was applied already. Depths that the
lens has no matrix of (0, in published files) are empty. Of a lens whose target is the end of a pass, q_d is
what the model would say if the state at the end of d's pass were the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from depthsig.metrics import distributions as of
from depthsig.metrics.registry import metric
from depthsig.metrics.vectors import first_from_which

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from numpy import ndarray

_PLAIN = "nostalgebraist 2020; Csordás, Manning & Potts 2505.13898"
_BELROSE, _LU, _HU = "Belrose et al. 2303.08112", "Lu 2507.02199", "Hu et al. 2512.14064"
_GURNEE = "Gurnee et al. 2026"

_Quantity = tuple[str, Callable[..., Any], str, str, dict[str, Any]]

_QUANTITIES: tuple[_Quantity, ...] = (
    ("kl", of.kl_divergence, "KL(lens ‖ final)", "KL(q_d‖p)",
     {"unit": "nats", "fused": "kl", "limits": (0, None), "norm": "log", "drawn": (0.03, 30)}),
    ("kl_reverse", of.kl_reverse, "KL(final ‖ lens)", "KL(p‖q_d)",
     {"unit": "nats", "fused": "kl_reverse", "limits": (0, None), "norm": "log", "drawn": (0.03, 30)}),
    ("jsd", of.js_divergence, "JSD(lens, final)", "½KL(p‖m) + ½KL(q_d‖m), m = (p+q_d)/2",
     {"unit": "nats", "fused": "jsd", "limits": (0, math.log(2)), "norm": "log", "drawn": (1e-3, math.log(2))}),
    ("overlap5", of.topk_overlap, "top-5 overlap with final", "|top5(q_d) ∩ top5(p)| / 5",
     {"unit": "fraction", "fused": "overlap5", "worst": "min", "limits": (0, 1), "chance": "5/V"}),
    ("top1", of.top1_agreement, "top-1 agreement with final", "[argmax q_d = argmax p]",
     {"unit": "fraction", "fused": "top1", "worst": "min", "limits": (0, 1), "chance": "1/V"}),
    ("entropy", of.entropy, "lens entropy", "−Σ q_d ln q_d",
     {"unit": "nats", "fused": "entropy", "limits": (0, None), "drawn": (0, 12), "chance": "ln V"}),
    ("target_nll", of.target_nll, "lens loss", "−ln q_d(next token)",
     {"unit": "nats", "fused": "nll", "limits": (0, None), "drawn": (0, 16), "chance": "ln V"}),
    ("target_rank", of.target_rank, "rank of next token", "1 + number of tokens with a strictly larger logit",
     {"unit": "rank", "fused": "rank", "limits": (1, None), "log": True, "norm": "log", "drawn": (1, 1e5),
      "chance": "(V + 1)/2"}),
    ("target_log_rank", of.target_log_rank, "ln rank of next token", "ln(target_rank)",
     {"unit": "ln rank", "fused": "log_rank", "limits": (0, None), "drawn": (0, 12)}),
)  # fmt: skip
"""Name, function, label, formula and the rest of every profile that a lens has."""

_TOKENS: dict[str, Any] = {
    "kind": "token", "axis": "depth", "label": "top tokens", "unit": "probability", "fused": "top5", "worst": None,
    "formula": "the five likeliest tokens of q_d with their probabilities, first four prompts", "limits": (0, 1),
    "figure": "top_tokens",
}  # fmt: skip

for _name, _function, _label, _formula, _more in _QUANTITIES:
    metric(
        f"lens.{_name}", on="readout", axis="depth", label=_label, formula=_formula, source=_PLAIN,
        section="Logit lens", **_more,
    )(_function)  # fmt: skip
metric("lens.tokens", on="readout", source=_PLAIN, section="Logit lens", **_TOKENS)(of.top_tokens)


@metric(
    "settling_depth", on="readout", needs=("lens.jsd",), label="settling depth", unit="depth",
    formula="per position the first depth from which JSD(q_d, p)/ln 2 stays < 0.5, then the mean",
    source="Chen et al. 2602.13517", groups=("lens",), section="Logit lens", undefined="never reached",
)  # fmt: skip
def settling_depth(jsd: Real[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First depth from which JSD/ln 2 stays below 0.5 (Chen et al. 2602.13517).

    Args:
        jsd: Jensen-Shannon divergence in nats between the lens and the final distribution, for
            depths 0..S in the last axis.

    >>> settling_depth(np.log(2) * np.array([0.9, 0.4, 0.6, 0.2, 0.0])).item()
    3.0
    """
    jsd = np.asarray(jsd, dtype=float)
    settled = first_from_which(jsd / math.log(2) < 0.5)
    return np.where(np.isnan(jsd).any(-1), np.nan, settled)


@metric(
    "effective_depth.kl", needs=("lens.kl",), label="effective depth (KL)", unit="depth",
    formula="first depth from which lens.kl stays < half its maximum", source=_HU, groups=("lens",),
    section="Logit lens", worst=None, undefined="never reached",
)  # fmt: skip
def effective_depth_kl(profile: Real[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First depth from which lens.kl stays below half its maximum (Hu et al. 2512.14064).

    >>> effective_depth_kl(np.array([8.0, 10.0, 4.0, 6.0, 1.0, 0.0])).item()
    4.0
    """
    profile = np.asarray(profile, dtype=float)
    half = profile.max(-1, keepdims=True) / 2
    depth = first_from_which(profile < half)
    return np.where(np.isnan(profile).any(-1), np.nan, depth)


@metric(
    "effective_depth.overlap", needs=("lens.overlap5",), label="effective depth (overlap)", unit="depth",
    formula="first depth from which lens.overlap5 stays > 0.3", source=_HU, groups=("lens",), section="Logit lens",
    worst=None, undefined="never reached",
)  # fmt: skip
def effective_depth_overlap(profile: Real[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First depth from which lens.overlap5 stays above 0.3 (Hu et al. 2512.14064).

    A sustained crossing: shallow layers often hit 0.3 once by accident.

    >>> effective_depth_overlap(np.array([0.4, 0.1, 0.4, 1.0])).item()
    2.0
    """
    profile = np.asarray(profile, dtype=float)
    depth = first_from_which(profile > 0.3)
    return np.where(np.isnan(profile).any(-1), np.nan, depth)


_THROUGH = "; q_d through translator d"
for _name, _function, _label, _formula, _more in _QUANTITIES:
    metric(
        f"tuned.{_name}", on="tuned", axis="depth", label=f"tuned lens: {_label}", formula=_formula + _THROUGH,
        source=_BELROSE, section="Tuned lens", **_more,
    )(_function)  # fmt: skip
metric(
    "tuned.tokens", on="tuned", source=_BELROSE, section="Tuned lens",
    **{**_TOKENS, "label": "tuned lens: top tokens", "formula": _TOKENS["formula"] + _THROUGH},
)(of.top_tokens)  # fmt: skip

_TRANSPORTED = "; q_d read from J_d h_d"
for _name, _function, _label, _formula, _more in _QUANTITIES:
    metric(
        f"jacobian.{_name}", on="jacobian", axis="depth", label=f"Jacobian lens: {_label}",
        formula=_formula + _TRANSPORTED, source=_GURNEE, section="Jacobian lens", **_more,
    )(_function)  # fmt: skip
metric(
    "jacobian.tokens", on="jacobian", source=_GURNEE, section="Jacobian lens",
    **{**_TOKENS, "label": "Jacobian lens: top tokens", "formula": _TOKENS["formula"] + _TRANSPORTED},
)(of.top_tokens)  # fmt: skip

_CODA = ", c_d: h_d through what comes after the loop"
for _name, _label, _formula in (
    ("kl", "coda lens KL", "KL(c_d ‖ p)"),
    ("overlap5", "coda lens top-5 overlap", "|top5(c_d) ∩ top5(p)|/5"),
    ("top1", "coda lens top-1 agreement", "argmax c_d = argmax p"),
    ("entropy", "coda lens entropy", "H(c_d)"),
    ("target_nll", "coda lens NLL", "−ln c_d(next token)"),
    ("target_rank", "coda lens rank", "1 + number of strictly larger"),
):
    _, _function, _, _, _more = next(q for q in _QUANTITIES if q[0] == _name)
    metric(
        f"coda.{_name}", on="coda", axis="depth", label=_label, formula=_formula + _CODA, source=_LU,
        section="Coda lens", **_more,
    )(_function)  # fmt: skip
