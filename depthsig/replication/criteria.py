"""The criteria: which claims of which paper are judged, by what, read from ``criteria.toml``."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from depthsig.errors import InputError, near, shown
from depthsig.metrics.rules import COMBINED

_FILE = Path(__file__).with_name("criteria.toml")


@dataclass(frozen=True)
class Paper:
    """A paper whose claims are judged.

    Attributes:
        id: its arXiv number. roles: the roles that its claims are about, where a claim names none.
    """

    id: str
    title: str
    authors: str
    year: int
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """One claim and its criterion.

    Attributes:
        id: ``E1.effect``: the experiment, and which of its claims.
        statement: what is claimed of role ``{a}`` beside ``{c}``.
        quantity: the name of what is measured (:mod:`depthsig.replication.depth_quantities`), ``of`` these.
        prompts: the built-in prompts that it should be measured on; "" where it does not matter.
        roles: whose claim it is; empty: the paper's.
        against: another role, or a number.
        above: whether the quantity is claimed to be larger.
        change: whether it is the change from before to after.
        also: what else must hold for support: ``recurs`` or nothing.
        control: what it is held against. source: where the direction comes from.
        network_sd: standard deviation between networks of one recipe; NaN where it was not measured.
        network_df: its degrees of freedom.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    id: str
    papers: tuple[str, ...]
    statement: str
    quantity: str
    control: str
    source: str
    of: tuple[str, ...] = ()
    prompts: str = ""
    roles: tuple[str, ...] = ()
    against: str | float = "baseline"
    above: bool = True
    change: bool = False
    also: str = ""
    network_sd: float = math.nan
    network_df: int = 0

    @property
    def experiment(self) -> str:
        """The experiment that it belongs to."""
        return self.id.split(".")[0]

    def arms(self, role: str) -> tuple[str, ...]:
        """The names of its arms for one of its roles: A, and C where it is a role; of a change, after and before each.

        >>> criteria().claims[0].arms("looped")
        ('looped', 'baseline')
        """
        names = (role, self.against) if isinstance(self.against, str) else (role,)
        return tuple(f"{one}-{time}" for one in names for time in ("after", "before")) if self.change else names

    @property
    def reference(self) -> float:
        """The number that it is held against; 0 where that is a role."""
        return 0.0 if isinstance(self.against, str) else float(self.against)

    @property
    def measured(self) -> str:
        """Its quantity with what it is of, in one word or two."""
        quantity = self.quantity.removesuffix("_of").replace("_", " ")
        return " of ".join(filter(None, [quantity, ", ".join(p for p in self.of if p != "-")]))

    @property
    def criterion(self) -> str:
        """The criterion in words, as it stands in every row of the results."""
        if self.quantity == "held_equal":
            return "supported where at least one budget is equal within 1 % and another is not; contradicted otherwise"
        than = f"− {self.against}" if isinstance(self.against, str) else f"− {self.against:.4g}"
        side, other = ("above", "below") if self.above else ("below", "above")
        more = {
            "recurs": f"; and {COMBINED} < .05 in every network",
        }
        change = "change of " if self.change else ""
        return (
            f"{change}{self.measured} {than}: supported where the 95 % interval over prompts and networks lies {side} 0"
            f"{more.get(self.also, '')}; contradicted where it lies {other}"
        )


@dataclass(frozen=True)
class Experiment:
    """An experiment: some claims with one way of measuring."""

    id: str
    title: str
    about: str


@dataclass(frozen=True)
class Criteria:
    """Everything that ``criteria.toml`` says."""

    papers: Mapping[str, Paper]
    experiments: Mapping[str, Experiment]
    claims: tuple[Claim, ...] = field(repr=False)

    def of_paper(self, paper: str, only: Sequence[str] = ()) -> list[Claim]:
        """A paper's claims, of all experiments or of some.

        Raises:
            InputError: for a paper or an experiment that is not known.
        """
        if paper not in self.papers:
            known = ", ".join(f"{p.id} ({p.title})" for p in self.papers.values())
            raise InputError(f"no criteria for the paper {shown(paper)}{near(paper, self.papers)}; there are {known}")
        roles = self.papers[paper].roles
        claims = [replace(c, roles=c.roles or roles) for c in self.claims if paper in c.papers]
        there = list(dict.fromkeys(c.experiment for c in claims))
        unknown = [e for e in only if e not in there]
        if unknown:
            raise InputError(f"--only {shown(unknown[0])} is no experiment of {paper}; there are {', '.join(there)}")
        return [c for c in claims if not only or c.experiment in only]


@cache
def criteria() -> Criteria:
    """The criteria of the package."""
    return read_criteria(_FILE.read_text(encoding="utf-8"))


def read_criteria(text: str) -> Criteria:
    """Criteria from the text of a TOML file.

    Raises:
        ValueError: for a claim of other fields or types than :class:`Claim` has, without a source, named like another,
            or of a paper or an experiment that the file does not tell of.
    """
    told = tomllib.loads(text)
    papers = {i: Paper(i, p["title"], p["authors"], p["year"], tuple(p["roles"])) for i, p in told["papers"].items()}
    experiments = {i: Experiment(i, e["title"], e["about"]) for i, e in told["experiments"].items()}
    claims = tuple(map(_read_claim, told["claims"]))
    for one in claims:
        if not one.source or one.experiment not in experiments or not one.papers or not set(one.papers) <= set(papers):
            raise ValueError(f"the claim {one.id} lacks its source, its experiment or its paper")
    if twice := [name for name, n in Counter(one.id for one in claims).items() if n > 1]:
        raise ValueError(f"two claims are called {twice[0]}")
    return Criteria(papers, experiments, claims)


def _read_claim(told: Mapping[str, Any]) -> Claim:
    try:
        return TypeAdapter(Claim).validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"the claim {told.get('id')}: {first['loc'][0]}: {first['msg']}") from None


def criteria_hash(claims: Iterable[Claim]) -> str:
    """SHA-256 of claims with all that decides them: any change of a criterion changes it.

    >>> one = criteria().claims[0]
    >>> from dataclasses import replace
    >>> criteria_hash([one]) == criteria_hash([replace(one, above=not one.above)])
    False
    """
    told = [asdict(one) for one in claims]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def as_record(claim: Claim) -> dict[str, Any]:
    """A claim as a result keeps it, so that a page says what was judged whatever the package says later."""
    told = asdict(claim) | {"criterion": claim.criterion, "experiment": claim.experiment}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in told.items()}  # as JSON gives it back
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}
