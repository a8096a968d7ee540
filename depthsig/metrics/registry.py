"""The one list of metrics: what exists, what it means, what computes it, and how it is drawn.

A metric is a function with an entry, put there by :func:`metric`. The command line, the schedule of
runs, the tables, the report, the docs and the tests read this list and keep none of their own.
Nothing here imports torch, so a saved signature can be reported without it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from depthsig.errors import InputError
from depthsig.metrics.runs import BY_DEFAULT, RUNS, Axis, Level, Offer, RunKind
from depthsig.terms import NONE, PARTS, SCOPES

Kind = Literal["profile", "matrix", "score", "token"]
Figure = Literal["profile", "heatmap", "top_tokens", "token_map", "trajectories", ""]
Domain = Literal["", "later", "later, where run", "within", "from row 1", "last row"]
"""Which cells a matrix has: all; columns after the row; those that row + column keeps inside; rows from 1; the last."""
Limits = tuple[float | None, float | None]

F = TypeVar("F", bound=Callable[..., Any])

_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")


@dataclass(frozen=True)
class Metric:
    """One metric: identity, definition, where it is measured, how it accumulates and is drawn.

    Attributes:
        id: full name, ``family.name``.
        kind: ``profile`` (over depth or step), ``matrix``, ``score`` or ``token`` (depth x token).
        on: the kind of run that feeds it (:data:`depthsig.metrics.runs.RUNS`).
        level: what a call of its function sees (:data:`depthsig.metrics.runs.Level`).
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
            axis or colours. centre: the natural middle of its values (0 for cosines), where it has one.
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
    norm: Literal["linear", "log"] = "linear"
    centre: float | None = None
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
        return self.on not in ("scores", "periods")

    def asks(self) -> tuple[str, ...]:
        """The names that its function is given by its run."""
        return () if self.function is None else _asked(self.function, self.run, self.level, self.cells, self.needs)

    def record(self) -> dict[str, Any]:
        """All of it but the function, as JSON keeps it."""
        found = {k: v for k, v in asdict(self).items() if k != "function"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


_ENTRIES: dict[str, Metric] = {}
_BUILT_IN: set[str] = set()
_loading = False


def metric(
    id: str, *, on: str | None = None, level: Level | None = None, axis: Axis = "", rows: Axis = "", cols: Axis = "",
    parts: Sequence[str] = (), label: str = "", unit: str = "", formula: str = "", source: str = "",
    groups: Sequence[str] = (), limits: Limits = (None, None), worst: Literal["max", "min"] | None = "max",
    **more: Any,
) -> Callable[[F], F]:  # fmt: skip
    """Declare a function as a metric: the names of its parameters say what it needs.

    >>> import depthsig
    >>> @depthsig.metric("mine.participation", axis="depth", label="participation ratio", formula="(Σh²)²/Σh⁴")
    ... def participation(h):
    ...     return (h**2).sum(-1) ** 2 / (h**4).sum(-1)

    From then on ``metrics=["mine.participation"]`` measures it: per-prompt values, intervals, tables,
    figures, comparisons and period tests. Arguments are tensors of at least float32, one row a token:
    ``h`` [n, d] is the state at each depth (over steps: entering each step), ``h_next`` the state that
    leaves a step, ``u`` and ``r`` a part's contribution and what it is added to, ``logits`` [n, vocab]
    a readout (of an edited run: its output), ``final`` the model's own, ``targets`` [n] the ids that
    follow (−1 where none does), ``delta`` and ``delta_edited`` a later step's update without and with
    an edit; what comes back is [n]. With ``hs``, ``us`` and other plurals (``level="stack"``) all depths
    or steps stand along the first axis, and what comes back has its cells first and the tokens last.
    :data:`depthsig.metrics.runs.RUNS` lists what each kind of run offers.

    Args:
        id: full name, ``family.name``. An own id declared again replaces the one before.
        on: the kind of run that feeds it: ``clean``, ``readout``, ``tuned``, ``skip``, ``loop`` ...;
            default: ``clean`` or ``readout``, by what the function asks for.
        level: ``token``, ``stack``, ``pooled``, ``table`` or ``rest``; default: by what it asks for.
        axis: ``depth`` (S+1 values) or ``step`` (S values), for a profile.
        rows, cols: the axes of a matrix.
        parts: the parts (``layer``, ``attn``, ``mlp``) that it is measured for, whatever ``--parts`` says.
        label, unit, formula, source: what figures, tables and the report say of it.
        groups: the values of ``--metrics`` that ask for it besides its name; default: its family.
        limits: the range of its values, where bounded.
        worst: which extreme ``--agg max`` takes; None for none.
        more: further fields of :class:`Metric`.

    Raises:
        InputError: for a name that nothing offers, an id that is built in, or a field there is not.
    """
    given: dict[str, Any] = {
        "axis": axis, "rows": rows, "cols": cols, "parts": tuple(parts), "label": label, "unit": unit,
        "formula": formula, "source": source, "groups": tuple(groups), "limits": tuple(limits), "worst": worst, **more,
    }  # fmt: skip

    def decorate(function: F) -> F:
        declare(_entry(id, function, on, level, given))
        return function

    return decorate


def declare(entry: Metric) -> None:
    """Put an entry on the list.

    Raises:
        InputError: where a built-in metric has its id.
    """
    if entry.id in _BUILT_IN or (_loading and entry.id in _ENTRIES):
        raise InputError(f"metric {entry.id!r} is built in; declare your own under another id")
    _ENTRIES[entry.id] = entry
    if _loading:
        _BUILT_IN.add(entry.id)


def forget(id: str) -> None:
    """Take a metric of one's own off the list.

    Raises:
        InputError: for a built-in one, or one that is not there.
    """
    if not entry(id).own:
        raise InputError(f"metric {id!r} is built in and stays")
    del _ENTRIES[id]


class declaring_built_in:
    """While the package's own modules are imported, what they declare is built in."""

    def __enter__(self) -> None:
        global _loading
        _loading = True

    def __exit__(self, *error: object) -> None:
        global _loading
        _loading = False


def all_metrics() -> Mapping[str, Metric]:
    """Every metric by its full name, in the order in which they were declared."""
    return _ENTRIES


def entry(name: str) -> Metric:
    """The entry called ``name``; an :class:`InputError` that lists what exists otherwise."""
    try:
        return _ENTRIES[name]
    except KeyError:
        raise InputError(f"unknown metric {name!r}; {_known()}") from None


def select(names: Iterable[str]) -> list[Metric]:
    """The metrics that a list of group names and full names asks for, each once, in listed order.

    >>> [m.id for m in select(["settling_depth"])]
    ['settling_depth']
    """
    every = list(_ENTRIES.values())
    chosen: dict[str, Metric] = {}
    for name in names:
        name = name.strip()
        hits = [m for m in every if name == m.id]
        hits = hits or [m for m in every if name in m.groups and m.default]
        hits = hits or [m for m in every if name and m.id.startswith(name + ".") and m.default]
        if not hits:
            raise InputError(f"unknown metric {name!r}; {_known()}")
        chosen.update({m.id: m for m in hits})
    if not chosen:
        raise InputError(f"no metric was asked for; {_known()}")
    return list(chosen.values())


def needed(chosen: Iterable[Metric]) -> dict[str, Metric]:
    """The entries to measure for those that are asked for: scores need their profiles."""
    found: dict[str, Metric] = {}
    todo = list(chosen)
    while todo:
        one = todo.pop(0)
        if one.id not in found:
            found[one.id] = one
            todo += [entry(name) for name in one.needs]
    return found


def read_entry(record: Any) -> Metric:
    """An entry as a file keeps it, without a function.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("id"), str):
        raise ValueError("a metric's entry is no object with an id")
    known = {f.name: f for f in fields(Metric) if f.name != "function"}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k in known}
    try:
        found = Metric(**values)
        _check_fields(found)
    except (TypeError, InputError) as error:
        raise ValueError(f"the entry of metric {record['id']!r} is damaged: {error}") from None
    return found


def _entry(id: str, function: Callable[..., Any], on: str | None, level: Level | None, given: dict[str, Any]) -> Metric:
    """A checked entry, with what was left open filled in."""
    where = f"metric {id!r}"
    unknown = sorted(set(given) - {f.name for f in fields(Metric)})
    if unknown:
        raise InputError(f"{where}: there is no field {unknown[0]!r}; see depthsig.metrics.Metric")
    if not isinstance(id, str) or not _ID.fullmatch(id) or (not _loading and "." not in id):
        raise InputError(f"{where}: an id is written family.name, in small letters, digits and underscores")
    if not callable(function):
        raise InputError(f"{where} is no function; put @metric(...) above one")
    if bool(given["rows"]) != bool(given["cols"]) or (given["rows"] and given["axis"]):
        raise InputError(f"{where}: give an axis for a profile, or rows and cols for a matrix")
    axes = (given["rows"], given["cols"]) if given["rows"] else (given["axis"],)
    cells: tuple[Axis, ...] = axes if any(axes) else ()
    needs = tuple(given.get("needs", ()))
    run, at = _place(where, function, on, level, cells, needs)
    kind: Kind = given.pop("kind", None) or ("matrix" if given["rows"] else "profile" if given["axis"] else "score")
    family = id.split(".")[0]
    of_need = entry(needs[0]) if needs and not given.get("stacked") else None
    filled: dict[str, Any] = {
        "label": id, "groups": (family,), "section": family.replace("_", " ").capitalize(),
        "row_label": given["rows"], "col_label": given["cols"], "always": bool(given["parts"]),
        "parts": of_need.parts if of_need else _parts(function, run),
        "scopes": of_need.scopes if of_need else SCOPES if run.by_part else (NONE,),
        "formula": (inspect.getdoc(function) or "").split("\n")[0],
        "figure": {"profile": "profile", "matrix": "heatmap"}.get(kind, ""),
    }  # fmt: skip
    values: dict[str, Any] = {**given, **{k: v for k, v in filled.items() if not given.get(k)}}
    made = Metric(id=id, kind=kind, on=run.name, level=at, own=not _loading, function=function, **values)
    _check_fields(made)
    return made


def _place(
    where: str, function: Callable[..., Any], on: str | None, level: Level | None, cells: tuple[Axis, ...],
    needs: tuple[str, ...],
) -> tuple[RunKind, Level]:  # fmt: skip
    """The run and the level at which everything that a function asks for is offered.

    Raises:
        InputError: naming what is not, and what is.
    """
    if on is not None and on not in RUNS:
        raise InputError(f"{where}: there is no run {on!r}; there are {', '.join(RUNS)}")
    if on is None and needs:
        on = "scores"
    runs = [RUNS[on]] if on is not None else [RUNS[name] for name in BY_DEFAULT]
    levels = [level] if level is not None else list(get_args(Level))
    tried: list[tuple[RunKind, Offer]] = []
    for run in runs:
        for at in levels:
            offer = run.offer(at, cells)
            if offer is None:
                continue
            tried.append((run, offer))
            if not _lacking(function, offer, needs) and (offer.level == "table" or not needs):
                return run, at
    over = " x ".join(cells) or "nothing"
    if not tried:
        there = {" x ".join(o.cells) or "nothing" for run in runs for o in run.offers if level in (None, o.level)}
        said = f"{' and '.join(r.name for r in runs)}: {', '.join(sorted(there)) or 'none'}"
        raise InputError(f"{where}: nothing is offered over {over}; there is, on {said}")
    run, offer = min(tried, key=lambda pair: len(_lacking(function, pair[1], needs)))
    lacking = _lacking(function, offer, needs) or ["other entries' values"]
    known = "; ".join(f"{r.name} offers {', '.join(o.names) or 'nothing'}" for r, o in tried)
    raise InputError(f"{where} asks for {', '.join(map(repr, lacking))}, which nothing offers over {over}: {known}")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _lacking(function: Callable[..., Any], offer: Offer, needs: tuple[str, ...]) -> list[str]:
    """Parameters that must be given and are not offered."""
    asked = _parameters(function)[len(needs) :]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in asked if p.name not in offer.names and (p.default is p.empty or p.kind in variadic)]


def _asked(
    function: Callable[..., Any], run: RunKind, level: Level, cells: tuple[Axis, ...], needs: tuple[str, ...]
) -> tuple[str, ...]:
    offer = run.offer(level, cells)
    names = () if offer is None else offer.names
    return tuple(p.name for p in _parameters(function)[len(needs) :] if p.name in names)


def _parts(function: Callable[..., Any], run: RunKind) -> tuple[str, ...]:
    """The parts of a metric that does not say: those of ``--parts``, or the whole layer's contribution."""
    contributions = {"u", "r", "us", "rs"} & {p.name for p in _parameters(function)}
    return PARTS if run.by_part else ("layer",) if contributions else (NONE,)


def _check_fields(made: Metric) -> None:
    """Refuse values that nothing knows what to do with.

    Raises:
        InputError: naming the metric and the field.
    """
    where = f"metric {made.id!r}"
    choices = {
        "kind": get_args(Kind), "on": tuple(RUNS), "level": get_args(Level), "axis": get_args(Axis),
        "rows": get_args(Axis), "cols": get_args(Axis), "worst": ("max", "min", None), "domain": get_args(Domain),
        "figure": get_args(Figure), "norm": ("linear", "log"),
    }  # fmt: skip
    for name, allowed in choices.items():
        value = getattr(made, name)
        if value not in allowed:
            raise InputError(f"{where}: {name} is {value!r}; it is one of {', '.join(map(repr, allowed))}")
    for name in ("label", "unit", "formula", "source", "row_label", "col_label", "undefined", "section", "result"):
        if not isinstance(getattr(made, name), str):
            raise InputError(f"{where}: {name} is {getattr(made, name)!r}; it is text")
    for name in ("parts", "scopes", "groups", "needs"):
        value = getattr(made, name)
        if not isinstance(value, tuple) or not all(isinstance(v, str) and v for v in value):
            raise InputError(f"{where}: {name} is {value!r}; it is a list of names")
    numbers = (*made.limits, made.centre) if isinstance(made.limits, tuple) and len(made.limits) == 2 else ("",)
    if not all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in numbers):
        raise InputError(f"{where}: limits are {made.limits!r}, centre {made.centre!r}; a limit is a number or None")


def _known() -> str:
    groups = sorted({group for m in _ENTRIES.values() for group in m.groups})
    return f"groups are {', '.join(groups)}; `depthsig metrics` lists every name"
