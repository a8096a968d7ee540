"""``clean``: the states of every prompt's clean run, and what each step's parts add to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.engine.clean_run import CleanRun, update_of
from depthsig.engine.device import Pending, upload
from depthsig.engine.memory import sizes
from depthsig.measure.calling import values_of, wide
from depthsig.measure.providers import CleanBatch, Cost, Pool, Work
from depthsig.measure.token_rows import TokenRows, add_rows
from depthsig.measure.where import Where, counted
from depthsig.metrics import Metric
from depthsig.metrics.residual import CKA_TOKENS
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples
from depthsig.terms import NONE, PARTS


class States:
    """Feeds metrics of residual states and contributions, a few tokens of all depths at a time."""

    kinds: ClassVar[tuple[str, ...]] = ("clean",)
    by_batch: ClassVar[bool] = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work = work
        self.entries = [one for one in entries if one.level != "pooled"]
        self.pooled = [one for one in entries if one.level == "pooled"]
        self.pool = Pool()
        self.kept: Float[Tensor, "depth token d"] | None = None
        if self.pooled:
            keep_first = work.request.keep_first
            every = [(p.index, t) for p in work.counted for t in counted(p, keep_first)]
            self.pool = Pool({place: number for number, place in enumerate(every[:CKA_TOKENS])})

    @property
    def needs_parts(self) -> bool:
        """Whether attention and MLP contributions must be known."""
        # A whole layer's contribution too is a + m before it is added, in half precision.
        return any({"u", "us"} & set(one.asks()) for one in self.entries)

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Nothing beside the run itself."""
        return Cost()

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        width = batch.run.inputs[0].shape[-1] * 8 * (self.work.steps + 1)
        for where in batch.where.chunks(max(1, sizes(self.work.network.device).chunk_bytes // width)):
            offered = Offered(self.work, batch.run, where)
            for one in self.entries:
                for part in [p for p in one.parts if offered.has(p)]:
                    values = self._values(one, offered, part, len(where))
                    key = Key(one.id, part)
                    if one.kind == "token":
                        self._keep_tokens(key, where, values, batch.later, tokens)
                    else:
                        batch.later.add(partial(_add, samples, key, where), values.double())
            self._pool(offered, where, batch.later)

    def _values(self, one: Metric, offered: Offered, part: str, n: int) -> Float[Tensor, "token *cell"]:
        depths = self.work.steps + (one.cols != "ahead")  # nothing lies ahead of the last depth
        cells = [depths if axis == "depth" else self.work.steps for axis in one.cells]
        arguments = {name: offered(name, part, one) for name in one.asks()}
        if one.level == "stack":
            return values_of(one, arguments, *cells, n).movedim(-1, 0)
        return values_of(one, arguments, n * cells[0]).unflatten(0, (n, cells[0]))

    def _keep_tokens(
        self, key: Key, where: Where, values: Float[Tensor, "token cell"], later: Pending, tokens: TokenRows
    ) -> None:
        """Of the prompts whose tokens are kept, which need not stand together."""
        kept = np.isin(where.prompts, list(self.work.first))
        edges = [0, *(np.flatnonzero(kept[1:] != kept[:-1]) + 1), len(where)]
        for start, stop in itertools.pairwise(map(int, edges)):
            if stop > start and kept[start]:
                some = where.part(start, stop)
                for cell, column in enumerate(values[start:stop].unbind(1)):
                    add_rows(later, tokens, key, some, cell, column)

    def _pool(self, offered: Offered, where: Where, later: Pending) -> None:
        inside, places = self.pool.chosen(where) if self.pooled else ([], [])
        if inside:
            index = upload(np.array(inside), offered.states.device)
            later.add(partial(self._keep, places), offered.states.index_select(0, index).float())

    def _keep(self, places: list[int], states: Float[ndarray, "token depth d"]) -> None:
        if self.kept is None:
            self.kept = torch.zeros(states.shape[1], len(self.pool.places), states.shape[2])
        self.kept[:, places] = torch.from_numpy(states).transpose(0, 1)

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Metrics of the pooled tokens."""
        for one in self.pooled if self.kept is not None else ():
            assert self.kept is not None
            hs = self.kept.double() if one.precise else self.kept
            size = self.work.steps + 1
            matrix = values_of(one, {"hs": hs}, size, size).double().cpu().numpy()
            samples.put_pooled(Key(one.id), self.pool.prompts, matrix)


def _add(samples: Samples, key: Key, where: Where, values: ndarray) -> None:
    samples.add(key, values, where.prompts)


class Offered:
    """What a chunk of tokens offers, made once and when it is asked for.

    Arguments of tokens are [token · cell, d]; stacks [cell, token, d], in float32 or float64.
    """

    def __init__(self, work: Work, run: CleanRun, where: Where) -> None:
        self.work, self.run, self.where = work, run, where
        self.states = torch.stack([where.take(h) for h in run.states], dim=1)
        self._made: dict[tuple[str, str, torch.dtype], Float[Tensor, "token cell d"]] = {}
        self._rows: dict[tuple[str, str, torch.dtype], Float[Tensor, "row d"]] = {}

    def has(self, part: str) -> bool:
        """Whether a part's contributions are known."""
        parts_known = self.work.verdict.parts and any(a is not None for a in self.run.attn)
        return part in (NONE, "layer") or (part in PARTS and parts_known)

    def __call__(self, name: str, part: str, one: Metric) -> Float[Tensor, "..."]:
        """An argument of ``one``."""
        stack, dtype = one.level == "stack", torch.float64 if one.precise else wide(self.states).dtype
        source = name.removesuffix("s") if stack else name
        if source == "r" and part != "mlp":
            source = "h"  # what attention, or a whole layer, is added to
        if source == "h":
            source = "h over depth" if one.cells[:1] != ("step",) else "h over steps"
        key = (source, "layer" if part == NONE or source not in ("u", "r") else part, dtype)
        if stack:
            return self._get(*key).movedim(1, 0)
        if key not in self._rows:  # of a slice, a copy: one for all metrics that ask
            self._rows[key] = self._get(*key).flatten(0, 1)
        return self._rows[key]

    def _get(self, source: str, part: str, dtype: torch.dtype) -> Float[Tensor, "token cell d"]:
        key = (source, part, dtype)
        if key not in self._made:
            make: dict[str, Callable[[], Tensor]] = {
                "h over depth": lambda: self.states.to(dtype),
                "h over steps": lambda: self._get("h over depth", "layer", dtype)[:, :-1],
                "h_next": lambda: torch.stack([self.where.take(h) for h in self.run.outputs], dim=1).to(dtype),
                "u": lambda: self._contribution(part, dtype),
                "r": lambda: self._added_to_by_mlp(dtype),
            }
            self._made[key] = make[source]()
        return self._made[key]

    def _contribution(self, part: str, dtype: torch.dtype) -> Float[Tensor, "token step d"]:
        """What a part adds; NaN at steps where it is not known."""
        if part == "layer":
            updates = [self.where.take(update_of(self.run, s)) for s in range(self.work.steps)]
            return torch.stack(updates, dim=1).to(dtype)
        tensors: list[Any] = self.run.attn if part == "attn" else self.run.mlp
        missing = self.states.new_full((self.states.shape[0], self.states.shape[2]), float("nan"), dtype=dtype)
        return torch.stack([missing if t is None else self.where.take(t).to(dtype) for t in tensors], dim=1)

    def _added_to_by_mlp(self, dtype: torch.dtype) -> Float[Tensor, "token step d"]:
        """The step's input, in a sequential block with the attention's contribution."""
        before = self._get("h over steps", "layer", dtype)
        layers = self.work.network.anatomy.layers
        parallel = [layers[step.layer].parallel for step in self.work.network.plan]
        mask = upload(np.array(parallel), before.device)[:, None]
        return torch.where(mask, before, before + self._get("u", "attn", dtype))
