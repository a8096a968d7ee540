"""What has to be measured of a network so that claims can be judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from depthsig.metrics import entry
from depthsig.metrics.rules import EARLY_EXIT_LOSS, FAMILY
from depthsig.replication.criteria import Claim
from depthsig.signature import Signature
from depthsig.tables.samples import Key
from depthsig.terms import NONE

PRIMITIVE, WORD_PROBLEMS = "lookup", "gsm8k"
"""The built-in prompts that claims name, or that a claim is measured on which names none."""
_PERIODS = ("period", "period_of", "period_beside_control", "period_own_block")
_RUNS = {
    "repeat_change": "repeat", "repeat_best": "repeat", "repeat_slope": "repeat", "exact_answers": "repeat",
    "shots_slope": "shots", "pruning": "pruning",
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What one analysis of a network should hold.

    Attributes:
        prompts: the built-in set. control: whether the re-initialised architecture is measured beside it.
    """

    prompts: str
    keys: tuple[Key, ...]
    control: bool = False

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
        there: set[tuple[str, str, str]] = set()
        controlled = False
        for signature in signatures:
            if str(signature.info.get("options", {}).get("prompts")) == self.prompts:
                table = signature.samples_table
                there |= set(zip(table["metric"], table["part"], table["scope"], strict=True))
                controlled |= signature.control is not None
        missing = tuple(k for k in self.keys if (k.metric, k.part, k.scope) not in there)
        control = self.control and not controlled
        if not missing and not control:
            return None
        # A control is measured beside what it controls.
        return Wanted(self.prompts, self.keys if control else missing, control)


def wanted(claims: Iterable[Claim]) -> list[Wanted]:
    """The analyses that claims ask for, one a set of prompts."""
    found: dict[str, dict[Key, None]] = {}
    controlled: set[str] = set()
    for claim in claims:
        prompts = claim.prompts or PRIMITIVE
        keys = _keys(claim)
        if keys:
            found.setdefault(prompts, {Key(EARLY_EXIT_LOSS): None}).update(dict.fromkeys(keys))
        if claim.quantity == "period_beside_control":
            controlled.add(prompts)
    return [Wanted(prompts, tuple(keys), prompts in controlled) for prompts, keys in found.items()]


def wanted_runs(claims: Iterable[Claim]) -> list[str]:
    """The kinds of runs beside signatures that claims ask for: ``repeat``, ``shots``, ``pruning``."""
    return list(dict.fromkeys(_RUNS[c.quantity] for c in claims if c.quantity in _RUNS))


def _keys(claim: Claim) -> list[Key]:
    if claim.quantity in _PERIODS:
        return [Key(*member) for member in FAMILY]
    if claim.quantity == "score":
        name, part, scope = claim.of
        return [Key(entry(name).needs[0], part, scope)]
    if claim.quantity in _RUNS or not claim.of:
        return []
    keys = [Key(*claim.of[i : i + 3]) for i in range(0, len(claim.of), 3)]
    if any(entry(k.metric).on == "tuned" for k in keys):
        return []  # needs a fitted lens: only what was measured already can answer
    # A score over depth is shown beside the profile that it is made of.
    return keys + [Key(need) for k in keys for need in entry(k.metric).needs if entry(k.metric).kind == "score"]
