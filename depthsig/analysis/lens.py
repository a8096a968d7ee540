"""The logit lens over a clean run: every depth against the final distribution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.tokens import Measured
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.clean import CleanRun
from depthsig.engine.model import Model
from depthsig.metrics.comparison import Reference
from depthsig.metrics.lens import NEEDS, settling_depth

ROWS = 256
"""Tokens read out at a time: enough for the matmul's full speed, and 50 MB a buffer of 50k words."""

TOKEN_PROMPTS = 4
"""lens.tokens is kept for the first prompts only."""


@dataclass
class LensObserver:
    """Reads every depth of a clean run, a few hundred tokens at a time.

    Nothing keeps depths x tokens x vocabulary: two buffers of [ROWS, vocab] are all there is.
    """

    model: Model
    wanted: frozenset[str]
    samples: Samples
    first_prompts: frozenset[int] = frozenset()
    token_rows: list[dict] = field(default_factory=list)
    _buffers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def quantities(self, tokens: bool) -> frozenset[str]:
        """What the comparison must compute for the wanted metrics."""
        needed = {NEEDS[m] for m in self.wanted if m in NEEDS}
        if "settling_depth" in self.wanted:
            needed.add("jsd")
        if "effective_depth.kl" in self.wanted:
            needed.add("kl")
        if "effective_depth.overlap" in self.wanted:
            needed.add("overlap5")
        if tokens and "lens.tokens" in self.wanted:
            needed |= {"tokens", "probs"}
        return frozenset(needed)

    def observe(self, run: CleanRun, where: Measured, tick: Callable[[int], None]) -> None:
        """Accumulate one batch; ``tick(tokens)`` reports progress."""
        for chunk in self._pieces(where):
            keep_tokens = bool(len(chunk)) and int(chunk.prompts[0]) in self.first_prompts
            self._read(run, chunk, self.quantities(keep_tokens))
            tick(len(chunk))

    def _pieces(self, where: Measured) -> list[Measured]:
        """Chunks that hold either prompts whose tokens are kept, or others."""
        kept = np.isin(where.prompts, list(self.first_prompts)) & ("lens.tokens" in self.wanted)
        edges = [0, *(np.flatnonzero(kept[1:] != kept[:-1]) + 1), len(where)]
        pieces = [where.part(int(a), int(b)) for a, b in itertools.pairwise(edges)]
        return [chunk for piece in pieces for chunk in piece.chunks(ROWS)]

    def _buffer(self, name: str, rows: int) -> Tensor:
        if name not in self._buffers:
            shape = (ROWS, self.model.readout.vocab)
            self._buffers[name] = torch.empty(shape, dtype=torch.float32, device=self.model.device)
        return self._buffers[name][:rows]

    def _read(self, run: CleanRun, chunk: Measured, wanted: frozenset[str]) -> None:
        n, readout = len(chunk), self.model.readout
        if not wanted or not n:
            return
        with undisturbed(self.model.module):
            final = readout.into(chunk.take(run.outputs[-1]), self._buffer("final", n))
            reference = Reference(final, chunk.targets, wanted, self._buffer("probs", n))
            found: list[dict[str, Tensor]] = []
            for depth, state in enumerate(run.inputs):
                logits = self.model.readout_at(depth).into(chunk.take(state), self._buffer("lens", n))
                found.append(reference.compare(logits))
            found.append(self._at_the_end(reference))
        self._accumulate(found, chunk)

    def _at_the_end(self, reference: Reference) -> dict[str, Tensor]:
        """d = S: the lens is the model itself, so divergences are 0 and not rounding."""
        n = reference.logits.shape[0]
        exact = {"kl": 0.0, "kl_reverse": 0.0, "jsd": 0.0, "overlap5": 1.0, "top1": 1.0}
        own = self._buffer("lens", n).copy_(reference.logits)
        values = reference.compare(own, leave_out=frozenset(exact))
        known = {k: reference.nll.new_full((n,), v) for k, v in exact.items() if k in reference.wanted}
        return values | known

    def _accumulate(self, found: Sequence[dict[str, Tensor]], chunk: Measured) -> None:
        stacked = {
            name: torch.stack([f[name] for f in found], dim=1).double().cpu().numpy()
            for name in found[0]
            if name not in ("tokens", "probs")
        }
        if "rank" in stacked and "lens.target_log_rank" in self.wanted:
            values = np.log(stacked["rank"])
            self.samples.add(Key("lens.target_log_rank"), values, chunk.prompts)
        for metric, quantity in NEEDS.items():
            keep = metric in self.wanted or (
                (metric == "lens.kl" and "effective_depth.kl" in self.wanted)
                or (metric == "lens.overlap5" and "effective_depth.overlap" in self.wanted)
            )
            if keep and metric != "lens.target_log_rank":
                self.samples.add(Key(metric), stacked[quantity], chunk.prompts)
        if "settling_depth" in self.wanted:
            self.samples.add(Key("settling_depth"), settling_depth(stacked["jsd"]), chunk.prompts)
        if "tokens" in found[0]:
            self._keep_tokens(found, chunk)

    def _keep_tokens(self, found: Sequence[dict[str, Tensor]], chunk: Measured) -> None:
        positions = chunk.positions.tolist()
        for depth, values in enumerate(found):
            ids, probs = values["tokens"].tolist(), values["probs"].double().tolist()
            for i, position in enumerate(positions):
                for rank, (token_id, prob) in enumerate(zip(ids[i], probs[i], strict=True), 1):
                    self.token_rows.append({
                        "metric": "lens.tokens", "part": "", "scope": "",
                        "prompt": int(chunk.prompts[i]), "index": depth, "position": position,
                        "rank": rank, "token_id": token_id, "value": prob,
                    })  # fmt: skip
