"""What was asked for: the options of an analysis, checked before anything heavy is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

from depthsig.checkpoint.lens_folder import LENS_WORDS, LensKind, by_kind
from depthsig.engine.memory import parse_memory
from depthsig.errors import InputError, shown
from depthsig.metrics.entries.fields import Metric
from depthsig.metrics.entries.runs import EXITS, READ_TRUNCATED, RECALIBRATED, RUN_TRUNCATED
from depthsig.metrics.registry import all_metrics, needed, select
from depthsig.metrics.rules import (
    DEFAULT_METRICS,
    FAMILY,
    JACOBIAN,
    JACOBIAN_OF_PASSES,
    OF_LAYERS,
    WITH_LENS,
    WITH_LOOP,
    WITH_SPAN,
)
from depthsig.prompts.shots import check_shots
from depthsig.terms import ABLATIONS, PARTS, POSITIONS, SCOPES, Part

Names = str | Sequence[str]
"""``"a,b"`` and ``["a", "b"]`` are the same list."""
LARGEST_SEED = 1 << 63


@dataclass(frozen=True)
class Request:
    """Options of ``depthsig analyze`` that say what is measured, under the names of the command.

    Attributes:
        metrics: groups or full names; None for the defaults.
        parts, scopes: what skip and local take away, and where.
        cuts: at most so many a prompt in scope future.
        agg: ``mean``, ``max`` (the papers' worst case) or ``both``.
        n: the first n prompts; None for all.
        max_tokens: prompts are cut after so many tokens.
        chat_template: use the tokenizer's template.
        shots: so many solved examples before each prompt.
        positions: measure at ``all``, ``answer`` or ``last``.
        keep_first: average lens and residual metrics over position 0 too.
        ablation: what stands in the place of a part: ``zero``, ``mean``, or ``random``: the part, less a random
            vector of its own norm.
        memory: to use beside the model, in bytes or as ``4GiB``.
        batch_size: at most so many prompts at once.
        seed: of generated prompts, of random ablations and of the bootstrap.
        control: measure the architecture with re-initialised weights, too; None: where periods are
            tested on a span.
        lens: of ``tuned.*`` and ``jacobian.*``: a lens, its folder or file, or several, one of each kind at most.
        reword: put prompts in other words (:func:`depthsig.prompts.reword`), by this seed; None: as they are.
        probes: of so many positions a prompt, evenly spread, the derivative of a pass by a token's own state is taken.
        calibration: prompts that readouts of truncated runs are fitted on: a name, a file, or a list; None: the
            built-in set after the measured prompts.

    Raises:
        InputError: for options that cannot be used as given.
    """

    metrics: Names | None = None
    parts: Names = ("layer",)
    scopes: Names = ("current",)
    cuts: int = 4
    agg: str = "mean"
    n: int | None = 20
    max_tokens: int = 256
    chat_template: bool = False
    shots: int = 0
    positions: str = "all"
    keep_first: bool = False
    ablation: str = "zero"
    memory: str | int = "4GiB"
    batch_size: int | None = None
    seed: int = 0
    control: bool | None = None
    lens: Any = None
    reword: int | None = None
    calibration: Any = None
    probes: int = 8
    selected: tuple[Metric, ...] = field(init=False, repr=False, compare=False)
    """The entries that were asked for."""
    needed: Mapping[str, Metric] = field(init=False, repr=False, compare=False)
    """The entries that are measured for them, by id."""
    defaulted: bool = field(init=False, repr=False, compare=False)
    """Whether the metrics were left to us."""
    lenses: Mapping[LensKind, Any] = field(init=False, repr=False, compare=False)
    """What ``lens`` gives, by kind."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "defaulted", self.metrics is None)
        several = self.lens if isinstance(self.lens, (list, tuple)) else () if self.lens is None else (self.lens,)
        object.__setattr__(self, "lenses", by_kind(several))
        object.__setattr__(self, "lens", tuple(several) or None)
        if self.metrics is None:
            added = [name for kind in self.lenses for name in WITH_LENS[kind]]
            object.__setattr__(self, "metrics", (*DEFAULT_METRICS, *added))
        for name in ("metrics", "parts", "scopes"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        _choice("parts", self.parts, PARTS)
        _choice("scopes", self.scopes, SCOPES)
        _choice("positions", (self.positions,), POSITIONS)
        _choice("agg", (self.agg,), ("mean", "max", "both"))
        _choice("ablation", (self.ablation,), ABLATIONS)
        check_shots(self.shots)
        for name in ("control", "keep_first", "chat_template"):
            check_switch(name, getattr(self, name))
        for name, least in (
            ("n", 1),
            ("max_tokens", 2),
            ("cuts", 1),
            ("batch_size", 1),
            ("seed", 0),
            ("reword", 0),
            ("probes", 1),
        ):
            check_least(name, getattr(self, name), least)
        if self.seed >= LARGEST_SEED:
            raise InputError(f"--seed {shown(self.seed)} is too large; it must be below {LARGEST_SEED}")
        if self.keep_first and self.positions != "all":
            raise InputError("--keep-first goes with --positions all only")
        object.__setattr__(self, "selected", tuple(select(self.metrics or ())))
        object.__setattr__(self, "needed", needed(self.selected))
        self._check_lens()
        self._check_truncated()
        object.__setattr__(self, "memory", parse_memory(self.memory))

    @property
    def aggs(self) -> tuple[str, ...]:
        """The aggregations to write."""
        return ("mean", "max") if self.agg == "both" else (self.agg,)

    @property
    def bytes(self) -> int:
        """The memory to use beside the model."""
        return int(self.memory)

    @property
    def only_parts(self) -> bool:
        """Whether nothing but attention and MLP rows was asked for."""
        by_part = all(any(n.run.by_part for n in needed([one]).values()) for one in self.selected)
        return by_part and "layer" not in self.parts

    @property
    def wanted(self) -> frozenset[str]:
        """Full names of the metrics asked for."""
        return frozenset(m.id for m in self.selected)

    @property
    def tests_periods(self) -> bool:
        """Whether any period is tested."""
        return any(m.on == "periods" for m in self.selected)

    def on(self, *runs: str) -> list[Metric]:
        """The entries to measure that these kinds of run feed."""
        return [m for m in self.needed.values() if m.on in runs]

    def parts_of(self, metrics: Sequence[Metric]) -> list[Part]:
        """The parts to take away: those asked for, and those that a user's own metrics are declared for."""
        always = {part for m in metrics if m.always and m.own for part in m.parts}
        return [part for part in PARTS if part in self.parts or part in always]

    def for_spans(self, kinds: Sequence[str], *, loops: bool = False, ours: bool | None = None) -> Request:
        """The request for a model with spans of these kinds (``loop``, ``grown``).

        Periods are tested by default where there is a span, and the passes of a loop compared where one runs, by a
        Jacobian lens, too, where its metrics were asked for.
        Periods need the whole of their fixed family, whatever else was asked for, and of grown spans the weights.

        Args:
            loops: whether a loop really runs. ours: whether the metrics were left to us; None: as the request says.
        """
        metrics = tuple(self.metrics or ())
        if loops and JACOBIAN in metrics and JACOBIAN_OF_PASSES not in metrics:
            metrics = (*metrics, JACOBIAN_OF_PASSES)
        if self.defaulted if ours is None else ours:
            have = {m.id for m in select(metrics)}
            added = [*(WITH_SPAN if kinds else ()), *(WITH_LOOP if loops else ())]
            metrics = (*metrics, *(name for name in added if not {m.id for m in select([name])} <= have))
        chosen = select(metrics)
        if any(m.on == "periods" for m in chosen):
            family = [*dict.fromkeys(name for name, _, _ in FAMILY), *[OF_LAYERS] * ("grown" in kinds)]
            have = {m.id for m in chosen}
            metrics = (*metrics, *(name for name in family if name not in have))
        return self if metrics == self.metrics else replace(self, metrics=metrics)

    def without(self, *runs: str) -> Request | None:
        """The request without what these kinds of run feed; None if there is nothing else in it."""
        if not self.on(*runs):
            return self
        names = tuple(m.id for m in self.selected if not any(n.on in runs for n in needed([m]).values()))
        if not names:
            return None
        kinds = {m.run.lens for m in needed(select(names)).values()}
        lens = [one for kind, one in self.lenses.items() if kind in kinds]
        left = replace(self, metrics=names, lens=lens, calibration=None)
        return replace(left, calibration=self.calibration) if left.on(*RECALIBRATED) else left

    def record(self) -> dict[str, Any]:
        """The options, as ``signature.json`` keeps them."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        record["lens"] = None if self.lens is None else [str(one) for one in self.lens]
        if self.calibration is not None:
            record["calibration"] = str(self.calibration) if isinstance(self.calibration, (str, Path)) else "given"
        return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}

    def _check_lens(self) -> None:
        needs = {one.run.lens for one in self.needed.values()}
        for kind, words in LENS_WORDS.items():
            if kind in needs and kind not in self.lenses:
                made_by = "fit-lens" if kind == "tuned" else f"fit-lens --kind {kind}"
                raise InputError(f"{kind} metrics need a {words}: give --lens DIR (`depthsig {made_by}` makes one)")
            if kind in self.lenses and kind not in needs:
                raise InputError(
                    f"--lens {str(self.lenses[kind])!r} is for {kind} metrics, and none was asked for; add {kind} to "
                    "--metrics"
                )

    def _check_truncated(self) -> None:
        losses = self.on(*READ_TRUNCATED, *RUN_TRUNCATED, EXITS)
        if losses and self.positions == "last":
            raise InputError(
                f"{losses[0].id} is the loss of the next token, and the last position has none: give --positions "
                "all or answer"
            )
        if self.calibration is not None and not self.on(*RECALIBRATED):
            raise InputError(
                f"--calibration {shown(self.calibration)} is for readouts that are fitted, and none was asked for; add "
                f"{metric_group(RECALIBRATED[0])} to --metrics"
            )


def metric_group(run: str) -> str:
    """The value of ``--metrics`` that asks for what a kind of run feeds.

    >>> metric_group("erasure")
    'erasure'
    """
    return next(one.groups[0] for one in all_metrics().values() if one.on == run)


def as_tuple(value: Names) -> tuple[str, ...]:
    """A list of names, each once.

    Raises:
        InputError: for anything else.

    >>> as_tuple("a,b") == as_tuple(["a", "b"])
    True
    """
    pieces = value.split(",") if isinstance(value, str) else value
    if not isinstance(pieces, (list, tuple, set, frozenset, dict)) or not all(isinstance(p, str) for p in pieces):
        raise InputError(f"names are a list of strings, or one string with commas; found {shown(value)}")
    return tuple(dict.fromkeys(piece.strip() for piece in pieces if piece.strip()))


def check_least(name: str, value: float | None, least: float) -> None:
    """Refuse a number below the least that means something.

    Raises:
        InputError: naming the option and the least.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or (isinstance(least, int) and value % 1):
        raise InputError(f"{option(name)} is {shown(value)}; it is a {'whole ' * isinstance(least, int)}number")
    if not least <= value < float("inf"):
        raise InputError(f"{option(name)} is {value}; it must be {least:g} or more")


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither True nor False (nor None, where that is for us to choose).

    Raises:
        InputError: naming the option.
    """
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{option(name)} is {shown(value)}; it is True or False")


def _choice(name: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    unknown = [v for v in values if v not in allowed]
    if unknown or not values:
        found = ", ".join(map(repr, unknown)) or "nothing"
        raise InputError(f"{option(name)}: found {found}; known are {', '.join(allowed)}")


def option(name: str) -> str:
    """The command's option of a keyword argument.

    >>> option("max_tokens"), option("n")
    ('--max-tokens', '-n')
    """
    return "-n" if name == "n" else "--" + name.replace("_", "-")
