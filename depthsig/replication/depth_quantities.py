"""What claims are judged by: numbers of networks, in the estimate and in every resample of the prompts.

A quantity is a function with a name that ``criteria.toml`` uses. It is given the evidence, the claim and the
places of the networks in both arms, and gives what it :class:`Found`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.metrics import entry
from depthsig.metrics.scores.depth import late_share
from depthsig.replication.criteria import Claim
from depthsig.replication.gathered import Gathered, Group, Items
from depthsig.replication.needs import PRIMITIVE, WITH_A_LENS
from depthsig.signature import Signature
from depthsig.signature.tested import choose_span
from depthsig.statistics.convergence import percentile_intervals, relative_depths, weighted_means
from depthsig.tables.samples import Key
from depthsig.tables.score_rows import statistic
from depthsig.terms import described


@dataclass(frozen=True, eq=False)
class NetworkCurve:
    """What a figure shows of one network: values over a condition, each with its interval over prompts."""

    place: int
    x: Float[ndarray, "point"]
    value: Float[ndarray, "point"]
    low: Float[ndarray, "point"]
    high: Float[ndarray, "point"]


@dataclass(frozen=True, eq=False)
class Found:
    """A quantity of some networks.

    Attributes:
        places: of the networks that have it, values [row, network] of them.
        of_c: where arm C is read otherwise than A (over A's span, say), its values, of c_places.
        notes: what a reader of the verdict should know, a piece each.
        reason: why there is nothing; empty where there is something.
        decided: the verdict, of what is counted and needs no interval.
        recurs: by place, the combined p of the block's period.
        curves: what lies behind the numbers. axis: what they run over. shows: what their values are.
        basis: the prompts or items that it is of, drawn anew; None where none takes part.
    """

    places: tuple[int, ...] = ()
    values: Float[ndarray, "row network"] = field(default_factory=lambda: np.zeros((1, 0)))
    of_c: Float[ndarray, "row other"] | None = None
    c_places: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""
    decided: str = ""
    recurs: Mapping[int, float] = field(default_factory=dict)
    curves: tuple[NetworkCurve, ...] = ()
    axis: str = ""
    basis: Group | Items | None = None
    shows: str = ""

    @property
    def n(self) -> int:
        """How many prompts or items."""
        return 0 if self.basis is None else self.basis.weights.shape[1]

    @property
    def strata(self) -> int:
        """In how many groups of their own they are drawn."""
        return len(set(self.basis.tasks)) if isinstance(self.basis, Items) else 1


Quantity = Callable[[Gathered, Claim, tuple[int, ...], tuple[int, ...]], Found]
BY_QUANTITY: dict[str, Quantity] = {}


def quantity(name: str) -> Callable[[Quantity], Quantity]:
    """Put a function on the list of quantities."""

    def put(function: Quantity) -> Quantity:
        BY_QUANTITY[name] = function
        return function

    return put


def key_of(claim: Claim, at: int = 0) -> Key:
    """The metric, part and scope that a claim names, the first or a later one."""
    name, part, scope = claim.of[3 * at : 3 * at + 3]
    return Key(name, part, scope)


def grouped(evidence: Gathered, claim: Claim, keys: Sequence[Key], wanted: Sequence[int]) -> Group | Found:
    """The signatures to read, or why there are none."""
    group = evidence.group(claim.prompts, keys, wanted)
    if group is None:
        why = [f"{', '.join(map(str, keys))} was not measured"]
        if any(entry(key.metric).on == WITH_A_LENS for key in keys):
            why = [f"{why[0]}: it needs a tuned lens, so give results folders of `depthsig analyze --lens`"]
        said = [evidence.networks[p].reasons.get(claim.prompts or PRIMITIVE) for p in wanted]
        return Found(reason="; ".join(filter(None, [*why, *said])))
    return group


def notes_on(group: Group, claim: Claim) -> tuple[str, ...]:
    """What is less than asked for about the prompts."""
    other = () if group.prompts == claim.prompts or not claim.prompts else (f"on {group.prompts}",)
    lost = (f"not measured so: {', '.join(group.left_out)}",) if group.left_out else ()
    return (*other, *lost, *group.warnings)


def told(key: Key) -> str:
    """What a metric's values are, in words, for the side of a figure.

    >>> told(Key("lens.kl"))
    'KL(lens ‖ final) [nats]'
    """
    one = entry(key.metric)
    return described(one.label, key.part, key.scope) + (f" [{one.unit}]" if one.unit else "")


def over_depth(group: Group, key: Key) -> tuple[NetworkCurve, ...]:
    """A profile of every network on relative depth."""
    curves = []
    for at, place in enumerate(group.places):
        value, low, high = percentile_intervals(group.means(at, key))
        x = relative_depths(len(value), entry(key.metric).axis)
        curves.append(NetworkCurve(place, x, value, low, high))
    return tuple(curves)


def _of_profile(evidence: Gathered, claim: Claim, wanted: Sequence[int], number: Callable[[ndarray], ndarray]) -> Found:
    """A number of one profile's means."""
    key = key_of(claim)
    group = grouped(evidence, claim, [key], wanted)
    if isinstance(group, Found):
        return group
    values = np.stack([number(group.means(at, key)) for at in range(len(group.places))], 1)
    return Found(
        group.places, values, notes=notes_on(group, claim), curves=over_depth(group, key), axis="relative depth",
        basis=group, shows=told(key),
    )  # fmt: skip


@quantity("score")
def score(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """A score of ``scores.csv``, by its own function, from the means of every resample."""
    name, part, scope = claim.of
    source = Key(entry(name).needs[0], part, scope)
    group = grouped(evidence, claim, [source], (*a, *c))
    if isinstance(group, Found):
        return group
    columns = []
    for at in range(len(group.places)):
        of = statistic(entry(name), group.inputs[at].steps, scope)
        columns.append(_in_pieces(group.profile(at, source), group.weights, of))
    shown = over_depth(group, source) if entry(source.metric).kind == "profile" else ()
    return Found(
        group.places, np.stack(columns, 1), notes=notes_on(group, claim), curves=shown, axis="relative depth",
        basis=group, shows=told(source),
    )  # fmt: skip


def _in_pieces(values: ndarray, weights: ndarray, of: Callable[[ndarray], ndarray]) -> ndarray:
    """A statistic of resampled means, some resamples at a time: matrices of many resamples are large."""
    return np.concatenate([of(weighted_means(values, weights[i : i + 128])) for i in range(0, len(weights), 128)])


@quantity("relative_score")
def relative_score(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """A score in steps or depths that every prompt has a value of, as a share of the steps."""
    key = key_of(claim)
    group = grouped(evidence, claim, [key], (*a, *c))
    if isinstance(group, Found):
        return group
    columns = [group.means(at, key) / group.inputs[at].steps for at in range(len(group.places))]
    profile = Key(entry(key.metric).needs[0])
    shown = evidence.group(claim.prompts, [key, profile], (*a, *c))
    return Found(
        group.places, np.stack(columns, 1), notes=notes_on(group, claim), basis=group,
        curves=() if shown is None else over_depth(shown, profile), axis="relative depth", shows=told(profile),
    )  # fmt: skip


@quantity("last_third")
def last_third(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The last third's share of a profile of effects; effects below 0 (a loss that falls) count as none."""
    return _of_profile(evidence, claim, (*a, *c), lambda m: _share(m, claim.of[2], last=True))


@quantity("first_third")
def first_third(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The first third's share, in the same way."""
    return _of_profile(evidence, claim, (*a, *c), lambda m: _share(m, claim.of[2], last=False))


def _share(means: Float[ndarray, "row step"], scope: str, *, last: bool) -> Float[ndarray, "row"]:
    effects = np.maximum(np.nan_to_num(means), 0.0)
    if scope == "future":
        effects = effects[:, :-1]  # the last step reaches no later position
    return np.asarray(late_share(effects if last else effects[:, ::-1]))


@quantity("lacking")
def lacking(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The mean over relative depth of 1 − a share: how much of the depth passes before it is whole."""
    return _of_profile(evidence, claim, (*a, *c), lambda m: _area(1 - m))


def _area(curve: Float[ndarray, "row depth"]) -> Float[ndarray, "row"]:
    return (curve[:, 1:] + curve[:, :-1]).mean(-1) / 2


@quantity("left_at_third")
def left_at_third(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """A profile over depth at a third of the way, above its last value."""

    def number(means: Float[ndarray, "row depth"]) -> Float[ndarray, "row"]:
        place = (means.shape[-1] - 1) / 3
        low, share = int(place), place - int(place)
        return means[:, low] * (1 - share) + means[:, low + 1] * share - means[:, -1]

    return _of_profile(evidence, claim, (*a, *c), number)


@quantity("log_mean")
def log_mean(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The logarithm of a profile's mean."""
    with np.errstate(divide="ignore"):
        return _of_profile(evidence, claim, (*a, *c), lambda m: np.log(_mean_cell(m)))


@quantity("log_ratio")
def log_ratio(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """The logarithm of one mean over another, of profiles or of a matrix off its diagonal."""
    top, bottom = key_of(claim), key_of(claim, 1)
    group = grouped(evidence, claim, [top, bottom], (*a, *c))
    if isinstance(group, Found):
        return group
    lengths = {p: _block_of(group.inputs[at].signature) for at, p in enumerate(group.places)}
    mine, theirs = ({lengths[p] for p in arm if p in lengths} for arm in (a, c))
    alike = mine & theirs if mine and theirs else mine | theirs
    if len(alike) != 1:
        said = ", ".join(f"{evidence.networks[p].name} {b}" for p, b in lengths.items())
        return Found(reason=f"blocks of different length were moved ({said}): costs are not those of the same edit")
    kept = [at for at, p in enumerate(group.places) if lengths[p] in alike]
    others = [evidence.networks[p].name for p in group.places if lengths[p] not in alike]
    places = tuple(group.places[at] for at in kept)
    with np.errstate(divide="ignore"):
        columns = [
            np.log(_mean_cell(group.means(at, top))) - np.log(_mean_cell(group.means(at, bottom))) for at in kept
        ]
    values = np.stack(columns, 1)
    defined = np.isfinite(values[0])
    if not defined.all():
        lost = ", ".join(evidence.networks[p].name for p, k in zip(places, defined, strict=True) if not k)
        return Found(reason=f"an exchange changes nothing at all in {lost} (blocks that share their weights)")
    notes = [f"other blocks were moved in {', '.join(others)}, which are left out"] if others else []
    return Found(
        places, values, notes=(*notes, *notes_on(group, claim)), axis="relative depth", basis=group,
        curves=tuple(curve for curve in over_depth(group, bottom) if curve.place in places), shows=told(bottom),
    )  # fmt: skip


def _block_of(signature: Signature) -> int:
    """The length of the blocks that were moved; four where none was declared."""
    span = choose_span(signature.info)
    return span.block if span is not None else 4


def _mean_cell(means: Float[ndarray, "row *cell"]) -> Float[ndarray, "row"]:
    if means.ndim == 3:
        size = means.shape[-1]
        means = means[:, *np.triu_indices(size, 1)]
    defined = ~np.isnan(means)
    with np.errstate(invalid="ignore"):  # nothing is defined where no edit of this kind fits
        return np.where(defined, means, 0.0).sum(-1) / defined.sum(-1)
