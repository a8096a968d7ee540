"""Were blocks of layers copied? Start, size and count of copied blocks, from cosines between layers' weights.

Copies are a far stronger kind of evidence than a period in a profile: independent layers of n
parameters have cosines of about 1/√n, and training shifts them by a hundredth, while a block copied and
trained apart keeps cosines of tenths for long. So two copies are enough, and the question is not
whether lags differ on average but whether a whole block's pairs stand clear of all that lies around
them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import ndtri

from depthsig.errors import InputError
from depthsig.statistics.periodicity_design import DRAWS

EQUAL = 1e-12
"""Layers whose cosine is 1 to within this are equal."""
NATURAL = 0.01
"""Cosines of layers that were never copied differ by this much in trained models of any size."""
DIMENSIONS = 1 / NATURAL**2
NEIGHBOURS = 0.05
"""Cosines of neighbouring layers differ by this much along the depth of trained models."""
SINGLE = 0.5
"""One pair of layers is a copied block of one layer only by what its cosine has above this."""
CAP, TOLL = 5.0, 2.0
"""A pair's weight in finding the ends: its excess over the noise, at most the cap, less the toll."""
SPARE = 1.0
"""What chance is granted on top, in units of noise: real layers are no Gaussian draws of one dimension."""
QUANTILE, LEAST = 0.98, 0.5
"""Each size's statistic is put on one scale by this quantile of its own null, which counts as ½ at least."""

ALIKE, FALL = 0.95, 1.6
"""Neighbours of more than this cosine are copies; others are a chain where likeness falls by this power or more.

Independent noise on copies of a layer gives powers up to 1.35, a chain 2 and more.
"""

LONGEST_RUN = 15
"""Of one layer's copies that are not equal, at most this many pairs are looked for."""
CALIBRATION = (1000, 200)
"""Dimension and draws that tell how noise depends on dimension."""
_CHUNK_CELLS = 2_000_000


@dataclass(frozen=True)
class CopiedBlock:
    """``count`` consecutive stretches of ``size`` layers that are copies of each other.

    Attributes:
        start, size, count: in layers.
        p: corrected for the search over all starts, sizes and counts.
        likeness: mean cosine of the pairs of layers that are one block apart.
        equal: whether all of these pairs are equal.
    """

    start: int
    size: int
    count: int
    p: float
    likeness: float
    equal: bool

    @property
    def end(self) -> int:
        """The layer after the last one."""
        return self.start + self.size * self.count


@dataclass(frozen=True)
class CopySearch:
    """What a search for copied blocks found.

    ``testable`` is False, with its ``reason``, where there was nothing to search; ``p`` is that of the
    strongest candidate, whether it passes or not.
    """

    testable: bool
    reason: str = ""
    p: float = float("nan")
    blocks: tuple[CopiedBlock, ...] = ()


def find_copied_blocks(
    cosines: Float[ndarray, "row column"], parameters: int, level: float = 0.01, draws: int = DRAWS, seed: int = 0
) -> CopySearch:
    """Search for blocks of layers that are copies of each other, in the cosines of layers' weights.

    A pair (i, i+b) is compared with what lies around it: its *excess* is c[i, i+b] less the larger of
    the mean of c[i, i+b±1] and the mean of c[i±1, i+b]. (A layer that is like all others raises
    these, too; likeness that decays smoothly with distance gives an excess of about 0 or below.)
    For b = 1, whose neighbours are the layer itself, runs of up to 15 pairs are compared with the pairs
    before and after them and with the upper quartile of all pairs outside; their excess counts from .05,
    and of a single pair from a cosine of ½ and the third highest of all others. Copies of one layer are all
    alike, while along a chain of layers that each resemble the one before likeness falls as m, m², m³ …: a run
    has no excess unless the least likeness of any two of its layers is above m^1.6, m the mean of its pairs
    (at most .95). And by as much as layers two apart are more alike than neighbours, the run is one of larger
    blocks. Equal layers have an infinite excess.

    - Statistic: for every b, m_b is the largest, over starts, of the smallest excess of b consecutive
      pairs, over √(s² + .01²); s is the spread of c[i, j] − c[i+1, j+1] (:func:`noise`), along
      diagonals, on which layer-to-layer correlation, decay and copies are constant, but no less than
      chance gives so many parameters. The statistic is
      the largest m_b / max(q_b, ½), q_b being the 98 % quantile of m_b's own null.
    - Null: cosines of ``draws`` sets of Gaussian vectors (from a Wishart distribution). Their
      correlation with lag is the observed one made non-increasing, the running minimum of
      the medians at each lag; their dimension reproduces s, but is 10,000 or ``parameters`` at most.
      Every m_b drawn is granted 1 more, for what trained layers differ in beside.
    - Ends: pairs at lag b weigh min(excess/s, 5) − 2; start and count maximise the sum over
      b·(count−1) consecutive pairs, those of the statistic among them. Of sizes whose statistics
      are half the largest or more, and whose spans overlap, the smallest is taken. Then all copies
      but the first are removed and the search is repeated, until nothing passes.

    Args:
        cosines: between all layers; NaN between layers of different shapes.
        parameters: numbers in a layer that the cosines are of.
        level: blocks with a p below it are listed.
        draws: from the null. seed: of the null.

    Returns:
        The blocks found, in the order of their layers, and the p of the search.

    Raises:
        InputError: if the matrix is not square.

    >>> rng = np.random.default_rng(0)
    >>> layers = rng.normal(size=(10, 500))
    >>> layers[6:9] = layers[3:6] + 0.5 * rng.normal(size=(3, 500))
    >>> unit = layers / np.linalg.norm(layers, axis=1, keepdims=True)
    >>> [(b.start, b.size, b.count, b.p) for b in find_copied_blocks(unit @ unit.T, 500).blocks]
    [(3, 3, 2, 0.0005)]
    """
    matrix = np.array(cosines, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"cosines between layers are a square matrix; found an array of shape {matrix.shape}")
    np.fill_diagonal(matrix, np.nan)
    if not np.isfinite(matrix).any():
        return CopySearch(False, f"{len(matrix)} layer(s), of which no two have parameters of the same shapes")
    found: list[CopiedBlock] = []
    places = np.arange(len(matrix) + 1)
    p = float("nan")
    while np.isfinite(matrix).any():
        block, smallest = _search(matrix, parameters, level, draws, seed)
        p = p if found else smallest
        if block is None:
            break
        # In layers of the model: what was removed before may lie inside.
        start, size = places[block.start], places[block.start + block.size] - places[block.start]
        found.append(replace(block, start=int(start), size=int(size)))
        copies = np.arange(block.start + block.size, block.end)
        matrix = np.delete(np.delete(matrix, copies, axis=0), copies, axis=1)
        places = np.delete(places, copies)
    return CopySearch(True, "", p, tuple(sorted(found, key=lambda b: (b.start, b.size))))


def _search(
    matrix: Float[ndarray, "layer layer"], parameters: int, level: float, draws: int, seed: int
) -> tuple[CopiedBlock | None, float]:
    """The strongest copied block, if it passes, and the p of the search for it."""
    correlation = smooth_correlation(matrix)
    # What independent draws of so many numbers vary by; equal copies would hide it.
    least = (1 - np.triu(correlation, 1).max() ** 2) / np.sqrt(parameters)
    s = max(float(noise(matrix[None])[0]), least)
    null = _null(matrix, correlation, s, least, parameters, draws, seed)
    searched = np.isfinite(null).all(0)
    null = np.where(searched, null + SPARE, 0.0)
    scale = np.maximum(np.quantile(null, QUANTILE, axis=0), LEAST)
    largest = (null / scale).max(1)
    clear = np.where(searched, statistics(matrix[None], least)[0], -np.inf)
    scores = clear / scale
    p = (1 + (largest[:, None] >= scores - 1e-9).sum(0)) / (draws + 1)
    best = int(scores.argmax())
    if not p[best] < level or scores[best] <= 0:
        return None, float(p[best])
    strong = [b for b in range(1, len(p) + 1) if p[b - 1] < level and clear[b - 1] >= clear[best] / 2]
    spans = {b: _ends(matrix, b, s) for b in strong}
    strongest = spans[best + 1]
    size = min(b for b, span in spans.items() if _overlap(span, strongest))
    start, _, count = spans[size]
    first = np.arange(start, start + size * (count - 1))
    alike = matrix[first, first + size]
    equal = bool((alike >= 1 - EQUAL).all())
    return CopiedBlock(start, size, count, float(p[size - 1]), float(np.nanmean(alike)), equal), float(p[best])


def _overlap(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    return a[0] < b[0] + b[1] * b[2] and b[0] < a[0] + a[1] * a[2]


def noise(matrices: Float[ndarray, "m layer layer"]) -> Float[ndarray, "m"]:
    """Spread of cosines, from how much they change along diagonals, robustly.

    The lower quartile of |c[i, j] − c[i+1, j+1]|, over that of the absolute value of a Gaussian
    variable of variance 2: up to three quarters of the differences may hold more than noise. Which cells
    are defined is the same in every matrix.
    """
    rows, cols = np.triu_indices(matrices.shape[-1] - 1, 1)
    steps = np.abs(matrices[:, rows, cols] - matrices[:, rows + 1, cols + 1])
    steps = steps[:, ~np.isnan(steps[0])]
    if not steps.shape[1]:
        return np.zeros(len(steps))
    return np.quantile(steps, 0.25, axis=1) / (np.sqrt(2) * ndtri(0.625))


def excesses(matrices: Float[ndarray, "m layer layer"], b: int) -> Float[ndarray, "m pair"]:
    """How far each c[i, i+b] stands above its neighbours (b ≥ 2); infinite for equal layers, NaN where undefined."""
    size = matrices.shape[-1]
    padded = np.pad(matrices, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    i = np.arange(size - b) + 1
    own = padded[:, i, i + b]
    along = _mean_of(padded[:, i, i + b - 1], padded[:, i, i + b + 1])
    across = _mean_of(padded[:, i - 1, i + b], padded[:, i + 1, i + b])
    around = np.fmax(along, across)
    if np.isnan(around).any():
        # Among layers of another kind, a pair has no neighbours: then all cosines stand for them.
        middle = _quiet(np.nanmedian, matrices.reshape(len(matrices), -1), 0.0)
        around = np.where(np.isnan(around), middle[:, None], around)
    return np.where(own >= 1 - EQUAL, np.inf, own - around)


def single_excesses(matrices: Float[ndarray, "m layer layer"]) -> Float[ndarray, "m length pair"]:
    """How far the smallest of a run of pairs (i, i+1) stands above the others, by length − 1 and start.

    The others are the pairs before and after the run, and the upper quartile of all pairs outside. A run
    of two pairs or more must not be a chain, in which likeness falls with distance, nor made of larger blocks.
    """
    i = np.arange(matrices.shape[-1] - 1)
    own, two_apart = matrices[:, i, i + 1], np.diagonal(matrices, 2, 1, 2)
    n = own.shape[1]
    out = np.full((len(own), min(n, LONGEST_RUN), n), np.nan)
    edged = np.pad(own, ((0, 0), (1, 1)), constant_values=np.nan)
    smallest = every = own
    for length in range(1, out.shape[1] + 1):
        if length > 1:
            smallest = np.minimum(smallest[:, :-1], own[:, length - 1 :])
            every = np.minimum(np.minimum(every[:, :-1], every[:, 1:]), np.diagonal(matrices, length, 1, 2))
        for start in range(n - length + 1):
            end, low = start + length, smallest[:, start]
            around = np.fmax(edged[:, start], edged[:, end + 1])
            around = np.fmax(around, _upper_quartile(np.delete(own, slice(start, end), axis=1)))
            excess = low - around - NEIGHBOURS
            if length == 1:
                excess = np.minimum(excess, low - np.fmax(_third(np.delete(own, start, axis=1)) + NEIGHBOURS, SINGLE))
            else:
                mean = own[:, start:end].mean(1)
                excess = excess - np.maximum(two_apart[:, start : end - 1].mean(1) - mean, 0.0)
                chain = every[:, start] <= np.clip(mean, 0.0, ALIKE) ** FALL
                excess = np.where(chain, np.minimum(excess, 0.0), excess)
            out[:, length - 1, start] = np.where(low >= 1 - EQUAL, np.inf, excess)
    return out


def _upper_quartile(values: Float[ndarray, "m n"]) -> Float[ndarray, "m"]:
    """Of each row's defined values, the one at the upper quartile, rounded up; NaN where there are none."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    # Which are defined is the same in every row.
    defined = values[:, ~np.isnan(values[0])]
    if not defined.shape[1]:
        return np.full(len(values), np.nan)
    place = int(np.ceil(0.75 * (defined.shape[1] - 1)))
    return np.partition(defined, place, axis=1)[:, place]


def _third(values: Float[ndarray, "m n"]) -> Float[ndarray, "m"]:
    """The third highest of each row; NaN where there are not three."""
    defined = values[:, ~np.isnan(values[0])]
    if defined.shape[1] < 3:
        return np.full(len(values), np.nan)
    return np.partition(defined, -3, axis=1)[:, -3]


def statistics(matrices: Float[ndarray, "m layer layer"], least: float) -> Float[ndarray, "m size"]:
    """m_b over √(s² + .01²), s being ``least`` at least, for b = 1, 2, ... as far as two blocks fit.

    −∞ where no run is defined.
    """
    largest = [_least_undefined(single_excesses(matrices)).reshape(len(matrices), -1).max(1)]
    for b in range(2, matrices.shape[-1] // 2 + 1):
        windows = np.lib.stride_tricks.sliding_window_view(_least_undefined(excesses(matrices, b)), b, axis=1)
        largest.append(windows.min(-1).max(1))
    return np.stack(largest, axis=1) / np.hypot(np.maximum(noise(matrices), least), NATURAL)[:, None]


def _least_undefined(values: ndarray) -> ndarray:
    return np.where(np.isnan(values), -np.inf, values)


def _ends(matrix: Float[ndarray, "layer layer"], b: int, s: float) -> tuple[int, int, int]:
    """(start, size, count) of the best run of pairs at lag b."""
    if b == 1:
        return _single_ends(matrix)
    defined = _least_undefined(excesses(matrix[None], b)[0])
    core = int(np.lib.stride_tricks.sliding_window_view(defined, b).min(-1).argmax())
    weight = np.clip(defined / s, -CAP, CAP) - TOLL
    total = np.r_[0.0, weight.cumsum()]
    best, where = -np.inf, (core, b, 2)
    for start in range(core + 1):
        for count in range(2, (len(weight) - start) // b + 2):
            end = start + b * (count - 1)
            if end >= core + b and total[end] - total[start] > best + 1e-9:
                best, where = float(total[end] - total[start]), (start, b, count)
    return where


def _single_ends(matrix: Float[ndarray, "layer layer"]) -> tuple[int, int, int]:
    """(start, 1, count) of the run of pairs (i, i+1) that stands clearest; of equal layers, the longest."""
    values = _least_undefined(single_excesses(matrix[None])[0])
    length, start = (int(v[-1]) for v in np.nonzero(values == values.max()))
    if np.isinf(values.max()):
        equal = np.diagonal(matrix, 1) >= 1 - EQUAL
        while start + length + 1 < len(equal) and equal[start + length + 1]:
            length += 1
    return start, 1, length + 2


def _null(
    matrix: Float[ndarray, "layer layer"], correlation: Float[ndarray, "layer layer"], s: float, least: float,
    parameters: int, draws: int, seed: int,
) -> Float[ndarray, "draw size"]:  # fmt: skip
    """The statistics of unrelated layers that have the matrix's correlation with lag, noise and gaps."""
    size = len(matrix)
    root = np.linalg.cholesky(correlation)
    undefined = np.isnan(matrix)
    rng = np.random.default_rng((seed, size))
    dimension, tries = max(CALIBRATION[0], 2 * size), CALIBRATION[1]
    typical = float(np.median(noise(_masked(wishart_cosines(rng, root, dimension, tries), undefined))))
    wanted = dimension * (typical / s) ** 2
    dimension = int(np.clip(wanted, size + 1, max(min(DIMENSIONS, parameters), size + 1)))
    chunk = max(1, _CHUNK_CELLS // size**2)
    parts = []
    for done in range(0, draws, chunk):
        drawn = wishart_cosines(rng, root, dimension, min(chunk, draws - done))
        parts.append(statistics(_masked(drawn, undefined), least))
    return np.concatenate(parts)


def _masked(matrices: Float[ndarray, "m layer layer"], undefined: ndarray) -> Float[ndarray, "m layer layer"]:
    return np.where(undefined, np.nan, matrices)


def smooth_correlation(matrix: Float[ndarray, "layer layer"]) -> Float[ndarray, "layer layer"]:
    """The correlation with lag that never rises: the running minimum of the medians at each lag.

    Copies raise the lags that they are apart by, and a running minimum passes them over.
    """
    size = len(matrix)
    medians = [_quiet(np.nanmedian, np.diagonal(matrix, lag)[None], np.nan)[0] for lag in range(1, size)]
    falling = np.fmin.accumulate(np.r_[0.999, medians])[1:]
    lags = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    found = np.r_[1.0, np.maximum(falling, 0.0)][lags]
    values, vectors = np.linalg.eigh(found)
    positive = (vectors * np.maximum(values, 1e-6)) @ vectors.T
    scale = np.sqrt(np.diagonal(positive))
    return positive / scale / scale[:, None]


def wishart_cosines(
    rng: np.random.Generator, root: Float[ndarray, "layer layer"], dimension: int, draws: int
) -> Float[ndarray, "draw layer layer"]:
    """Cosines between Gaussian vectors of a dimension, whose correlation's Cholesky factor is ``root``.

    By Bartlett's decomposition (1933, Proc. R. Soc. Edinburgh 53, 260-283), without the vectors.
    """
    size = len(root)
    factor = np.tril(rng.standard_normal((draws, size, size)), -1)
    diagonal = np.sqrt(rng.chisquare(dimension - np.arange(size), size=(draws, size)))
    factor[:, np.arange(size), np.arange(size)] = diagonal
    vectors = root @ factor
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors @ vectors.transpose(0, 2, 1)


def _mean_of(a: ndarray, b: ndarray) -> ndarray:
    """Mean of two, or the one that is defined."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, (a + b) / 2))


def _quiet(reduce: object, values: ndarray, otherwise: float) -> ndarray:
    """A NaN-reduction over the last axis, ``otherwise`` where nothing is defined."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], otherwise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = reduce(values, axis=-1)  # type: ignore[operator]
    return np.where(np.isnan(found), otherwise, found)
