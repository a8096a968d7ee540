"""Token gain: what one more pass of a loop does to each token's loss, and what exits between passes would cost.

Pass k is left by running its state through what comes after the loop (coda, norm and head), for all
tokens together: the output of the model itself with k+1 passes, wherever its passes do not depend on how
many there are. ``losses`` [pass, token] are the losses of the next token then, k = 0 .. R−1. The oracle exit
chooses a token's pass by the loss of that very token: hindsight, and a bound that no rule can reach that
must decide beforehand. The other exits see only what the model knows when it stops: a gate of its own, how
sure it is, or how little its output has moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthsig.metrics.registry import metric
from depthsig.metrics.rules import CONFIDENT, GAIN_BAND, SETTLED

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_OWN = "depthsig"
_ORACLE, _OURO = "depthsig (a bound in hindsight)", "Ouro 2510.25741, its modelling code"
_CALM, _GEIPING = "after CALM 2207.07061 (there also: lead over the second)", "Geiping et al. 2502.05171, its code"
_GAIN: dict[str, Any] = {
    "on": "exits", "level": "stack", "section": "Token gain", "undefined": "no measured token has a next one",
}  # fmt: skip
_SHARE: dict[str, Any] = {"unit": "fraction", "limits": (0, 1), "worst": None, **_GAIN}
_EXIT: dict[str, Any] = {"unit": "pass", "limits": (0, None), "worst": None, **_GAIN}
_LOSS: dict[str, Any] = {"unit": "nats", "limits": (0, None), **_GAIN}
_GATELESS = {"undefined": "no exit gate"}


@metric(
    "gain.change", kind="token", axis="iteration", label="change of loss by one more pass", unit="nats",
    formula="loss after pass k+1 − loss after pass k (index k; below 0: better), first four prompts", source=_OWN,
    centre=0.0, norm="symlog", drawn=(-30, 30), worst=None, figure="token_map", **_GAIN,
)  # fmt: skip
def pass_changes(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "pass *token"]:
    """Loss after pass k+1 minus loss after pass k, in nats: below 0 where one more pass is better.

    NaN in the last row, which no pass follows.

    >>> import torch
    >>> pass_changes(torch.tensor([3.0, 1.0, 1.5])).tolist()
    [-2.0, 0.5, nan]
    """
    import torch  # lazily: entries are read where torch is not installed

    return torch.cat([losses[1:] - losses[:-1], torch.full_like(losses[:1], float("nan"))])


@metric(
    "gain.between", rows="iteration", cols="iteration", row_label="pass k", col_label="later pass k'", domain="later",
    label="change of loss from pass k to k'", unit="nats", formula="loss after pass k' − loss after pass k, k' > k",
    source=_OWN, centre=0.0, norm="symlog", drawn=(-30, 30), worst=None, **_GAIN,
)  # fmt: skip
def changes_between(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "pass pass *token"]:
    """Loss after pass k' (columns) minus loss after pass k (rows), in nats.

    >>> import torch
    >>> changes_between(torch.tensor([3.0, 1.0])).tolist()
    [[0.0, -2.0], [2.0, 0.0]]
    """
    return losses[None] - losses[:, None]


@metric(
    "gain.better", label="passes that make a token better", source=_OWN,
    formula=f"share of tokens and passes after the first with gain.change < −{GAIN_BAND} nats", **_SHARE,
)  # fmt: skip
def share_better(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """Of the passes after the first, the share that lowers a token's loss by more than the band."""
    return (pass_changes(losses)[:-1] < -GAIN_BAND).double().mean(0)


@metric(
    "gain.same", label="passes that leave a token the same", source=_OWN,
    formula=f"share of tokens and passes after the first with |gain.change| ≤ {GAIN_BAND} nats", **_SHARE,
)  # fmt: skip
def share_same(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """Of the passes after the first, the share that moves a token's loss by no more than the band."""
    return (pass_changes(losses)[:-1].abs() <= GAIN_BAND).double().mean(0)


@metric(
    "gain.worse", label="passes that make a token worse", source=_OWN,
    formula=f"share of tokens and passes after the first with gain.change > {GAIN_BAND} nats", **_SHARE,
)  # fmt: skip
def share_worse(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """Of the passes after the first, the share that raises a token's loss by more than the band.

    >>> import torch
    >>> losses = torch.tensor([3.0, 1.0, 1.5, 1.505])
    >>> [round(float(share(losses)), 3) for share in (share_better, share_same, share_worse)]
    [0.333, 0.333, 0.333]
    """
    return (pass_changes(losses)[:-1] > GAIN_BAND).double().mean(0)


@metric(
    "gain.last_pass.loss", label="loss after the last pass", formula="the loss of the whole model, at the same tokens",
    source=_OWN, **_LOSS,
)  # fmt: skip
def last_pass_loss(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """The loss of all passes, which every exit stands beside."""
    return losses[-1]


@metric(
    "gain.oracle_exit", label="oracle exit", formula="the pass with a token's least loss, the first of equals",
    source=_ORACLE, **_EXIT,
)  # fmt: skip
def oracle_exit(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """The pass with the least loss, the first of equals: by hindsight, as no rule could choose.

    >>> import torch
    >>> float(oracle_exit(torch.tensor([3.0, 1.0, 1.0])))
    1.0
    """
    return _first(losses == losses.amin(0)).double()


@metric(
    "gain.oracle_exit.loss", label="loss of the oracle exit", formula="min over k of the loss after pass k",
    source=_ORACLE, **_LOSS,
)  # fmt: skip
def oracle_exit_loss(losses: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """The least loss of any pass: a bound."""
    return losses.amin(0)


@metric(
    "gain.exit_gate", label="exit by the model's gate", source=_OURO,
    formula="the first pass at which the exit probabilities add up to the config's early_exit_threshold, else the last",
    **{**_EXIT, **_GATELESS},
)  # fmt: skip
def gate_exit(exit_cdf: Float[Tensor, "pass *token"], exit_threshold: float) -> Float[Tensor, "*token"]:
    """First pass with ``exit_cdf`` ≥ ``exit_threshold``, else the last; NaN where there is no gate.

    Args:
        exit_cdf: the probability that a token has left by the end of pass k, as the model's gate has it.

    >>> import torch
    >>> gate_exit(torch.tensor([[0.2, 0.1], [0.7, 0.4], [1.0, 1.0]]), 0.5).tolist()
    [1.0, 2.0]
    """
    exits = _first(exit_cdf >= exit_threshold).double()
    return exits.masked_fill(exit_cdf.isnan().any(0), float("nan"))


@metric(
    "gain.exit_gate.loss", label="loss of the exit by the gate", formula="the loss after the pass gain.exit_gate",
    source=_OURO, **{**_LOSS, **_GATELESS},
)  # fmt: skip
def gate_exit_loss(
    losses: Float[Tensor, "pass *token"], exit_cdf: Float[Tensor, "pass *token"], exit_threshold: float
) -> Float[Tensor, "*token"]:
    """The loss after the pass that :func:`gate_exit` chooses."""
    return loss_at(losses, gate_exit(exit_cdf, exit_threshold))


@metric(
    "gain.exit_confidence", label="exit when confident", source=_CALM,
    formula=f"the first pass whose likeliest token has a probability of {CONFIDENT} or more, else the last", **_EXIT,
)  # fmt: skip
def confidence_exit(confidences: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """First pass whose largest probability reaches the threshold, else the last.

    >>> import torch
    >>> confidence_exit(torch.tensor([[0.5, 0.95], [0.6, 0.2], [0.99, 0.3]])).tolist()
    [2.0, 0.0]
    """
    return _first(confidences >= CONFIDENT).double()


@metric(
    "gain.exit_confidence.loss", label="loss of the exit when confident",
    formula="the loss after the pass gain.exit_confidence", source=_CALM, **_LOSS,
)  # fmt: skip
def confidence_exit_loss(
    losses: Float[Tensor, "pass *token"], confidences: Float[Tensor, "pass *token"]
) -> Float[Tensor, "*token"]:
    """The loss after the pass that :func:`confidence_exit` chooses."""
    return loss_at(losses, confidence_exit(confidences))


@metric(
    "gain.exit_settling", label="exit when settled", source=_GEIPING,
    formula=f"the first pass k ≥ 1 with KL(p^{{k−1}} ‖ p^k) < {SETTLED} nats between outputs, else the last", **_EXIT,
)  # fmt: skip
def settling_exit(output_kls: Float[Tensor, "pass *token"]) -> Float[Tensor, "*token"]:
    """First pass whose output has moved less than the threshold from the one before, else the last.

    Args:
        output_kls: KL(p^{k−1} ‖ p^k) in nats; NaN at the first pass, which has none before it.

    >>> import torch
    >>> settling_exit(torch.tensor([[float("nan")] * 2, [1e-4, 0.1], [1e-5, 0.2]])).tolist()
    [1.0, 2.0]
    """
    return _first(output_kls < SETTLED).double()


@metric(
    "gain.exit_settling.loss", label="loss of the exit when settled",
    formula="the loss after the pass gain.exit_settling", source=_GEIPING, **_LOSS,
)  # fmt: skip
def settling_exit_loss(
    losses: Float[Tensor, "pass *token"], output_kls: Float[Tensor, "pass *token"]
) -> Float[Tensor, "*token"]:
    """The loss after the pass that :func:`settling_exit` chooses."""
    return loss_at(losses, settling_exit(output_kls))


def loss_at(losses: Float[Tensor, "pass *token"], exits: Float[Tensor, "*token"]) -> Float[Tensor, "*token"]:
    """Every token's loss after the pass that it leaves at; NaN where that is.

    >>> import torch
    >>> loss_at(torch.tensor([[3.0, 2.0], [1.0, 4.0]]), torch.tensor([1.0, float("nan")])).tolist()
    [1.0, nan]
    """
    found = losses.gather(0, exits.nan_to_num().long()[None]).squeeze(0)
    return found.masked_fill(exits.isnan(), float("nan"))


def _first(holds: Bool[Tensor, "pass *token"]) -> Any:
    """The first pass at which a condition holds; the last where it never does."""
    first = holds.byte().argmax(0)  # of equal values the first
    return first.where(holds.any(0), first.new_tensor(len(holds) - 1))
