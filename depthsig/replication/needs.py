"""What has to be measured of a network so that claims can be judged."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pandas as pd

from depthsig.metrics import entry
from depthsig.metrics.rules import EARLY_EXIT_LOSS, FAMILY, OF_LAYERS
from depthsig.replication.criteria import Claim
from depthsig.replication.members import TrainedNetwork, arm, means
from depthsig.signature import Signature
from depthsig.tables.samples import Key
from depthsig.terms import NONE

PRIMITIVE, WORD_PROBLEMS = "lookup", "gsm8k"
"""The built-in prompts that claims name, or that a claim is measured on which names none."""
WITH_A_LENS = "tuned"
"""The run that needs a tuned lens."""
_PERIODS = ("period", "period_of", "period_beside_control", "period_own_block")
_RUNS = {
    "repeat_change": "repeat", "repeat_best": "repeat", "repeat_slope": "repeat", "exact_answers": "repeat",
    "shots_slope": "shots", "pruning": "pruning",
}  # fmt: skip


@dataclass(frozen=True)
class Together:
    """What one signature has to hold for a claim: its numbers are of the same prompts then, cut alike.

    Attributes:
        control: whether the re-initialised architecture has to be measured beside it.
    """

    keys: tuple[Key, ...]
    control: bool = False

    def held(self, signature: Signature, there: Collection[Key]) -> bool:
        """Whether a signature, in which these are there, is enough."""
        return all(key in there for key in self.keys) and not (self.control and signature.control is None)


@dataclass(frozen=True)
class Wanted:
    """What the analyses of a network on one set of prompts should hold.

    Attributes:
        prompts: the built-in set; "" where it does not matter.
    """

    prompts: str
    needs: tuple[Together, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        """Everything, each once."""
        return tuple(dict.fromkeys(key for need in self.needs for key in need.keys))

    @property
    def control(self) -> bool:
        """Whether the re-initialised architecture is measured beside it."""
        return any(need.control for need in self.needs)

    @property
    def metrics(self) -> list[str]:
        """Names for ``analyze(metrics=…)``."""
        return sorted({k.metric for k in self.keys})

    @property
    def parts(self) -> list[str]:
        """Values of ``parts``."""
        return [p for p in ("layer", "attn", "mlp") if any(k.part == p and k.scope != NONE for k in self.keys)] or [
            "layer"
        ]

    @property
    def scopes(self) -> list[str]:
        """Values of ``scopes``."""
        return [s for s in ("current", "future") if any(k.scope == s for k in self.keys)] or ["current"]

    def lacking(self, signatures: Iterable[Signature]) -> Wanted | None:
        """What none of some signatures holds on these prompts; None where nothing is lacking."""
        there = [(s, measured(s)) for s in signatures if self.prompts in ("", prompts_of(s))]
        missing = tuple(need for need in self.needs if not any(need.held(s, keys) for s, keys in there))
        return Wanted(self.prompts, missing) if missing else None


def measured(signature: Signature) -> frozenset[Key]:
    """What a signature has mean values of: prompt by prompt, but for weights, which no prompt takes part in."""
    table = signature.samples_table
    weights = signature.matrices[signature.matrices["metric"] == OF_LAYERS]  # no prompt has a value of these
    tables = [table[table["agg"] == "mean"], weights]
    rows = pd.concat([one[["metric", "part", "scope"]].drop_duplicates() for one in tables])
    return frozenset(Key(*map(str, row)) for row in rows.itertuples(index=False))


def prompts_of(signature: Signature) -> str:
    """The name of the set of prompts that a signature was measured on."""
    return str(signature.info.get("options", {}).get("prompts"))


def concerning(claims: Iterable[Claim], network: TrainedNetwork, roles: Collection[str]) -> list[Claim]:
    """The claims that a network is needed for, where somebody stands in each of their arms.

    Args:
        roles: of all networks that take part.
    """
    return [
        claim for claim in claims
        if any(
            any(arm([network], one) for one in claim.arms(role))
            and all(any(means(one, other) for other in roles) for one in claim.arms(role))
            for role in claim.roles
        )
    ]  # fmt: skip


def wanted(claims: Iterable[Claim], *, spans: bool = True) -> list[Wanted]:
    """The analyses that claims ask for, one a set of prompts; with the loss, which tells whether anything was learned.

    Args:
        spans: whether the network has a span that a period could be of; without one a control is of no use.
    """
    found: dict[str, dict[Together, None]] = {}
    for claim in claims:
        if claim.quantity in _RUNS:
            found.setdefault("", {})
        elif keys := _keys(claim):
            control = spans and claim.quantity == "period_beside_control"
            found.setdefault(claim.prompts, {})[Together(tuple(keys), control)] = None
    loss = Together((Key(EARLY_EXIT_LOSS),))
    if "" in found and len(found) > 1:  # any analysis will do, and there is one
        other = next(name for name in found if name)
        found[other] |= found.pop("")
    return [Wanted(prompts or PRIMITIVE, (loss, *needs)) for prompts, needs in found.items()]


def wanted_runs(claims: Iterable[Claim]) -> list[str]:
    """The kinds of runs beside signatures that claims ask for: ``repeat``, ``shots``, ``pruning``."""
    return list(dict.fromkeys(_RUNS[c.quantity] for c in claims if c.quantity in _RUNS))


def _keys(claim: Claim) -> list[Key]:
    if claim.quantity == "held_equal":
        return [Key(EARLY_EXIT_LOSS)]  # any analysis records what a network costs
    if claim.quantity in _PERIODS:
        return [Key(*member) for member in FAMILY]
    if not claim.of or len(claim.of) % 3:
        return []
    keys = [Key(*claim.of[i : i + 3]) for i in range(0, len(claim.of), 3)]
    if any(entry(key.metric).on == WITH_A_LENS for key in keys):
        return []  # a lens is the user's: results measured with one are read
    if claim.quantity == "score":
        return [Key(entry(keys[0].metric).needs[0], keys[0].part, keys[0].scope)]
    # A score over depth is shown beside the profile that it is made of.
    return keys + [Key(need) for k in keys for need in entry(k.metric).needs if entry(k.metric).kind == "score"]
