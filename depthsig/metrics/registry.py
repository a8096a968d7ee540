"""The one list of metrics: what exists, what it means, how it is accumulated and drawn.

Every module of :mod:`depthsig.metrics` declares its entries in a tuple ``METRICS``; this module
collects them. The command line, the report, the docs and the tests read this list and keep none
of their own. Nothing here imports torch, so a saved signature can be reported without it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from depthsig.errors import InputError

Kind = Literal["profile", "matrix", "score", "token"]

PARTS = ("layer", "attn", "mlp")
SCOPES = ("current", "future")


@dataclass(frozen=True)
class Metric:
    """One metric: identity, definition, and how it accumulates and is drawn.

    Attributes:
        id: full name, ``group.name``.
        groups: the values of ``--metrics`` that ask for it (besides its full name).
        kind: ``profile`` (over depth or step), ``matrix``, ``score`` or ``token`` (depth x token).
        axis: ``depth`` (S+1 entries) or ``step`` (S entries) for a profile, else empty.
        label: what a figure's axis says, without the unit.
        unit: ``nats``, ``fraction``, ``probability`` ...; empty where the number is a pure ratio.
        formula: the definition in one line of plain text.
        source: where it comes from (author, arXiv number).
        parts: the values of the column ``part``; ``("",)`` where it does not apply.
        scopes: the values of the column ``scope``; ``("",)`` where it does not apply.
        worst: which extreme ``agg=max`` takes: ``max``, ``min``, or ``None`` (no agg=max).
        log: take logarithms before a period is tested (norms and other positive profiles).
        rows, cols: what a matrix's rows and columns are (axis labels of its heat map).
        diverging: a heat map's natural centre (0 for cosines), or None for sequential colours.
        limits: the range of values, where bounded.
        default: False for a costly metric that its group leaves out.
    """

    id: str
    groups: tuple[str, ...]
    kind: Kind
    label: str
    formula: str
    source: str
    axis: Literal["depth", "step", ""] = ""
    unit: str = ""
    parts: tuple[str, ...] = ("",)
    scopes: tuple[str, ...] = ("",)
    worst: Literal["max", "min"] | None = "max"
    log: bool = False
    rows: str = ""
    cols: str = ""
    diverging: float | None = None
    limits: tuple[float | None, float | None] = (None, None)
    default: bool = True


@cache
def all_metrics() -> dict[str, Metric]:
    """Every metric by its full name, in the order of the modules that declare them."""
    import depthsig.metrics as package

    found: dict[str, Metric] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"depthsig.metrics.{info.name}")
        for metric in getattr(module, "METRICS", ()):
            if metric.id in found:
                raise RuntimeError(f"metric {metric.id!r} is declared twice")
            found[metric.id] = metric
    return found


def metric(name: str) -> Metric:
    """The entry called ``name``; an :class:`InputError` that lists what exists otherwise."""
    try:
        return all_metrics()[name]
    except KeyError:
        raise InputError(f"unknown metric {name!r}; {_known()}") from None


def select(names: Iterable[str]) -> list[Metric]:
    """The metrics that a list of group names and full names asks for, each once, in listed order.

    >>> [m.id for m in select(["settling_depth"])]
    ['settling_depth']
    """
    chosen: dict[str, Metric] = {}
    for name in names:
        name = name.strip()
        hits = [m for m in all_metrics().values() if name == m.id]
        hits = hits or [m for m in all_metrics().values() if name in m.groups and m.default]
        hits = hits or [m for m in all_metrics().values() if name and m.id.startswith(name + ".") and m.default]
        if not hits:
            raise InputError(f"unknown metric {name!r}; {_known()}")
        chosen.update({m.id: m for m in hits})
    if not chosen:
        raise InputError(f"no metric was asked for; {_known()}")
    return list(chosen.values())


def _known() -> str:
    groups = sorted({group for m in all_metrics().values() for group in m.groups})
    return f"groups are {', '.join(groups)}; `depthsig metrics` lists every name"
