"""What feeds metrics: providers of runs, the work and the batches that they are given, and what a prompt costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

from depthsig.engine.batch import Batch
from depthsig.engine.certificates import Verdict
from depthsig.engine.clean_run import CleanRun
from depthsig.engine.device import Pending
from depthsig.engine.network import Network
from depthsig.engine.rows import Clean
from depthsig.measure.request import Request
from depthsig.measure.token_rows import TOKEN_PROMPTS, TokenRows
from depthsig.measure.truncated.recalibrated import Recalibrated
from depthsig.measure.where import Where, measured
from depthsig.metrics import Metric
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Samples


@dataclass(frozen=True)
class Work:
    """A request on a model and its prompts.

    Attributes:
        prompts: all of them; ``counted`` are those with a measured position.
        verdict: what the certificates allow.
        recalibrated: readouts of prefixes that were fitted on calibration prompts, where they are needed.
    """

    network: Network
    request: Request
    prompts: Sequence[TokenPrompt]
    verdict: Verdict
    recalibrated: Recalibrated | None = None

    @cached_property
    def counted(self) -> list[TokenPrompt]:
        """The prompts that take part."""
        return [p for p in self.prompts if p.positions]

    @cached_property
    def first(self) -> frozenset[int]:
        """The prompts whose tokens are kept."""
        return frozenset(p.index for p in self.prompts[:TOKEN_PROMPTS])

    @property
    def steps(self) -> int:
        """How many steps the plan has."""
        return len(self.network.plan)

    @property
    def batch_size(self) -> int | None:
        """At most so many prompts at once."""
        return self.request.batch_size if self.verdict.pad else 1


@dataclass(frozen=True)
class Cost:
    """What is done for one prompt: runs, executed steps and readouts, each of its length."""

    runs: float = 0.0
    steps: float = 0.0
    readouts: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.runs + other.runs, self.steps + other.steps, self.readouts + other.readouts)


@dataclass
class CleanBatch:
    """One batch that has run clean.

    Attributes:
        where: the measured tokens; with position 0 where that is asked for.
        tick: reports tokens that are done with.
        later: what stays on the device until the batch ends.
    """

    work: Work
    batch: Batch
    run: CleanRun
    where: Where
    later: Pending
    tick: Callable[[float], None] = lambda amount: None

    @cached_property
    def counted(self) -> Where:
        """The measured tokens, never position 0."""
        return measured(self.batch, self.work.counted)

    @cached_property
    def clean(self) -> Clean:
        """The batch, ready to be edited."""
        return Clean.from_run(self.work.network, self.batch, self.run)


class Provider(Protocol):
    """Measures what some kinds of run feed."""

    kinds: ClassVar[tuple[str, ...]]
    """The kinds of run that it provides."""

    @property
    def needs_parts(self) -> bool:
        """Whether attention and MLP contributions must be known."""

    def cost(self, prompt: TokenPrompt) -> Cost:
        """For one prompt, beside the clean run itself."""


class CleanProvider(Provider, Protocol):
    """Provides for what the clean run gives, batch by batch."""

    by_batch: ClassVar[bool]
    """Whether a batch can be measured without the others: nothing is pooled over prompts."""

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None: ...

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch, into per-prompt samples and token-level rows."""

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """What takes all prompts together."""


@dataclass
class Pool:
    """The first counted tokens of all prompts, in prompt order, with their states."""

    places: dict[tuple[int, int], int] = field(default_factory=dict)

    def chosen(self, where: Where) -> tuple[list[int], list[int]]:
        """Which of some tokens are in it, and their places."""
        pairs = zip(where.prompts, where.positions.tolist(), strict=True)
        places = [self.places.get((int(p), t), -1) for p, t in pairs]
        inside = [i for i, place in enumerate(places) if place >= 0]
        return inside, [places[i] for i in inside]

    @property
    def prompts(self) -> int:
        """How many prompts it has tokens of."""
        return len({prompt for prompt, _ in self.places})
