"""What was asked for: the options of an analysis, checked before anything heavy is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from depthsig.engine.memory import parse_memory
from depthsig.errors import InputError
from depthsig.metrics.period import FAMILY
from depthsig.metrics.registry import PARTS, SCOPES, Metric, select

POSITIONS = ("all", "answer", "last")
DEFAULT_METRICS = ("lens", "residual", "skip")


@dataclass(frozen=True)
class Request:
    """Options of ``depthsig analyze`` that say what is measured, under the names of the command."""

    metrics: tuple[str, ...] | None = None
    parts: tuple[str, ...] = ("layer",)
    scopes: tuple[str, ...] = ("current", "future")
    cuts: int = 4
    agg: str = "mean"
    n: int | None = 20
    max_tokens: int = 256
    chat_template: bool = False
    positions: str = "all"
    keep_first: bool = False
    ablation: str = "zero"
    memory: str | int = "4GiB"
    batch_size: int | None = None
    seed: int = 0
    control: bool | None = None
    lens: Any = None
    """The tuned lens of ``tuned.*``: its folder; once opened, the lens itself."""
    selected: tuple[Metric, ...] = field(init=False, repr=False, compare=False)
    defaulted: bool = field(init=False, repr=False, compare=False)
    """Whether the metrics were left to us."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "defaulted", self.metrics is None)
        if self.metrics is None:
            object.__setattr__(self, "metrics", DEFAULT_METRICS if self.lens is None else (*DEFAULT_METRICS, "tuned"))
        for name in ("metrics", "parts", "scopes"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        _choice("parts", self.parts, PARTS)
        _choice("scopes", self.scopes, SCOPES)
        _choice("positions", (self.positions,), POSITIONS)
        _choice("agg", (self.agg,), ("mean", "max", "both"))
        _choice("ablation", (self.ablation,), ("zero", "mean"))
        for name, least in (("n", 1), ("max_tokens", 2), ("cuts", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{_option(name)} is {value}; it must be {least} or more")
        if self.keep_first and self.positions != "all":
            raise InputError("--keep-first goes with --positions all only")
        object.__setattr__(self, "selected", tuple(select(self.metrics or ())))
        _check_lens(self.wanted, self.lens)
        object.__setattr__(self, "memory", parse_memory(self.memory))

    @property
    def aggs(self) -> tuple[str, ...]:
        """The aggregations to write."""
        return ("mean", "max") if self.agg == "both" else (self.agg,)

    @property
    def only_parts(self) -> bool:
        """Whether nothing but attention and MLP rows was asked for."""
        edited = all(m.id.startswith(("skip.", "local.", "late_share", "depth_score.")) for m in self.selected)
        return edited and "layer" not in self.parts

    @property
    def wanted(self) -> frozenset[str]:
        """Full names of the metrics asked for."""
        return frozenset(m.id for m in self.selected)

    @property
    def tests_periods(self) -> bool:
        """Whether any period is tested."""
        return any(m.startswith("period.") for m in self.wanted)

    def for_spans(self, kinds: Sequence[str]) -> Request:
        """The request for a model with spans of these kinds (``loop``, ``grown``).

        Periods are tested by default where there is a span. They need the whole of their fixed
        family, whatever else was asked for, and of grown spans the weights.
        """
        metrics = self.metrics or ()
        if self.defaulted and kinds:
            metrics = (*metrics, "period")
        wanted = {m.id for m in select(metrics)}
        if any(m.startswith("period.") for m in wanted):
            family = [*dict.fromkeys(name for name, _, _ in FAMILY), *["weights.cosine"] * ("grown" in kinds)]
            metrics = (*metrics, *(name for name in family if name not in wanted))
        return self if metrics == self.metrics else replace(self, metrics=metrics)

    def record(self) -> dict[str, Any]:
        """The options, as ``signature.json`` keeps them."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        record["lens"] = None if self.lens is None else str(self.lens)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}


def _check_lens(wanted: frozenset[str], lens: Any) -> None:
    tuned = any(m.startswith("tuned.") for m in wanted)
    if tuned and lens is None:
        raise InputError("tuned metrics need a tuned lens: give --lens DIR (`depthsig fit-lens` makes one)")
    if lens is not None and not tuned:
        raise InputError(f"--lens {str(lens)!r} is for tuned metrics, and none was asked for; add tuned to --metrics")


def as_tuple(value: str | Sequence[str]) -> tuple[str, ...]:
    """``"a,b"`` and ``["a", "b"]`` are the same list."""
    pieces = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(piece.strip() for piece in pieces if piece.strip()))


def _choice(name: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    unknown = [v for v in values if v not in allowed]
    if unknown or not values:
        found = ", ".join(map(repr, unknown)) or "nothing"
        raise InputError(f"{_option(name)}: found {found}; known are {', '.join(allowed)}")


def _option(name: str) -> str:
    return "-n" if name == "n" else "--" + name.replace("_", "-")
