"""The one list of metrics: what exists, what it means, what computes it, and how it is drawn.

A metric is a function with an entry, put there by :func:`metric`. The command line, the schedule of
runs, the tables, the report, the docs and the tests read this list and keep none of their own.
Nothing here imports torch, so a saved signature can be reported without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar, Unpack

from depthsig.errors import InputError
from depthsig.metrics.entries.asking import parts_of, place
from depthsig.metrics.entries.fields import SUITS, Kind, Limits, Metric, MoreFields, check_fields, read_entry
from depthsig.metrics.entries.runs import RUNS, Axis, Level
from depthsig.terms import NONE, PARTS, SCOPES

F = TypeVar("F", bound=Callable[..., Any])

_ENTRIES: dict[str, Metric] = {}
_BUILT_IN: set[str] = set()
_loading = False


def metric(
    id: str, *, on: str | None = None, level: Level | None = None, axis: Axis = "", rows: Axis = "", cols: Axis = "",
    parts: Sequence[str] = (), label: str = "", unit: str = "", formula: str = "", source: str = "",
    groups: Sequence[str] = (), limits: Limits = (None, None), worst: Literal["max", "min"] | None = "max",
    **more: Unpack[MoreFields],
) -> Callable[[F], F]:  # fmt: skip
    """Declare a function as a metric: the names of its parameters say what it needs.

    >>> import depthsig
    >>> @depthsig.metric("mine.participation", axis="depth", label="participation ratio", formula="(Σh²)²/Σh⁴")
    ... def participation(h):
    ...     return (h**2).sum(-1) ** 2 / (h**4).sum(-1)

    From then on ``metrics=["mine.participation"]`` measures it: per-prompt values, intervals, tables,
    figures, comparisons and period tests. Arguments are tensors of at least float32 (of ``weights`` and
    ``attribution``: as the model holds them), one row a token:
    ``h`` [n, d] is the state at each depth (over steps: entering each step), ``h_next`` the state that
    leaves a step, ``u`` and ``r`` a part's contribution and what it is added to, ``logits`` [n, vocab]
    a readout (of an edited run: its output), ``final`` the model's own, ``targets`` [n] the ids that
    follow (−1 where none does), ``delta`` and ``delta_edited`` a later step's update without and with
    an edit; what comes back is [n]. With ``hs``, ``us`` and other plurals (``level="stack"``) all depths
    or steps stand along the first axis, and what comes back has its cells first and the tokens last.
    :data:`depthsig.metrics.entries.runs.RUNS` lists what each kind of run offers.

    Args:
        id: full name, ``family.name``. An own id declared again replaces the one before.
        on: the kind of run that feeds it: ``clean``, ``readout``, ``tuned``, ``jacobian``, ``skip``, ``loop`` ...;
            default: ``clean`` or ``readout``, by what the function asks for.
        level: ``token``, ``stack``, ``pooled``, ``table`` or ``rest``; default: by what it asks for.
        axis: ``depth`` (S+1 values) or ``step`` (S values), for a profile.
        rows, cols: the axes of a matrix.
        parts: the parts (``layer``, ``attn``, ``mlp``) that it is measured for, whatever ``--parts`` says.
        label, unit, formula, source: what figures, tables and the report say of it. Default: the first line
            of the function's docstring is the formula, else the label.
        groups: the values of ``--metrics`` that ask for it besides its name; default: its family.
        limits: the range of its values, where bounded.
        worst: which extreme ``--agg max`` takes; None for none.
        more: further fields of :class:`Metric`: those of :class:`depthsig.metrics.entries.fields.MoreFields`,
            ``needs`` (other metrics' values) and ``log`` and ``centre`` among them.

    Raises:
        InputError: for a name that nothing offers, an id that is built in, or a field there is not.
    """
    given: dict[str, Any] = {
        "axis": axis, "rows": rows, "cols": cols, "parts": parts, "label": label, "unit": unit, "formula": formula,
        "source": source, "groups": groups, "limits": limits, "worst": worst, **more,
    }  # fmt: skip
    for name in {"parts", "groups", "needs", "limits", "drawn"} & given.keys():
        given[name] = (given[name],) if isinstance(given[name], str) else given[name]
        given[name] = tuple(given[name]) if isinstance(given[name], list) else given[name]

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
    """Every metric by its full name: by the runs that feed them, and then as they were declared."""
    order = list(RUNS)
    return {one.id: one for one in sorted(_ENTRIES.values(), key=lambda one: order.index(one.on))}


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
    every = list(all_metrics().values())
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


def with_own(records: Iterable[Any]) -> dict[str, Metric]:
    """The built-in metrics, and a user's own as a file keeps them, by id.

    What was declared is kept with the tables, so that nothing else is needed to read them.

    Raises:
        ValueError: saying what is wrong with a record.
    """
    built_in = {name: one for name, one in all_metrics().items() if not one.own}
    return {**{one.id: one for one in map(read_entry, records)}, **built_in}


def _entry(id: str, function: Callable[..., Any], on: str | None, level: Level | None, given: dict[str, Any]) -> Metric:
    """A checked entry, with what was left open filled in."""
    where, given = f"metric {id!r}", dict(given)
    unknown = sorted(set(given) - {f.name for f in fields(Metric)})
    if unknown:
        raise InputError(f"{where}: there is no field {unknown[0]!r}; see depthsig.metrics.Metric")
    if not isinstance(id, str) or (not _loading and "." not in id):
        raise InputError(f"{where}: an id is written family.name, in small letters, digits and underscores")
    if not callable(function):
        raise InputError(f"{where} is no function; put @metric(...) above one")
    if bool(given["rows"]) != bool(given["cols"]) or (given["rows"] and given["axis"]):
        raise InputError(f"{where}: give an axis for a profile, or rows and cols for a matrix")
    axes = (given["rows"], given["cols"]) if given["rows"] else (given["axis"],)
    cells: tuple[Axis, ...] = axes if any(axes) else ()
    needs = given.get("needs", ())
    _check_function(where, function, needs)
    run, at = place(where, function, on, level, cells, needs)
    kind: Kind = given.pop("kind", None) or ("matrix" if given["rows"] else "profile" if given["axis"] else "score")
    family = id.split(".")[0]
    of_need = entry(needs[0]) if needs and not given.get("stacked") else None
    filled: dict[str, Any] = {
        "label": id, "groups": (family,), "section": family.replace("_", " ").capitalize(),
        "row_label": given["rows"], "col_label": given["cols"], "always": bool(given["parts"]),
        "parts": of_need.parts if of_need else parts_of(function, run),
        "scopes": of_need.scopes if of_need else SCOPES if run.by_part else (NONE,),
        "formula": (inspect.getdoc(function) or "").split("\n")[0] or given.get("label") or id,
        "figure": next(iter(SUITS[kind]), "") if kind in SUITS else "",
        **_OF_COLUMNS.get(given["cols"], {}),
    }  # fmt: skip
    values: dict[str, Any] = {**given, **{k: v for k, v in filled.items() if not given.get(k)}}
    made = Metric(id=id, kind=kind, on=run.name, level=at, own=not _loading, function=function, **values)
    check_fields(made)
    if made.own:
        _check_measured(where, made)
    return made


_OF_COLUMNS: Mapping[Axis, dict[str, Any]] = {
    "ahead": {"domain": "within", "first_col": 1}, "end": {"domain": "later, where run", "first_col": 1},
}  # fmt: skip
"""Axes of columns that begin at 1, and the cells that there are."""


def _check_function(where: str, function: Callable[..., Any], needs: Any) -> None:
    """Refuse what says no names of parameters, or needs what is no list of names."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        raise InputError(f"{where}: the parameters of {function!r} have no names; write a function around it") from None
    if not isinstance(needs, tuple) or not all(isinstance(name, str) for name in needs):
        raise InputError(f"{where}: needs is {needs!r}; it is a list of names")


def _check_measured(where: str, made: Metric) -> None:
    """Refuse a user's own metric that would be declared and then not be measured."""
    if made.on == "periods":
        raise InputError(f"{where}: periods are tested of every metric over steps by themselves; leave out on")
    if made.on == "scores" and not made.needs:
        raise InputError(f"{where}: a score is made of other metrics; name them in needs")
    if made.fused:
        raise InputError(f"{where}: fused is for built-in metrics, whose functions it must equal")
    for one in map(entry, made.needs):
        if one.kind not in ("profile", "matrix") or not one.measured:
            raise InputError(f"{where}: {one.id!r} is a {one.kind} of {one.on}; needs are profiles or matrices")
        if made.on not in ("scores", one.on):
            raise InputError(f"{where}: {one.id!r} is measured on {one.on}, not {made.on}; leave out on")
    if made.kind == "token" and not made.run.tokens:
        there = ", ".join(name for name, run in RUNS.items() if run.tokens)
        raise InputError(f"{where}: no token-level values are kept of {made.on}; they are of {there}")
    if made.kind == "profile" and made.level == "pooled" and made.run.tokens:
        raise InputError(f"{where}: pooled states give values of every token; declare it with kind='token'")
    if made.kind == "profile" and made.axis == "iteration":
        raise InputError(f"{where}: profiles are over depth or step; over passes declare it with kind='token'")
    unknown = [part for part in made.parts if part not in (NONE, *PARTS) and made.on != "weights"]
    if unknown:
        raise InputError(f"{where}: there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    of_parts = made.run.by_part or made.on == "weights" or {"u", "r", "us", "rs"} & set(made.asks())
    if made.parts != (NONE,) and not (of_parts or made.needs):
        raise InputError(f"{where}: parts are of what is taken away or added (u, r); it asks for neither")


def _known() -> str:
    groups = sorted({group for m in _ENTRIES.values() for group in m.groups})
    return f"groups are {', '.join(groups)}; `depthsig metrics` lists every name"
