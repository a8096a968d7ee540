"""Quantities of stored weights: no prompt takes part, so nothing is resampled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.replication.criteria import Claim
from depthsig.replication.depth_quantities import Found, NetworkCurve, key_of, quantity
from depthsig.replication.gathered import Gathered
from depthsig.replication.members import TrainedNetwork
from depthsig.tables.samples import Key

Blocks = tuple[int, int, int]
"""First layer, layers a block, blocks."""


@quantity("symmetry")
def symmetry(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """Over all pairs of blocks, the mean cosine at the same phase less that at other phases, of stored layers.

    A network of A is read in its own blocks; one of C over the same layers in blocks of A's length, averaged where
    A's are of different kinds.
    """
    key = key_of(claim)
    matrices = {p: found for p in (*a, *c) if (found := _stored(evidence, p, key)) is not None}
    blocks = {p: _blocks(evidence.networks[p]) for p in a if p in matrices}
    without = [evidence.networks[p].name for p, found in blocks.items() if found is None]
    if without:
        return Found(reason=f"no span of layers in two blocks or more of several layers in {', '.join(without)}")
    kinds = list(dict.fromkeys(found for found in blocks.values() if found is not None))
    short = [evidence.networks[p].name for p in c if p in matrices and any(len(matrices[p]) < _end(k) for k in kinds)]
    if not kinds:
        return Found(reason=f"{key} was not measured")
    if short:
        return Found(reason=f"{', '.join(short)} has fewer layers than the blocks of the others end at")
    by_phase = {p: _phases(matrices[p], found) for p, found in blocks.items() if found is not None}
    theirs = {p: [_phases(matrices[p], k) for k in kinds] for p in c if p in matrices}
    shown = by_phase | {p: found[0] for p, found in theirs.items()}
    rows = evidence.resamples + 1
    return Found(
        tuple(by_phase), np.tile([_more(v) for v in by_phase.values()], (rows, 1)),
        np.tile([np.mean([_more(v) for v in found]) for found in theirs.values()], (rows, 1)) if c else None,
        tuple(theirs), axis="phases apart",
        curves=tuple(
            NetworkCurve(p, np.arange(len(v), dtype=float), v, *np.full((2, len(v)), np.nan)) for p, v in shown.items()
        ),
    )  # fmt: skip


def _blocks(network: TrainedNetwork) -> Blocks | None:
    span = network.span
    if span is None or span.layer is None or span.block < 2 or span.count < 2:
        return None
    return span.layer, span.block, span.count


def _end(blocks: Blocks) -> int:
    return blocks[0] + blocks[1] * blocks[2]


def _stored(evidence: Gathered, place: int, key: Key) -> Float[ndarray, "layer layer"] | None:
    for signature in evidence.networks[place].signatures:
        table = signature.matrices
        rows = table[(table["metric"] == key.metric) & (table["part"] == key.part) & (table["agg"] == "mean")]
        if len(rows):
            size = int(rows[["row", "col"]].max().max()) + 1
            matrix = np.full((size, size), np.nan)
            matrix[rows["row"].to_numpy(int), rows["col"].to_numpy(int)] = rows["value"]
            return np.where(np.isnan(matrix), matrix.T, matrix)
    return None


def _phases(matrix: Float[ndarray, "layer layer"], blocks: Blocks) -> Float[ndarray, "apart"]:
    """Mean over pairs of layers in different blocks, by how many phases they are apart (cyclically)."""
    start, block, count = blocks
    index = np.arange(block * count)
    other = index[:, None] // block != index[None] // block
    apart = (index[None] - index[:, None]) % block
    part = matrix[start : start + block * count, start : start + block * count]
    return np.array([part[other & (apart == k)].mean() for k in range(block)])


def _more(by_phase: Float[ndarray, "apart"]) -> float:
    return float(by_phase[0] - by_phase[1:].mean())
