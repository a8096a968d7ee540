"""Certificates: an analysis first proves itself on the actual model and prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from depthsig.checkpoint.anatomy.adapter import tolerance
from depthsig.checkpoint.finite import is_finite, not_finite
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import Batch, make_batch
from depthsig.engine.clean_run import CleanRun, native_run
from depthsig.engine.edits import Edits, Skip, compile_edit
from depthsig.engine.inside import run_from
from depthsig.engine.kernel import HALF
from depthsig.engine.network import Network
from depthsig.engine.plain import Removals, plain_logits
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.errors import CertificateError
from depthsig.terms import Part

PROMPTS = 4
ROWS = 8
"""In the batch that shows whether many rows leave each other alone."""
PIECE = 32
"""Tokens whose logits are compared at a time."""
_ROUTED = re.compile("moe|expert|router", re.IGNORECASE)
"""In the names of classes that choose among experts."""

_MEANING = {
    "readout": (
        "the lens's readout does not reproduce the model's logits",
        "the final norm, head, soft-cap or scale was not found right; please report this model",
    ),
    "neutral": (
        "the model's logits change when it is run again and watched",
        "it keeps something from one call to the next, or cannot be hooked safely",
    ),
    "identity": (
        "running the model step by step changes its logits",
        "this model does something between its layers, so --order and edits cannot be trusted",
    ),
    "parts": (
        "attention and MLP contributions do not add up to the layer's update",
        "ask for --parts layer",
    ),
    "causal": (
        "the model is not causal: a later token, or another prompt of the batch, moves earlier logits",
        "no number of a single position can be told from what else is run; a causal model works",
    ),
    "edits": (
        "edits that run together do not give what one hooked plain forward each gives",
        "layers share something that the engine does not follow, so edited runs cannot be trusted; please report it",
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
        """As ``signature.json`` keeps it; a value that is no number is None."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "passed": self.passed}

    def message(self) -> str:
        """One line: which proof failed, by how much, and what to do."""
        what, remedy = _MEANING[self.name]
        return (
            f"certificate {self.name!r} failed: {what} "
            f"(deviation {self.value:.3g}, tolerated {self.tolerance:.3g}{self.note and f'; {self.note}'}); {remedy}"
        )


@dataclass(frozen=True)
class Gap:
    """How far apart two computations of the same logits are, and how far they may be.

    Attributes:
        value: the largest deviation.
        relative: what is tolerated of it, over the largest logit.
    """

    value: float
    relative: float


def across_shapes(dtype: torch.dtype, steps: int) -> float:
    """Relative tolerance between the same rows in batches of different shapes.

    On a GPU the shape of a product decides in which order it is summed, so that each of a step's two updates of the
    stream is rounded anew: errors of half a unit that add up like a random walk (twice that is tolerated). With 36
    steps in bfloat16 that is 6.6 %; rows of one batch, and batches of one shape, agree far better.
    """
    return max(tolerance(dtype), torch.finfo(dtype).eps * math.sqrt(2 * steps))


Trial = dict[int, tuple[Part, tuple[int, ...]]]
"""An edit, by step: the part that is taken away, and at which positions."""


def certify(network: Network, prompts: Sequence[Sequence[int]]) -> list[Certificate]:
    """All certificates of ``network`` on up to four prompts, the shortest and longest among them.

    Six forwards at most: the four as one padded batch, watched, and step by step; and each alone (or, where the plan
    is another order, the batch unwatched and in that order, and two alone). Where these do not agree, more tell why.
    ``causal`` and ``edits`` are proved on the shortest alone, in four forwards of it where it has twenty tokens or
    more (fewer than eighty tokens in all where it is shorter); where padding fails, ``causal`` on the longest, too.

    Args:
        prompts: token ids; those of fewer than two tokens are not used.

    Raises:
        CertificateError: where the model computes NaN or infinity, naming the layer and the dtype.
    """
    chosen = chosen_of(prompts)
    near, apart = tolerance(network.dtype), across_shapes(network.dtype, len(network.plan))
    batch = make_batch(chosen, range(len(chosen)), network.device)
    observed, watched = native_run(network.module, network.anatomy, network.trace, batch.ids, parts=True, logits=True)
    assert watched is not None, "the model's own forward gave no logits"
    real = batch.mask()
    if not all(map(is_finite, _unpadded(watched, batch))):
        network.refuse_not_finite(observed, batch.ids)
        raise CertificateError(not_finite(f"the head ({' > '.join(network.readout.names)})", watched.dtype))
    first: Tensor | None
    last: Tensor | None
    found = {
        "readout": Gap(_deviation(network, observed.outputs[-1], watched, batch), near),
        "identity": Gap(_deviation(network, _stepped(network, batch, observed), watched, batch), near),
    }
    scale = _worst(map(_size, _unpadded(watched, batch)))
    if network.is_native:
        run, plain = observed, [network.logits(make_batch([ids], [0], network.device).ids) for ids in chosen]
        padding = Gap(_worst(map(_largest, _unpadded(watched, batch), plain)), apart)
        found["neutral"] = padding
        if not padding.value <= near * scale:  # which of the two is it?
            found["neutral"] = Gap(
                _worst(_again(network, ids, one) for ids, one in zip(chosen, plain, strict=True)), near
            )
        first, last = plain[0], plain[-1]
    else:
        again = _unpadded(network.logits(batch.ids), batch)
        found["neutral"] = Gap(_worst(map(_largest, _unpadded(watched, batch), again)), near)
        run = network.clean(batch.ids, parts=True)
        padded = _unpadded(network.read(run.outputs[-1]), batch)
        scale = max(scale, *(_size(one) for one in padded))
        padding = Gap(_worst(_largest(padded[row], _ordered(network, chosen[row])) for row in _two(chosen)), apart)
        # Of one shape with what it is held against, where shapes differ by more than float32 rounds.
        agree = padding.value <= apart * scale and network.dtype not in HALF
        first, last = (_unpadded(watched, batch)[0], None) if agree else (None, None)
    found["padding"] = padding
    ahead, crowded = _beginnings(network, chosen[0])
    causal = [Gap(_changed(network, chosen[0], first), near), Gap(ahead, near), Gap(crowded, apart)]
    if not padding.value <= apart * scale:
        causal += [Gap(_beside_another(network, chosen[0]), apart), Gap(_changed(network, chosen[-1], last), near)]
    found["causal"] = max(causal, key=lambda gap: (gap.value != gap.value, gap.value / gap.relative))
    found["edits"] = Gap(_together(network, chosen[0][: max(8, len(chosen[0]) // 3)], near), apart)
    certificates = {name: Certificate(name, gap.value, gap.relative * scale) for name, gap in found.items()}
    parts = parts_error(run, real)
    if parts is not None:
        certificates["parts"] = Certificate("parts", parts, near)
    return [certificates[name] for name in _MEANING if name in certificates]


def _stepped(network: Network, batch: Batch, observed: CleanRun) -> Float[Tensor, "row token d"]:
    """The last state of the model's own steps when the engine runs them.

    Where they are no chain, the first half is answered from the observed run: that is off where more than the
    residual stream goes from pass to pass (keys and values, say).
    """
    if network.trace.is_chain:
        return network.executed(batch.ids).outputs[-1]
    native = replace(network, plan=network.native)
    return run_from(Clean.from_run(native, batch, observed), compile_edit(None, native.plan), len(native.plan) // 2)


def _unpadded(logits: Float[Tensor, "row token vocab"], batch: Batch) -> list[Float[Tensor, "1 _token vocab"]]:
    """Every row without what it was padded with."""
    return [logits[row : row + 1, :n] for row, n in enumerate(batch.lengths)]


def _ordered(network: Network, ids: Sequence[int]) -> Float[Tensor, "1 token vocab"]:
    """A prompt's logits under the plan's own order, alone."""
    return network.read(network.clean(make_batch([ids], [0], network.device).ids).outputs[-1])


def _two(chosen: Sequence[Sequence[int]]) -> list[int]:
    """The prompt that is padded most, and one that is padded less."""
    return sorted({0, max(0, len(chosen) - 2)})


def _again(network: Network, ids: Sequence[int], plain: Float[Tensor, "1 token vocab"]) -> float:
    """How far a prompt's logits move when it runs again, plain and watched."""
    batch = make_batch([ids], [0], network.device).ids
    watched = native_run(network.module, network.anatomy, network.trace, batch, parts=True, logits=True)[1]
    assert watched is not None, "the model's own forward gave no logits"
    return _worst((_largest(watched, plain), _largest(network.logits(batch), plain)))


def _changed(network: Network, ids: Sequence[int], plain: Float[Tensor, "1 token vocab"] | None) -> float:
    """How far logits move when all tokens of the second half are others.

    Args:
        plain: what they are; None: not known.
    """
    if plain is None:
        plain = network.logits(make_batch([ids], [0], network.device).ids)
    # Not fewer: rotary factors may follow the length, and equal scores may be chosen among by it.
    cut = min(len(ids) - 1, len(ids) // 2 | 1)  # odd, so that blocks of an even number of tokens lie across it
    words = network.readout.vocab
    changed = [*ids[:cut], *((token + 1) % words or 1 for token in ids[cut:])]
    moved = network.logits(make_batch([changed], [0], network.device).ids)
    return _off(network, moved[:, :cut], plain[:, :cut])


def _beginnings(network: Network, ids: Sequence[int]) -> tuple[float, float]:
    """How far the first logits move with what goes on after them, and with how many rows are run.

    A batch of beginnings, of which all but the first go on in another way: they are held against the first row, so
    that shapes are the same, and the first against itself alone. The middle of a prompt does not show what looks
    ahead within its first tokens only, or in blocks that end there, nor two rows what is done to many.
    """
    words = network.readout.vocab
    first = list(ids[:3])
    cuts = [len(first), *(1 + row % (len(first) - 1) for row in range(1, ROWS))]
    rows = [[*first[:cut], *((t + 1 + row) % words or 1 for t in first[cut:])] for row, cut in enumerate(cuts)]
    found = network.logits(make_batch(rows, range(ROWS), network.device).ids)
    alone = network.logits(make_batch([first], [0], network.device).ids)
    ahead = _worst(_off(network, found[row : row + 1, :cut], found[:1, :cut]) for row, cut in enumerate(cuts) if row)
    return ahead, _off(network, found[:1], alone)


def _beside_another(network: Network, ids: Sequence[int]) -> float:
    """How far a prompt's logits move when another of the same length, so without padding, is in its batch."""
    words = network.readout.vocab
    other = [(token + 1) % words or 1 for token in ids]
    both = network.logits(make_batch([ids, other], [0, 1], network.device).ids)
    return _off(network, both[:1], network.logits(make_batch([ids], [0], network.device).ids))


def _together(network: Network, ids: Sequence[int], relative: float) -> float:
    """How far the logits of different edits in one run are from a hooked plain forward each."""
    batch = make_batch([ids], [0], network.device)
    run = network.clean(batch.ids, parts=True)
    error = parts_error(run)
    trials = _trials(network, len(ids), parts=error is not None and error <= relative)
    edits = [Edits(tuple(Skip(step, part, where) for step, (part, where) in trial.items())) for trial in trials]
    programs = [compile_edit(edit, network.plan, network.has_parts) for edit in edits]
    found: dict[int, Tensor] = {}
    for numbers, states in run_programs(Clean.from_run(network, batch, run), programs):
        found |= dict(zip(numbers, states, strict=True))
    gaps: list[float] = []
    for number, trial in enumerate(trials):
        removals: Removals = {step: (part, list(where)) for step, (part, where) in trial.items()}
        gaps.append(_off(network, network.read(found[number]), plain_logits(network, batch.ids, removals)))
    return _worst(gaps)


def _trials(network: Network, tokens: int, *, parts: bool) -> list[Trial]:
    """Two edits, each by step the part that is taken away and where: first, middle, late and last steps.

    One starts at once, so that all that is left later is left by changed layers; the other leaves the clean
    run late, and joins it. What it takes away after that leaves positions on which its own state shows.
    """
    last = len(network.plan) - 1
    everywhere, cut = tuple(range(1, tokens)), tuple(range(1, max(2, tokens // 2)))
    middle, late = (last + 1) // 2, min(2 * (last + 1) // 3, max(0, last - 1))
    known = [parts and has for has in network.has_parts]
    attn: Part = "attn" if known[middle] else "layer"
    mlp: Part = "mlp" if known[late] else "layer"
    first: Trial = {middle: (attn, cut), 0: ("layer", everywhere)}
    second: Trial = {late: (mlp, cut)}
    if cut != everywhere:
        second[last] = ("layer", cut)
    return [first, second]


def _worst(values: Iterable[float]) -> float:
    """The largest, or NaN where one is."""
    return max(values, key=lambda value: (value != value, value))


def _off(network: Network, a: Float[Tensor, "*row token vocab"], b: Float[Tensor, "*row token vocab"]) -> float:
    """The largest deviation of a position's logits; where a router decides in half precision, of a typical one.

    There two shapes of the same product round differently, which turns near ties.
    """
    each = (a.float() - b.float()).abs().amax(-1)
    routed = b.dtype in HALF and any(_ROUTED.search(type(m).__name__) for m in network.module.modules())
    return float(each.median() if routed else each.max())


def chosen_of(prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The prompts that certificates are proved on, by their length."""
    usable = sorted((p for p in prompts if len(p) >= 2), key=len)
    if len(usable) <= PROMPTS:
        return usable
    middle = [usable[len(usable) // 3], usable[2 * len(usable) // 3]]
    return [usable[0], *middle, usable[-1]]


def _largest(a: Tensor, b: Tensor) -> float:
    """The largest deviation, some tokens at a time: logits of whole prompts are much memory."""
    pieces = zip(a.flatten(0, -2).split(PIECE), b.flatten(0, -2).split(PIECE), strict=True)
    return _worst(_size(x.float() - y.float()) for x, y in pieces)


def _size(values: Tensor) -> float:
    """The largest of them, signs apart."""
    return float(values.float().abs().max())


def _deviation(
    network: Network, hidden: Float[Tensor, "row token d"], plain: Float[Tensor, "row token vocab"], batch: Batch
) -> float:
    """How far the readout of states is from logits, at real tokens."""
    rows = zip(_unpadded(hidden, batch), _unpadded(plain, batch), strict=True)
    with undisturbed(network.module):
        return _worst(_largest(network.readout(state), row) for state, row in rows)


def parts_error(run: CleanRun, real: Bool[Tensor, "row token"] | None = None) -> float | None:
    """max over tokens and steps of ‖in + a + m − out‖/‖out‖; None where no step has parts.

    Args:
        real: the tokens that count; None: all.
    """
    errors = []
    for before, out, a, m in zip(run.inputs, run.outputs, run.attn, run.mlp, strict=True):
        if a is None or m is None:
            continue
        gap = before.double() + a.double() + m.double() - out.double()
        errors.append(gap.norm(dim=-1) / out.double().norm(dim=-1).clamp_min(1e-30))
    if not errors:
        return None
    worst = torch.stack(errors).amax(0)  # a NaN stays one
    return float((worst if real is None else worst[real]).max())


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
