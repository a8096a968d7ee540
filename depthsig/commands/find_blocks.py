"""Blocks that nobody told of: loops from the trace, copied blocks from weights and from activations.

Three kinds of evidence, each looked at by itself. The **trace** proves a loop: the same layer runs
again, or separate modules share all their storage. **Weights** show layers that were copied
(:mod:`~depthsig.statistics.copied_blocks`), **activations** layers whose contributions recur
(:mod:`~depthsig.statistics.period_search_matrix`). The two that are tested share the level
(Bonferroni). One stretch of layers gets one answer: of the strongest evidence, which others confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.anatomy.parameters import weight_groups
from depthsig.checkpoint.anatomy.sharing import tied_to
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.analyze import Job
from depthsig.commands.opening import Given
from depthsig.errors import InputError
from depthsig.measure.request import Request, check_least
from depthsig.metrics.rules import ACTIVATIONS
from depthsig.metrics.weights import weight_cosine
from depthsig.model import Model
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.plan.plan import build_plan
from depthsig.progress import Progress
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.kinds import FOUND_BLOCKS
from depthsig.signature.folders.writing import ensure_writable, writing
from depthsig.signature.found_blocks import SCHEMA, SIMILARITIES, SavedBlocks
from depthsig.signature.provenance import versions
from depthsig.signature.tabular import conform
from depthsig.statistics.copied_blocks import CopySearch, find_copied_blocks
from depthsig.statistics.period_search_matrix import FOUND, find_matrix_period
from depthsig.statistics.periodicity import PeriodTest
from depthsig.statistics.periodicity_design import DRAWS
from depthsig.statistics.periodicity_matrix import MIN_STEPS
from depthsig.untrusted import made_visible

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Block:
    """``count`` repeats of ``size`` layers, from layer ``start`` on.

    Attributes:
        start, size: in layers; of a loop, those of its first iteration.
        kind: ``loop`` (the same layers run again) or ``grown`` (copies with weights of their own).
        evidence: which of ``trace``, ``weights`` and ``activations`` found it.
        p_value: corrected for the search and for the kinds of evidence; None where the trace proves it.
        note: what the evidence is, in words.
    """

    start: int
    size: int
    count: int
    kind: str
    evidence: tuple[str, ...]
    p_value: float | None
    note: str = field(default="", compare=False)

    @property
    def layers(self) -> range:
        """The layers of the block: a loop's own, or a grown block with its copies."""
        return range(self.start, self.start + self.size * (self.count if self.kind == "grown" else 1))

    def record(self) -> dict[str, Any]:
        """As the command prints it."""
        return {**{k: v for k, v in asdict(self).items() if k != "note"}, "evidence": list(self.evidence)}

    def __str__(self) -> str:
        p = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        return f"{self.kind} from layer {self.start}: {self.count} x {self.size} ({', '.join(self.evidence)}{p})"


@dataclass(frozen=True)
class FoundBlocks:
    """The blocks of a model, and what each kind of evidence had to say.

    Attributes:
        p_values: of ``weights`` and ``activations``, each corrected for its search and for the
            kinds of evidence; without what could not be tested.
        notes: what could not be tested, and what did not agree.
        layers: the layer of every step; layers that share all their storage are one.
        similarities: the cosines that were searched (:data:`~depthsig.signature.found_blocks.SIMILARITIES`).
        about: when and with what it was found, as ``blocks.json`` keeps it.
    """

    checkpoint: str
    blocks: tuple[Block, ...]
    p_values: dict[str, float]
    notes: tuple[str, ...] = ()
    layers: tuple[int, ...] = field(default=(), compare=False, repr=False)
    similarities: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)
    about: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def saved(self) -> SavedBlocks:
        """As a folder keeps them."""
        blocks = [{**b.record(), "note": b.note} for b in self.blocks]
        info = {"schema": SCHEMA, **self.about, **self.record(), "blocks": blocks, "layers": list(self.layers)}
        return SavedBlocks(made_visible({**info, "level": FOUND}), conform(self.similarities, SIMILARITIES))

    def save(self, out: str | Path, draw: Callable[[SavedBlocks, Path], Any] | None = None) -> Path:
        """Write record and cosines, whole or not at all.

        Args:
            draw: puts figures and a page into the folder that it is given.

        Raises:
            InputError: if the folder is no result of this kind, or cannot be written.
        """
        with writing(out, FOUND_BLOCKS) as folder:
            saved = self.saved()
            saved.write(folder)
            if draw is not None:
                draw(saved, folder)
        return Path(out)

    def record(self) -> dict[str, Any]:
        """As the command prints it."""
        blocks = [b.record() for b in self.blocks]
        return {
            "blocks": blocks, "checkpoint": self.checkpoint, "p_values": self.p_values, "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [str(block) for block in self.blocks] or ["no block structure"]
        return "\n".join([f"{self.checkpoint}: {lines[0]}", *lines[1:]])


def find_blocks(
    model: Any, prompts: Any = None, *, tokenizer: Any = None, n: int | None = None, max_tokens: int = 256,
    order: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False, seed: int = 0,
    draws: int = DRAWS, out: str | Path | None = None, progress: bool | Progress | None = None,
) -> FoundBlocks:  # fmt: skip
    """Find looped, grown and copied blocks without being told of any.

    Labels (loops and grown spans) of the checkpoint are not looked at; an ``order`` is what runs. No
    block structure is the usual answer.

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes.
        prompts: as for :func:`depthsig.analyze`; activations are measured on them.
        tokenizer: for a live model.
        n: the first n prompts. Default: 20 of a name or a file, all of a list.
        max_tokens: cut prompts after this many tokens.
        order: run the layers in this order, as ``0:4,4:8x4,8:12``.
        iterations: run a loop this often: a number, or ``{"H_cycles": 3}``.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)``.
        dtype, device, device_map: how and where it is loaded, as for :func:`depthsig.analyze`.
        revision, trust_remote_code, allow_pickle: as for :func:`depthsig.analyze`.
        seed: of generated prompts and of the null distributions.
        draws: from the null of each kind of evidence.
        out: folder for record and cosines; checked before anything is computed.
        progress: show how far it is (the default): bars, or a line every half minute.

    Returns:
        The blocks with a p below .01 after correction, in the order of their layers, and notes on
        what could not be tested.

    Raises:
        InputError: bad input or options. CertificateError: activations could not be trusted.
    """
    check_arguments(find_blocks, locals())
    metric, part = ACTIVATIONS
    request = Request([metric], n=20 if n is None else n, max_tokens=max_tokens, seed=seed, control=False)
    check_least("draws", draws, 1)
    if draws < 999:
        raise InputError(f"{draws} draws cannot tell a p below {FOUND / 2}; use 999 or more (default {DRAWS})")
    if out is not None:
        ensure_writable(out, FOUND_BLOCKS)
    show = Progress.of(progress)
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    given = Given(model, tokenizer, loading, PlanOptions(order, iterations=iterations), forward)
    opened = given.open(seed, show)
    job = Job(Given(opened), prompts, request, n)
    layers = _executed(opened)
    loops = list(_traced(layers))
    searched = len(layers) >= MIN_STEPS
    notes = [] if searched else [f"activations: {len(layers)} steps are too few to be searched; it takes {MIN_STEPS}"]
    kinds = 1 + searched
    if prompts is not None and not searched:
        job.prepare(show)  # bad prompts are said, whether or not they are needed
    with show.stage("weights"):
        stored, likeness = _likeness(opened)
        copies = find_copied_blocks(likeness, _parameters(opened, stored), FOUND / kinds, draws, seed)
    searched_in = [_listed("weights", likeness, stored)]
    p_values = {}
    if copies.testable:
        p_values["weights"] = min(1.0, copies.p * kinds)
    else:
        notes.append(f"weights: {copies.reason}")
    blocks = [*loops, *_copied(copies, stored, kinds)]
    if searched:
        signature = job.run(None, resume=False, show=show)
        with show.stage("activations"):
            cosines = signature.matrix(metric, part=part).to_numpy()
            searched_in.append(_listed("activations", cosines, range(len(layers))))
            period = find_matrix_period(cosines, draws=draws, seed=seed)
        if period.testable:
            p_values["activations"] = min(1.0, period.p * kinds)
        blocks, more = _with_activations(blocks, loops, layers, period, kinds)
        notes += more
    blocks.sort(key=lambda b: (b.start, b.size))
    asked = {"prompts": _named(prompts), "n": request.n, "max_tokens": max_tokens, "seed": seed, "order": order,
             "iterations": None if iterations is None else str(iterations)}  # fmt: skip
    about = _about(opened, layers, asked)
    found = FoundBlocks(
        opened.checkpoint.name, tuple(blocks), p_values, tuple(notes), layers,
        pd.concat(searched_in, ignore_index=True), about,
    )  # fmt: skip
    if out is not None:
        found.save(out)
    return found


def _named(prompts: Any) -> str | None:
    """What the prompts are called; None where they were chosen for the checkpoint."""
    return None if prompts is None else str(prompts) if isinstance(prompts, (str, Path)) else "given"


def _about(model: Model, layers: Sequence[int], asked: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a search."""
    made_of = {
        "checkpoint": model.checkpoint.content_hash or model.checkpoint.source, "dtype": str(model.dtype),
        "layers": list(layers), **asked,
    }  # fmt: skip
    return {
        IDENTITY: identity_of(made_of), "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(), "options": asked,
    }  # fmt: skip


def _executed(model: Model) -> tuple[int, ...]:
    """The layer of every step; layers that share all their storage are one."""
    tied = tied_to([layer.module for layer in model.anatomy.layers])
    return tuple(tied[layer] for layer in model.plan.layers)


def _traced(layers: Sequence[int]) -> Iterator[Block]:
    """Loops that the executed layers show."""
    for span in build_plan(layers, max(layers) + 1).spans:
        first = layers[span.start : span.start + span.size]
        note = f"steps {span.start} to {span.end - 1} run the same layers {span.count} times"
        yield Block(first[0], len(set(first)), span.count, "loop", ("trace",), None, note)


def _likeness(model: Model) -> tuple[list[int], Float[ndarray, "layer layer"]]:
    """The stored layers, shared ones once, and the cosines of their weights."""
    modules = [layer.module for layer in model.anatomy.layers]
    stored = [index for index, first in enumerate(tied_to(modules)) if index == first]
    return stored, weight_cosine([_weights(model, index) for index in stored]).numpy()


def _weights(model: Model, index: int) -> list[Tensor]:
    groups = weight_groups(model.anatomy.layers[index].module, model.checkpoint.config)
    return [tensor for tensors in groups.values() for tensor in tensors]


def _parameters(model: Model, stored: Sequence[int]) -> int:
    """Of the smallest layer that has any."""
    sizes = [sum(t.numel() for t in _weights(model, index)) for index in stored]
    return min((size for size in sizes if size), default=1)


def _listed(evidence: str, cosines: Float[ndarray, "row col"], names: Sequence[int]) -> pd.DataFrame:
    """A matrix as rows of a table."""
    size = len(names)
    return pd.DataFrame({
        "evidence": evidence, "row": np.repeat(names, size), "col": np.tile(names, size), "value": cosines.ravel(),
    })  # fmt: skip


def _copied(found: CopySearch, stored: Sequence[int], kinds: int) -> Iterator[Block]:
    for block in found.blocks:
        alike = "equal weights" if block.equal else f"weights of cosine {block.likeness:.3g}"
        note = f"layers {block.size} apart have {alike}"
        p = min(1.0, block.p * kinds)
        yield Block(stored[block.start], block.size, block.count, "grown", ("weights",), p, note)


def _with_activations(
    blocks: list[Block], loops: Sequence[Block], layers: Sequence[int], period: PeriodTest, kinds: int
) -> tuple[list[Block], list[str]]:
    """The blocks with what activations confirm, or with a block of their own; and notes."""
    if not period.testable:
        return blocks, [f"activations: {period.reason}"]
    p = min(1.0, period.p * kinds)
    if not p < FOUND:
        return blocks, []
    assert period.start is not None and period.block is not None and period.count is not None
    end = period.start + period.block * period.count
    within = set(layers[period.start : end])
    said = f"contributions recur in steps {period.start} to {end - 1}, {period.count} x {period.block} (p = {p:.2g})"
    touched = [b for b in blocks if within & set(b.layers)]
    confirmed = [b for b in touched if period.block % b.size == 0]
    if confirmed:
        best = max(confirmed, key=lambda b: (len(within & set(b.layers)), b.size))
        smaller = None if best.p_value is None else min(best.p_value, p)
        both = replace(
            best, evidence=(*best.evidence, "activations"), p_value=smaller,
            note="; ".join(filter(None, [best.note, said])),
        )  # fmt: skip
        return [both if b is best else b for b in blocks], []
    if touched:
        return blocks, [f"activations: {said}, which is no multiple of a block found there by {touched[0].evidence[0]}"]
    note = f"{said}; its ends are certain to about a step"
    found = Block(layers[period.start], period.block, period.count, "grown", ("activations",), p, note)
    return [*blocks, found], []
