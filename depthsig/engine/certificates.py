"""Certificates: an analysis first proves itself on the actual model and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.anatomy.adapter import tolerance
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import make_batch
from depthsig.engine.clean_run import CleanRun, native_run
from depthsig.engine.edits import compile_edit
from depthsig.engine.inside import run_from
from depthsig.engine.network import Network
from depthsig.engine.rows import Clean
from depthsig.errors import CertificateError

PROMPTS = 4

_MEANING = {
    "readout": (
        "the lens's readout does not reproduce the model's logits",
        "the final norm, head, soft-cap or scale was not found right; please report this model",
    ),
    "neutral": (
        "watching the model changes its logits",
        "this model cannot be hooked safely; please report it",
    ),
    "identity": (
        "running the model step by step changes its logits",
        "this model does something between its layers, so --order and edits cannot be trusted",
    ),
    "parts": (
        "attention and MLP contributions do not add up to the layer's update",
        "ask for --parts layer",
    ),
    "padding": (
        "a prompt's logits change when it is padded in a batch",
        "prompts are run one at a time",
    ),
}


@dataclass(frozen=True)
class Certificate:
    """One proof: the largest deviation that was seen, and what was tolerated.

    ``value`` and ``tolerance`` are in logits, but for ``parts`` relative to the output's norm.
    """

    name: str
    value: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the deviation is within tolerance (a NaN never is)."""
        return self.value <= self.tolerance

    def record(self) -> dict:
        """As ``signature.json`` keeps it."""
        return {**asdict(self), "passed": self.passed}

    def message(self) -> str:
        """One line: which proof failed, by how much, and what to do."""
        what, remedy = _MEANING[self.name]
        return (
            f"certificate {self.name!r} failed: {what} "
            f"(deviation {self.value:.3g}, tolerated {self.tolerance:.3g}); {remedy}"
        )


def certify(network: Network, prompts: Sequence[Sequence[int]]) -> list[Certificate]:
    """All certificates of ``network`` on up to four prompts, the shortest and longest among them.

    Args:
        prompts: token ids; those of fewer than two tokens are not used.
    """
    chosen = _choose(prompts)
    relative = tolerance(network.dtype)
    worst = dict.fromkeys(("readout", "neutral", "identity", "parts", "padding"), 0.0)
    scale, has_parts = 0.0, False
    padded = network.clean(make_batch(chosen, range(len(chosen)), network.device).ids).outputs[-1]
    for row, ids in enumerate(chosen):
        batch = make_batch([ids], [0], network.device).ids
        plain = network.logits(batch)
        scale = max(scale, float(plain.float().abs().max()))
        observed, watched = native_run(network.module, network.anatomy, network.trace, batch, parts=True, logits=True)
        assert watched is not None, "the model's own forward gave no logits"
        deviations = {
            "readout": _deviation(network, observed.outputs[-1], plain),
            "neutral": _largest(watched, plain),
        }
        if network.trace.is_chain:
            deviations["identity"] = _deviation(network, network.executed(batch).outputs[-1], plain)
        else:
            deviations["identity"] = _deviation(network, _answered(network, ids), plain)
        run = observed if network.is_native else network.clean(batch, parts=True)
        alone = plain if network.is_native else network.read(run.outputs[-1])
        deviations["padding"] = _deviation(network, padded[row : row + 1, : len(ids)], alone)
        parts = parts_error(run)
        if parts is not None:
            has_parts, deviations["parts"] = True, parts
        for name, value in deviations.items():
            worst[name] = value if value != value else max(worst[name], value)
    if not has_parts:
        del worst["parts"]
    return [Certificate(n, v, relative if n == "parts" else relative * scale) for n, v in worst.items()]


def _answered(network: Network, ids: Sequence[int]) -> Float[Tensor, "token d"]:
    """The last state of a run without edits whose first half is answered from the clean run.

    It is off where more than the residual stream goes from pass to pass (keys and values, say).
    """
    native = replace(network, plan=network.native)
    clean = Clean.of(native, make_batch([ids], [0], network.device))
    return run_from(clean, compile_edit(None, len(native.plan)), len(native.plan) // 2)[0]


def _choose(prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    usable = sorted((p for p in prompts if len(p) >= 2), key=len)
    if len(usable) <= PROMPTS:
        return usable
    middle = [usable[len(usable) // 3], usable[2 * len(usable) // 3]]
    return [usable[0], *middle, usable[-1]]


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _deviation(network: Network, hidden: Float[Tensor, "*row token d"], plain: Tensor) -> float:
    with undisturbed(network.module):
        return _largest(network.readout(hidden), plain)


def parts_error(run: CleanRun) -> float | None:
    """max over tokens and steps of ‖in + a + m − out‖/‖out‖; None where no step has parts."""
    worst: float | None = None
    for before, out, a, m in zip(run.inputs, run.outputs, run.attn, run.mlp, strict=True):
        if a is None or m is None:
            continue
        gap = before.double() + a.double() + m.double() - out.double()
        error = float((gap.norm(dim=-1) / out.double().norm(dim=-1).clamp_min(1e-30)).max())
        worst = error if worst is None or error > worst or error != error else worst
    return worst


@dataclass(frozen=True)
class Verdict:
    """What the certificates allow: whether parts may be used, and prompts padded."""

    parts: bool
    pad: bool
    warnings: tuple[str, ...]


def judge(certificates: Sequence[Certificate], *, only_parts: bool = False) -> Verdict:
    """Stop on a failed certificate, with two exceptions that only restrict the run.

    Args:
        only_parts: nothing but attention and MLP rows was asked for.

    Raises:
        CertificateError: naming the certificate, its value and what to do.
    """
    failed = {c.name: c for c in certificates if not c.passed}
    for name, certificate in failed.items():
        if name not in ("parts", "padding") or (name == "parts" and only_parts):
            raise CertificateError(certificate.message())
    known = {c.name for c in certificates}
    return Verdict(
        parts="parts" in known and "parts" not in failed,
        pad="padding" not in failed,
        warnings=tuple(c.message() for c in failed.values()),
    )
