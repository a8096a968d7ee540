"""Tuned lens: the logit lens through one affine translator a depth.

With h̃_d = h_d + W_d h_d + b_d, the tuned lens distribution q_d is the model's own readout (final
norm, head, soft-cap and scale) of h̃_d, and every metric is that of the logit lens
(:mod:`depthsig.metrics.lens`) under the same name. The translators are fitted so that KL(p‖q_d),
which is ``tuned.kl_reverse``, is small (Belrose et al. 2303.08112), so they measure what a state
already holds in whatever basis, where the plain lens also measures how far that basis is from the
final one. At d = S the lens is the model itself; translators that are 0 give the plain lens.
"""

from __future__ import annotations

from dataclasses import replace

from depthsig.metrics import lens

_SOURCE = "Belrose et al. 2303.08112"

METRICS = tuple(
    replace(
        entry, id=entry.id.replace("lens.", "tuned."), groups=("tuned",), label=f"tuned lens: {entry.label}",
        formula=f"{entry.formula}; q_d through translator d", source=_SOURCE,
    )
    for entry in lens.METRICS
    if entry.id.startswith("lens.")
)  # fmt: skip

NEEDS: dict[str, str] = {name.replace("lens.", "tuned."): quantity for name, quantity in lens.NEEDS.items()}
"""Which quantity of :mod:`depthsig.metrics.comparison` each profile is made of."""
