"""The record of one metric: what is known of it, and what of that a file keeps."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from depthsig.errors import InputError, shown
from depthsig.metrics.entries.asking import asked
from depthsig.metrics.entries.runs import OF_OTHERS, RUNS, Axis, Level, RunKind
from depthsig.terms import NONE

Kind = Literal["profile", "matrix", "score", "token"]
Figure = Literal["profile", "heatmap", "top_tokens", "token_map", "trajectories", ""]
Domain = Literal["", "later", "later, where run", "within", "from row 1", "last row"]
"""Which cells a matrix has: all; columns after the row; those that row + column keeps inside; rows from 1; the last."""
Limits = tuple[float | None, float | None]
Norm = Literal["linear", "log", "symlog"]
Chance = Literal["", "1/V", "5/V", "ln V", "(V + 1)/2"]

SUITS: Mapping[Kind, tuple[Figure, ...]] = {
    "profile": ("profile",), "matrix": ("heatmap",), "score": (), "token": ("token_map",),
}  # fmt: skip
"""The figures, the plainest first, that draw a user's own metric."""

_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")


@dataclass(frozen=True)
class Metric:
    """One metric: identity, definition, where it is measured, how it accumulates and is drawn.

    Attributes:
        id: full name, ``family.name``.
        kind: ``profile`` (over depth or step), ``matrix``, ``score`` or ``token`` (depth x token).
        on: the kind of run that feeds it (:data:`depthsig.metrics.entries.runs.RUNS`).
        level: what a call of its function sees (:data:`depthsig.metrics.entries.runs.Level`).
        axis: of a profile, or of the first axis of a token metric; else empty.
        rows, cols: the axes of a matrix; else empty. row_label, col_label: what a figure calls them.
        parts, scopes: the values of those columns; ``("-",)`` where they do not apply.
        label: what a figure's axis says, without the unit.
        unit: ``nats``, ``fraction``, ``probability`` ...; empty where the number is a pure ratio.
        formula: the definition in one line of plain text.
        source: where it comes from (author, arXiv number).
        groups: the values of ``--metrics`` that ask for it (besides its full name).
        default: False for a costly metric that its groups leave out.
        always: whether its parts are measured whatever ``--parts`` says.
        needs: ids of the entries that it is made of, in the order of its function's parameters.
        stacked: whether all parts of what it needs come together, along a first axis.
        result: which field of the record that its function returns; empty for the value itself.
        fused: which quantity of :mod:`depthsig.metrics.comparison` is the same, faster.
        precise: whether its arguments come in float64 (differences of nearly equal directions).
        worst: which extreme ``agg=max`` takes: ``max``, ``min``, or ``None`` (no agg=max).
        log: take logarithms before a period is tested (norms and other positive profiles).
        domain: which cells of a matrix exist. first_col: the number of its first column.
        undefined: what an undefined score means, in words.
        figure: how it is drawn. limits: the range of values, where bounded. norm: the scale of its
            axis or colours; ``symlog`` is linear near 0 and logarithmic on both sides. centre: the natural
            middle of its values (0 for cosines), where it has one.
        drawn: the range that figures show, the same for every model; what lies beyond is marked at the
            ends. Default: its limits; where there are none, the range of the data. chance: what guessing among
            all V tokens alike gives; a dashed line in figures.
        section: of the report.
        own: whether a user declared it.
        function: what computes it; None where the entry was read from a file.
    """

    id: str
    kind: Kind
    on: str
    level: Level
    axis: Axis = ""
    rows: Axis = ""
    cols: Axis = ""
    row_label: str = ""
    col_label: str = ""
    parts: tuple[str, ...] = (NONE,)
    scopes: tuple[str, ...] = (NONE,)
    label: str = ""
    unit: str = ""
    formula: str = ""
    source: str = ""
    groups: tuple[str, ...] = ()
    default: bool = True
    always: bool = False
    needs: tuple[str, ...] = ()
    stacked: bool = False
    result: str = ""
    fused: str = ""
    precise: bool = False
    worst: Literal["max", "min"] | None = "max"
    log: bool = False
    domain: Domain = ""
    first_col: int = 0
    undefined: str = ""
    figure: Figure = ""
    limits: Limits = (None, None)
    norm: Norm = "linear"
    centre: float | None = None
    drawn: Limits = (None, None)
    chance: Chance = ""
    section: str = ""
    own: bool = False
    function: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @property
    def family(self) -> str:
        """The first piece of its id."""
        return self.id.split(".")[0]

    @property
    def run(self) -> RunKind:
        """The kind of run that feeds it."""
        return RUNS[self.on]

    @property
    def cells(self) -> tuple[Axis, ...]:
        """The axes of its values, tokens apart."""
        return (self.rows, self.cols) if self.rows else (self.axis,) if self.axis else ()

    @property
    def measured(self) -> bool:
        """Whether a run feeds it, and not only other entries."""
        return self.on not in OF_OTHERS

    def by_chance(self, vocabulary: int | None) -> float | None:
        """What guessing among ``vocabulary`` tokens with equal probabilities gives; None where that is not known.

        >>> from depthsig.metrics import entry
        >>> entry("lens.overlap5").by_chance(50), entry("lens.overlap5").by_chance(None)
        (0.1, None)
        """
        if not self.chance or not vocabulary:
            return None
        return {
            "1/V": 1 / vocabulary, "5/V": 5 / vocabulary, "ln V": math.log(vocabulary),
            "(V + 1)/2": (vocabulary + 1) / 2,
        }[self.chance]  # fmt: skip

    def asks(self) -> tuple[str, ...]:
        """The names that its function is given by its run."""
        return () if self.function is None else asked(self.function, self.run, self.level, self.cells, self.needs)

    def record(self) -> dict[str, Any]:
        """All of it but the function, as JSON keeps it."""
        found = {k: v for k, v in asdict(self).items() if k != "function"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


class MoreFields(TypedDict, total=False):
    """Fields that a declaration seldom names; what each means stands at :class:`Metric`."""

    needs: Sequence[str]
    stacked: bool
    result: str
    kind: Kind
    default: bool
    always: bool
    fused: str
    precise: bool
    log: bool
    domain: Domain
    first_col: int
    undefined: str
    figure: Figure
    norm: Norm
    centre: float | None
    drawn: Limits
    chance: Chance
    section: str
    row_label: str
    col_label: str


def read_entry(record: Any) -> Metric:
    """A metric of one's own as a file keeps it, without its function.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("id"), str):
        raise ValueError("a metric's entry is no object with an id")
    known = {f.name: f for f in fields(Metric) if f.name != "function"}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k in known}
    try:
        found = Metric(**{**values, "own": True})
        check_fields(found)
    except (TypeError, InputError) as error:
        raise ValueError(f"the entry of metric {shown(record['id'])} is damaged: {error}") from None
    return found


def check_fields(made: Metric) -> None:
    """Refuse values that nothing knows what to do with.

    Raises:
        InputError: naming the metric and the field.
    """
    where = f"metric {shown(made.id)}"
    if not isinstance(made.id, str) or not _ID.fullmatch(made.id):
        raise InputError(f"{where}: an id is written family.name, in small letters, digits and underscores")
    choices = {
        "kind": get_args(Kind), "on": tuple(RUNS), "level": get_args(Level), "axis": get_args(Axis),
        "rows": get_args(Axis), "cols": get_args(Axis), "worst": ("max", "min", None), "domain": get_args(Domain),
        "figure": get_args(Figure), "norm": get_args(Norm), "chance": get_args(Chance),
    }  # fmt: skip
    for name, allowed in choices.items():
        value = getattr(made, name)
        if value not in allowed:
            raise InputError(f"{where}: {name} is {shown(value)}; it is one of {', '.join(map(repr, allowed))}")
    for name in ("label", "unit", "formula", "source", "row_label", "col_label", "undefined", "section", "result"):
        if not isinstance(getattr(made, name), str):
            raise InputError(f"{where}: {name} is {shown(getattr(made, name))}; it is text")
    for name in ("parts", "scopes", "groups", "needs"):
        value = getattr(made, name)
        if not isinstance(value, tuple) or not all(isinstance(v, str) and v for v in value):
            raise InputError(f"{where}: {name} is {shown(value)}; it is a list of names")
    for name in ("default", "always", "stacked", "precise", "log"):
        if not isinstance(getattr(made, name), bool):
            raise InputError(f"{where}: {name} is {shown(getattr(made, name))}; it is True or False")
    kinds = ("matrix",) if made.rows else ("profile", "token") if made.axis else ("score",)
    if made.kind not in kinds:
        over = " x ".join(made.cells) or "nothing"
        raise InputError(f"{where}: a {made.kind} over {over}; over {over} there is {' or '.join(kinds)}")
    if made.own and made.figure not in ("", *SUITS[made.kind]):
        drawn = " or ".join(SUITS[made.kind]) or "none"
        raise InputError(f"{where}: figure is {shown(made.figure)}; of a {made.kind} it is {drawn}")
    if made.first_col not in (0, 1) or not made.label:
        raise InputError(
            f"{where}: first_col is {shown(made.first_col)}, label {shown(made.label)}; it is 0 or 1, and some text"
        )
    pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in (made.limits, made.drawn))
    numbers = (*made.limits, *made.drawn, made.centre) if pairs else ("",)
    real = [v for v in numbers if v is not None]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not abs(v) <= sys.float_info.max for v in real):
        raise InputError(
            f"{where}: limits are {shown(made.limits)}, drawn {shown(made.drawn)}, centre {shown(made.centre)}; None "
            "or finite numbers"
        )
    low, high = made.drawn
    if low is not None and high is not None and not (low < high and (made.norm != "log" or low > 0)):
        raise InputError(
            f"{where}: drawn is {shown(made.drawn)}; the first is smaller than the second, and above 0 if norm is 'log'"
        )
