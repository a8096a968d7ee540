"""How far can depthsig's periodicity p-values be trusted? False-positive rates, power, accuracy.

    python -m data.studies.periodicity                 # everything, about half an hour on one core
    python -m data.studies.periodicity --quick         # the same cells on a small scale, a minute
    python -m data.studies.periodicity --only declared,blind --out FOLDER

Unstructured profiles are a trend (none, linear, exponential, U-shaped with outliers at the model's
ends) plus noise; unstructured matrices are cosines of vectors that drift smoothly or are correlated
from step to step. Structured ones have a pattern that recurs with the block. Every row of
``periodicity.csv`` is one cell of the grid: how often p ≤ .05 (or how often a search was right),
out of how many replicates, with a 95 % Wilson interval.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from depthsig.statistics import period_search, period_search_matrix, periodicity_matrix
from depthsig.statistics.multiplicity import holm
from depthsig.statistics.periodicity_design import ar1, calibrated, profile_design, profile_null

LEVEL = 0.05
TRENDS = ("none", "linear", "exponential", "U with edge outliers")
AR = {f"AR(1) {phi:+.1f}": phi for phi in (-0.6, -0.3, 0.0, 0.3, 0.6)}
OTHER = ("smooth", "AR(1) +0.95", "Student t3", "growing sd", "MA(1) -0.5", "AR(2) resonance")
NOISES = (*AR, *OTHER)
EDGES = {"none": (False, False), "first": (True, False), "last": (False, True), "both": (True, True)}
DESIGNS = tuple(
    (n, b, edges)
    for n, b in ((12, 2), (12, 3), (12, 4), (16, 4), (18, 6), (20, 4), (24, 3), (24, 4), (24, 8), (36, 4), (48, 6))
    for edges in (EDGES if n <= 16 else ("none", "both"))
)
SIZES = (12, 16, 20, 24, 36, 48)


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    declared: int = 10_000
    profiles: int = 2000
    matrices: int = 2000
    search_matrices: int = 500
    draws: int = 999
    sizes: tuple[int, ...] = SIZES
    designs: tuple[tuple[int, int, str], ...] = DESIGNS
    trends: tuple[str, ...] = TRENDS
    noises: tuple[str, ...] = NOISES


FULL = Scale()
QUICK = Scale(200, 200, 100, 20, 199, (12, 16), ((12, 3, "both"), (16, 4, "none")), TRENDS[::3], tuple(NOISES[:5:2]))


@dataclass(frozen=True)
class Row:
    """One cell of the grid."""

    study: str
    measure: str
    n: int
    block: int
    count: int
    edges: str
    noise: str
    trend: str
    effect: float
    replicates: int
    hits: int

    def record(self) -> dict[str, object]:
        """With the rate and its interval."""
        interval = binomtest(self.hits, self.replicates).proportion_ci(method="wilson")
        rate = round(self.hits / self.replicates, 5)
        return {**asdict(self), "rate": rate, "low": round(interval.low, 5), "high": round(interval.high, 5)}


def noise(rng: np.random.Generator, kind: str, rows: int, n: int) -> np.ndarray:
    """Noise of about unit size, [rows, n]."""
    if kind.startswith("AR(1)"):
        return ar1(rng, rows, n, float(kind.split()[1]))
    white = rng.standard_normal((rows, n + 60))
    if kind == "smooth":
        steps = np.arange(n)
        kernel = np.exp(-0.5 * ((steps[:, None] - steps) / 3.0) ** 2) + 1e-9 * np.eye(n)
        return white[:, :n] @ np.linalg.cholesky(kernel).T + 0.3 * rng.standard_normal((rows, n))
    if kind == "Student t3":
        return rng.standard_t(3, (rows, n))
    if kind == "growing sd":
        return white[:, :n] * np.linspace(0.5, 2.0, n)
    if kind == "MA(1) -0.5":
        return white[:, 1 : n + 1] - 0.5 * white[:, :n]
    if kind == "AR(2) resonance":
        series = white.copy()
        for t in range(2, series.shape[1]):
            # Roots of modulus .7 at a period of 5 steps: a damped oscillation without a fixed phase.
            series[:, t] += 2 * 0.7 * np.cos(2 * np.pi / 5) * series[:, t - 1] - 0.49 * series[:, t - 2]
        return series[:, -n:]
    raise ValueError(kind)


def trend(kind: str, n: int, edges: tuple[bool, bool]) -> np.ndarray:
    """A trend over n steps, many times larger than the noise; outliers where the model ends."""
    u = np.linspace(0, 1, n)
    if kind == "none":
        return np.zeros(n)
    if kind == "linear":
        return 10 * u
    if kind == "exponential":
        return np.exp(3 * u)
    level = 8 * (2 * u - 1) ** 2
    level[0] += 12 * edges[0]
    level[-1] += 12 * edges[1]
    return level


def pattern(rng: np.random.Generator, rows: int, block: int, effect: float) -> np.ndarray:
    """Random patterns over the phases, of mean 0 and standard deviation ``effect``, [rows, block]."""
    drawn = rng.standard_normal((rows, block))
    drawn -= drawn.mean(1, keepdims=True)
    return effect * drawn / drawn.std(1, keepdims=True)


def declared(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """block_periodicity: false positives over the whole grid, power, and nested divisors."""
    rows = scale.declared

    def hits(y: np.ndarray, n: int, b: int, edges: str, divisor: int = 1) -> int:
        design = profile_design(n, b, *EDGES[edges], divisor)
        null = profile_null(n, b, *EDGES[edges], divisor)
        return int((calibrated(design.average_p(y), null) <= LEVEL).sum())

    for n, b, edges in scale.designs:
        for kind in scale.noises:
            for shape in scale.trends:
                y = noise(rng, kind, rows, n) + trend(shape, n, EDGES[edges])
                cell = (n, b, n // b, edges, kind, shape)
                yield Row("declared", "false positives", *cell, 0.0, rows, hits(y, n, b, edges))
                for c in (c for c in range(2, b) if b % c == 0 and kind in AR):
                    shorter = y + np.tile(pattern(rng, rows, c, 2.0), (1, n // c))
                    yield Row(f"nested {c}", "false positives", *cell, 0.0, rows, hits(shorter, n, b, edges, c))
        for kind in [k for k in scale.noises if k in AR]:
            for effect in (0.25, 0.5, 1.0, 2.0, 4.0):
                y = noise(rng, kind, rows, n) + np.tile(pattern(rng, rows, b, effect), (1, n // b))
                yield Row("declared", "power", n, b, n // b, edges, kind, "none", effect, rows, hits(y, n, b, edges))
    yield from _combined(scale, rng)


def _combined(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """The smallest p after Holm over seven profiles whose noise is correlated between them."""
    for n, b, edges in scale.designs:
        design, null = profile_design(n, b, *EDGES[edges]), profile_null(n, b, *EDGES[edges])
        for shared in (0.0, 0.5, 0.9):
            common = ar1(rng, scale.declared, n, 0.0)
            p = [
                calibrated(design.average_p(shared**0.5 * common + (1 - shared) ** 0.5 * own), null)
                for own in (ar1(rng, scale.declared, n, 0.0) for _ in range(7))
            ]
            hits = sum(holm(one).min() <= LEVEL for one in np.stack(p, axis=1))
            name = f"shared {shared}"
            yield Row("combined", "false positives", n, b, n // b, edges, name, "none", 0.0, scale.declared, int(hits))


def blind(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """find_period: false positives of the corrected search, power, and where it finds the span."""
    rows = scale.profiles

    def p_values(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        statistic, where = period_search.search(y)
        null = period_search.search_null(y.shape[1], scale.draws)
        blocks = np.array([c.block for c in period_search.candidates(y.shape[1])])
        return calibrated(-statistic, -null[:, ::-1]), blocks[where]

    for size in scale.sizes:
        for kind in scale.noises:
            for shape in scale.trends:
                y = noise(rng, kind, rows, size) + trend(shape, size, (True, True))
                found = int((p_values(y)[0] <= LEVEL).sum())
                yield Row("blind", "false positives", size, 0, 0, "both", kind, shape, 0.0, rows, found)
    spans = ((16, 3, 4), (24, 2, 8), (24, 3, 5), (24, 4, 4), (36, 4, 6), (48, 6, 5), (48, 4, 8))
    for size, b, count in [s for s in spans if s[0] in scale.sizes]:
        for effect in (0.5, 1.0, 2.0, 4.0):
            starts = rng.integers(0, size - b * count + 1, rows)
            y = noise(rng, "AR(1) +0.0", rows, size)
            _add_pattern(y, pattern(rng, rows, b, effect), starts, b, count)
            p, blocks = p_values(y)
            seen = p <= LEVEL
            cell = (size, b, count, "both", "AR(1) +0.0", "none", effect)
            yield Row("blind", "power", *cell, rows, int(seen.sum()))
            if seen.any():
                yield from _accuracy("blind", cell, y, blocks, starts, seen)


def _add_pattern(y: np.ndarray, drawn: np.ndarray, starts: np.ndarray, b: int, count: int) -> None:
    for row, start in enumerate(starts):
        y[row, start : start + b * count] += np.tile(drawn[row], count)


def _accuracy(
    study: str, cell: tuple, y: np.ndarray, blocks: np.ndarray, starts: np.ndarray, seen: np.ndarray
) -> Iterator[Row]:
    """Of the spans found: is the block right, and with it start and count?"""
    _, b, count = cell[:3]
    right = np.flatnonzero(seen & (blocks == b))
    yield Row(study, "block right", *cell, int(seen.sum()), len(right))
    if not len(right):
        return
    start, times = period_search.localise(y[right], b)
    near = np.abs(start - starts[right]) <= 1
    exact = (start == starts[right]) & (times == count)
    yield Row(study, "start within 1", *cell, len(right), int(near.sum()))
    yield Row(study, "span right", *cell, len(right), int(exact.sum()))


MATRICES = {
    "independent": 0.0, "drift": 0.0, "correlated +0.3": 0.3, "correlated +0.6": 0.6, "drift and correlated +0.6": 0.6,
    "alternating -0.3": -0.3, "alternating -0.6": -0.6,
}  # fmt: skip
"""Kinds of vectors without a block, with their correlation from step to step."""


def features(rng: np.random.Generator, kind: str, n: int, width: int = 64) -> np.ndarray:
    """Vectors of n steps without a block: [n, width]."""
    own = rng.standard_normal((n, width))
    u = np.linspace(0, 1, n)[:, None]
    drift = np.cos(2 * u) * rng.standard_normal(width) + np.sin(2 * u) * rng.standard_normal(width)
    phi = MATRICES[kind]
    for t in range(1, n):
        own[t] = phi * own[t - 1] + (1 - phi**2) ** 0.5 * own[t]
    return own + drift if "drift" in kind else own


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines between all pairs of rows."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def with_block(rng: np.random.Generator, vectors: np.ndarray, start: int, b: int, count: int, alike: float) -> None:
    """Add to the span what steps of one phase share, so that their expected cosine is ``alike``."""
    shared = rng.standard_normal((b, vectors.shape[1]))
    span = slice(start, start + b * count)
    vectors[span] = (1 - alike) ** 0.5 * vectors[span] + alike**0.5 * np.tile(shared, (count, 1))


def matrix(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """matrix_periodicity: false positives and power."""
    designs = ((9, 3), (12, 2), (12, 3), (16, 4), (24, 4), (24, 3)) if scale is FULL else ((9, 3), (12, 3))

    def hits(kind: str, n: int, b: int, alike: float) -> int:
        found = 0
        for _ in range(scale.matrices):
            vectors = features(rng, kind, n)
            with_block(rng, vectors, 0, b, n // b, alike)
            cells = periodicity_matrix.span_cells(cosines(vectors), 0, n)
            p = periodicity_matrix.relabelling_p(cells, n, b)
            found += max(p, periodicity_matrix.lag_p(cells, n, b) or 0.0) <= LEVEL
        return int(found)

    for n, b in designs:
        for kind in MATRICES:
            cell = (n, b, n // b, "both", kind, "none")
            yield Row("matrix", "false positives", *cell, 0.0, scale.matrices, hits(kind, n, b, 0.0))
        for alike in (0.08, 0.20, 0.39):
            cell = (n, b, n // b, "both", "independent", "none", alike)
            yield Row("matrix", "power", *cell, scale.matrices, hits("independent", n, b, alike))


def blind_matrix(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """find_matrix_period: false positives, power and accuracy."""
    rows = scale.search_matrices

    def find(vectors: np.ndarray, seed: int) -> object:
        return period_search_matrix.find_matrix_period(cosines(vectors), draws=199, seed=seed)

    sizes = (12, 16, 24, 32) if scale is FULL else (12,)
    for size in sizes:
        for kind in MATRICES:
            found = sum(find(features(rng, kind, size), i).p <= LEVEL for i in range(rows))  # type: ignore[attr-defined]
            yield Row("blind matrix", "false positives", size, 0, 0, "both", kind, "none", 0.0, rows, found)
    for size, b, count in ((16, 3, 4), (24, 4, 4), (24, 3, 6), (32, 4, 6)) if scale is FULL else ():
        for alike in (0.08, 0.20, 0.39):
            hits, block, exact = 0, 0, 0
            for i in range(rows):
                vectors, start = features(rng, "independent", size), int(rng.integers(0, size - b * count + 1))
                with_block(rng, vectors, start, b, count, alike)
                result = find(vectors, i)
                if result.p <= LEVEL:  # type: ignore[attr-defined]
                    hits += 1
                    block += result.block == b  # type: ignore[attr-defined]
                    exact += (result.start, result.block, result.count) == (start, b, count)  # type: ignore[attr-defined]
            cell = (size, b, count, "both", "independent", "none", alike)
            yield Row("blind matrix", "power", *cell, rows, hits)
            if hits:
                yield Row("blind matrix", "block right", *cell, hits, block)
                yield Row("blind matrix", "span right", *cell, hits, exact)


STUDIES: dict[str, Callable[[Scale, np.random.Generator], Iterator[Row]]] = {
    "declared": declared, "blind": blind, "matrix": matrix, "blind_matrix": blind_matrix,
}  # fmt: skip


def run(scale: Scale, name: str, seed: int = 0) -> pd.DataFrame:
    """One study as a table."""
    rng = np.random.default_rng((seed, list(STUDIES).index(name)))
    return pd.DataFrame([row.record() for row in STUDIES[name](scale, rng)])


def main() -> None:
    """Run and write ``periodicity.csv``; every study replaces its own rows as it ends."""
    parser = argparse.ArgumentParser(
        prog="python -m data.studies.periodicity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="small scale, to see that it runs")
    parser.add_argument("--only", default=",".join(STUDIES), help=f"some of {', '.join(STUDIES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for periodicity.csv")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        parser.error(f"unknown study {unknown[0]!r}; there are {', '.join(STUDIES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "periodicity.csv"
    for name in names:
        started = time.perf_counter()
        table = run(QUICK if options.quick else FULL, name, options.seed)
        print(f"{name}: {len(table)} cells, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if path.exists():
            old = pd.read_csv(path)
            table = pd.concat([old[~old["study"].isin(set(table["study"]))], table], ignore_index=True)
        table.sort_values("study", kind="stable").to_csv(path, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
