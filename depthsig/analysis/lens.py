"""The logit lens and the tuned lens over a clean run: every depth against the final distribution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.tokens import Measured
from depthsig.checkpoint.finite import is_finite
from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.translators import TunedLens
from depthsig.engine.clean import CleanRun
from depthsig.engine.model import Model
from depthsig.errors import InputError
from depthsig.metrics import lens, tuned
from depthsig.metrics.comparison import Reference
from depthsig.metrics.lens import settling_depth

NEEDS = {**lens.NEEDS, **tuned.NEEDS}
LENSES = ("lens", "tuned")
_IMPLIED = {"effective_depth.kl": "lens.kl", "effective_depth.overlap": "lens.overlap5"}
"""Profiles that a score is made of."""

ROWS = 256
"""Tokens read out at a time: enough for the matmul's full speed, and 50 MB a buffer of 50k words."""

TOKEN_PROMPTS = 4
"""lens.tokens and tuned.tokens are kept for the first prompts only."""


@dataclass
class LensObserver:
    """Reads every depth of a clean run, a few hundred tokens at a time.

    Nothing keeps depths x tokens x vocabulary: three buffers of [ROWS, vocab] are all there is.
    Both lenses are compared with one and the same final distribution, whose sums are taken once.

    Attributes:
        translators: of the tuned lens; needed where any ``tuned.*`` is wanted.
    """

    model: Model
    wanted: frozenset[str]
    samples: Samples
    first_prompts: frozenset[int] = frozenset()
    translators: TunedLens | None = None
    token_rows: list[dict] = field(default_factory=list)
    _buffers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.translators is not None:
            self.translators = self.translators.to(self.model.device)
        elif any(m.startswith("tuned.") for m in self.wanted):
            raise ValueError("tuned metrics need translators")

    def quantities(self, name: str, tokens: bool) -> frozenset[str]:
        """What the comparison must compute for the wanted metrics of one lens (``lens`` or ``tuned``)."""
        needed = {NEEDS[m] for m in self._profiles(name)}
        if name == "lens" and "settling_depth" in self.wanted:
            needed.add("jsd")
        if tokens and f"{name}.tokens" in self.wanted:
            needed |= {"tokens", "probs"}
        return frozenset(needed)

    def _profiles(self, name: str) -> list[str]:
        """The profiles of one lens to accumulate."""
        implied = {profile for score, profile in _IMPLIED.items() if score in self.wanted}
        return [m for m in NEEDS if m in self.wanted | implied and m.startswith(f"{name}.")]

    def observe(self, run: CleanRun, where: Measured, tick: Callable[[int], None]) -> None:
        """Accumulate one batch; ``tick(tokens)`` reports progress."""
        for chunk in self._pieces(where):
            keep_tokens = bool(len(chunk)) and int(chunk.prompts[0]) in self.first_prompts
            self._read(run, chunk, {name: self.quantities(name, keep_tokens) for name in LENSES})
            tick(len(chunk))

    def _pieces(self, where: Measured) -> list[Measured]:
        """Chunks that hold either prompts whose tokens are kept, or others."""
        any_tokens = bool(self.wanted & {f"{name}.tokens" for name in LENSES})
        kept = np.isin(where.prompts, list(self.first_prompts)) & any_tokens
        edges = [0, *(np.flatnonzero(kept[1:] != kept[:-1]) + 1), len(where)]
        pieces = [where.part(int(a), int(b)) for a, b in itertools.pairwise(edges)]
        return [chunk for piece in pieces for chunk in piece.chunks(ROWS)]

    def _buffer(self, name: str, rows: int) -> Tensor:
        if name not in self._buffers:
            shape = (ROWS, self.model.readout.vocab)
            self._buffers[name] = torch.empty(shape, dtype=torch.float32, device=self.model.device)
        return self._buffers[name][:rows]

    def _read(self, run: CleanRun, chunk: Measured, wanted: dict[str, frozenset[str]]) -> None:
        n, readout = len(chunk), self.model.readout
        every = frozenset().union(*wanted.values())
        if not every or not n:
            return
        with undisturbed(self.model.module):
            final = readout.into(chunk.take(run.outputs[-1]), self._buffer("final", n))
            reference = Reference(final, chunk.targets, every, self._buffer("probs", n))
            found = {
                name: [
                    reference.compare(self._logits(name, depth, chunk.take(state)), leave_out=every - quantities)
                    for depth, state in enumerate(run.inputs)
                ]
                for name, quantities in wanted.items()
                if quantities
            }
            end = self._at_the_end(reference)
        for name, values in found.items():
            self._accumulate(name, [*values, {quantity: end[quantity] for quantity in values[0]}], chunk)

    def _logits(self, name: str, depth: int, state: Tensor) -> Tensor:
        """A state [row, d] read out by one of the lenses, in the buffer of lenses."""
        if name == "tuned":
            assert self.translators is not None
            state = self.translators.translate(state, depth)
            if not is_finite(state):
                raise InputError(
                    f"--lens {str(self.translators)!r}: its translator of depth {depth} gives values that are not "
                    "finite on this model; the lens is damaged, or of another model"
                )
        return self.model.readout_at(depth).into(state, self._buffer("lens", len(state)))

    def _at_the_end(self, reference: Reference) -> dict[str, Tensor]:
        """d = S: the lens is the model itself, so divergences are 0 and not rounding."""
        n = reference.logits.shape[0]
        exact = {"kl": 0.0, "kl_reverse": 0.0, "jsd": 0.0, "overlap5": 1.0, "top1": 1.0}
        own = self._buffer("lens", n).copy_(reference.logits)
        values = reference.compare(own, leave_out=frozenset(exact))
        known = {k: reference.nll.new_full((n,), v) for k, v in exact.items() if k in reference.wanted}
        return values | known

    def _accumulate(self, name: str, found: Sequence[dict[str, Tensor]], chunk: Measured) -> None:
        stacked = {
            quantity: torch.stack([f[quantity] for f in found], dim=1).double().cpu().numpy()
            for quantity in found[0]
            if quantity not in ("tokens", "probs")
        }
        for metric in self._profiles(name):
            values = stacked[NEEDS[metric]]
            values = np.log(values) if metric.endswith(".target_log_rank") else values
            self.samples.add(Key(metric), values, chunk.prompts)
        if name == "lens" and "settling_depth" in self.wanted:
            self.samples.add(Key("settling_depth"), settling_depth(stacked["jsd"]), chunk.prompts)
        if "tokens" in found[0]:
            self._keep_tokens(name, found, chunk)

    def _keep_tokens(self, name: str, found: Sequence[dict[str, Tensor]], chunk: Measured) -> None:
        positions = chunk.positions.tolist()
        for depth, values in enumerate(found):
            ids, probs = values["tokens"].tolist(), values["probs"].double().tolist()
            for i, position in enumerate(positions):
                for rank, (token_id, prob) in enumerate(zip(ids[i], probs[i], strict=True), 1):
                    self.token_rows.append({
                        "metric": f"{name}.tokens", "part": "", "scope": "",
                        "prompt": int(chunk.prompts[i]), "index": depth, "position": position,
                        "rank": rank, "token_id": token_id, "value": prob,
                    })  # fmt: skip
