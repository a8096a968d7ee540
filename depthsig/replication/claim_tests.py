"""Unit tests of supported claims: halves of the prompts, other prompts, permuted roles, controls, a cheap quantity.

The tests are those of ``compare --strict`` (:mod:`depthsig.comparison.strict`), put to any claim: what each network
gives is asked for again with other weights of the prompts, other prompts, or re-initialised weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from depthsig.comparison.curves import Arm
from depthsig.comparison.strict.arm_claim import ArmClaim, Outcome
from depthsig.comparison.strict.halves import halves_test
from depthsig.comparison.strict.negatives import permuted_labels
from depthsig.comparison.strict.placebos import CHEAP, cheap_baseline
from depthsig.comparison.strict.unit_tests import REINITIALISED, REWORDED, all_told
from depthsig.errors import InputError
from depthsig.metrics.rules import MOVES
from depthsig.replication.criteria import Claim
from depthsig.replication.depth_quantities import BY_QUANTITY, Found
from depthsig.replication.gathered import Gathered, Group, Items
from depthsig.replication.judging import NOT_MEASURABLE, sides_of, verdict_of
from depthsig.replication.members import TrainedNetwork
from depthsig.replication.needs import PRIMITIVE, WORD_PROBLEMS

_OTHER = {PRIMITIVE: WORD_PROBLEMS, WORD_PROBLEMS: PRIMITIVE}
_LATE = ("score", "last_third")
"""Quantities that a share of what needs no edited run could tell as well."""


def claim_tests(evidence: Gathered, claims: Sequence[Claim], judged: pd.DataFrame) -> pd.DataFrame:
    """Test every supported row of ``replication.csv``: a row a test, the columns of ``unit_tests.csv``.

    ``strict`` says what all tests of a row come to: ``stands`` where each passed, ``falls`` where one failed,
    ``untested`` where none failed but some say nothing.
    """
    by_id = {claim.id: claim for claim in claims}
    rows: list[dict[str, Any]] = []
    for row in judged[judged["verdict"] == "supported"].to_dict("records"):
        claim = by_id[row["claim"]]
        if claim.quantity == "held_equal":
            continue  # counted, not measured: there is nothing to test
        found = _ClaimTrial(evidence, claim, row["role"]).run()
        strict = all_told(found)
        rows += [
            {"claim": claim.id, "role": row["role"], "test": one.test, "passed": one.passed, "value": one.value,
             "ci_low": one.low, "ci_high": one.high, "note": one.note, "strict": strict}
            for one in found
        ]  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class _ClaimTrial:
    """The tests of one claim for one role."""

    evidence: Gathered
    claim: Claim
    role: str

    def run(self) -> list[Outcome]:
        tested = [self._reworded()]
        about = self._arm_claim()
        if about is not None:
            claim, values, lengths = about
            tested.insert(0, halves_test(claim, lengths, self.evidence.seed))
            if isinstance(self.claim.against, str):
                tested.append(permuted_labels(claim, values, self.evidence.seed))
        tested.append(self._reinitialised())
        if self.claim.quantity in _LATE and isinstance(self.claim.against, str):
            tested.append(self._cheap())
        return tested

    def _places(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        sides = list(sides_of(self.evidence, self.claim, self.role).values())
        half = len(sides) // 2 if len(sides) > 1 else 1
        return tuple(p for s in sides[:half] for p in s), tuple(p for s in sides[half:] for p in s)

    def _found(self, evidence: Gathered, claim: Claim | None = None) -> Found:
        claim = claim or self.claim
        a, c = self._places()
        return BY_QUANTITY[claim.quantity](evidence, claim, a, c)

    def _arm_claim(self) -> tuple[ArmClaim, Float[ndarray, "row network"], Int[ndarray, "prompt"]] | None:
        """The claim as the tests want it; None where it has no prompts, or four arms."""
        found = self._found(self.evidence)
        if self.claim.change or found.basis is None:
            return None
        a, c = self._places()
        mine = [p for p in a if p in found.places]
        theirs = list(c) if found.of_c is not None else [p for p in c if p in found.places]

        def values(found: Found) -> Float[ndarray, "row network"]:
            own = found.values[:, [found.places.index(p) for p in mine]] - self.claim.reference
            if found.of_c is not None:
                return np.concatenate([own, found.of_c], 1)
            return np.concatenate([own, found.values[:, [found.places.index(p) for p in theirs]]], 1)

        first = values(found)
        # Without another arm the claim is tested against a number, which no network can change places with.
        if not theirs:
            first = np.concatenate([first, np.zeros((len(first), 1))], 1)
        rows = len(first)
        columns = (range(len(mine)), range(len(mine), first.shape[1]))
        arms = tuple(
            Arm(name, tuple(places), np.full((rows, len(places)), 1 / len(places)))
            for name, places in zip((self.role, "against"), columns, strict=True)
        )

        def measure(weights: Float[ndarray, "row prompt"]) -> Float[ndarray, "row network"]:
            again = values(self._found(self.evidence.reweighted(weights)))
            return again if theirs else np.concatenate([again, np.zeros((len(again), 1))], 1)

        return ArmClaim(arms, measure, found.basis.weights, above=self.claim.above), first, _lengths(found.basis)

    def _reworded(self) -> Outcome:
        other = _OTHER.get(self.claim.prompts)
        if other is None:
            return Outcome(REWORDED, "not tested", "no other prompts can answer it")
        group = self._on(other)
        if group is None:
            return Outcome(REWORDED, "not tested", f"not measured on {other}; results folders of it test it")
        row = verdict_of(group, replace(self.claim, prompts=other), self.role)
        return _as_outcome(REWORDED, row, row["verdict"] == "supported", f"on {other}")

    def _on(self, prompts: str) -> Gathered | None:
        """The evidence with signatures on these prompts only; None where an arm has none."""
        networks = tuple(
            replace(n, signatures=tuple(s for s in n.signatures if s.info["options"].get("prompts") == prompts))
            for n in self.evidence.networks
        )
        a, c = self._places()
        return _other(self.evidence, networks) if all(networks[p].signatures for p in (*a[:1], *c[:1])) else None

    def _reinitialised(self) -> Outcome:
        a, c = self._places()
        networks = tuple(_untrained(n) for n in self.evidence.networks)
        if not any(networks[p].signatures for p in a) or (c and not any(networks[p].signatures for p in c)):
            return Outcome(REINITIALISED, "not tested", "no control in both arms; analyze with --control")
        row = verdict_of(_other(self.evidence, networks), self.claim, self.role, untrained=True)
        return _as_outcome(REINITIALISED, row, row["verdict"] != "supported", "re-initialised")

    def _cheap(self) -> Outcome:
        cheap = replace(self.claim, quantity="last_third", of=(MOVES, "layer", "-"))
        try:
            ours, theirs = self._found(self.evidence), self._found(self.evidence, cheap)
        except InputError as error:
            return Outcome(CHEAP, "not tested", str(error))
        if theirs.reason or set(ours.places) != set(theirs.places) or len(ours.values) != len(theirs.values):
            return Outcome(CHEAP, "not tested", f"{MOVES} was not measured of the same networks and prompts")
        sign = 1 if self.claim.above else -1
        a, c = self._places()
        rows = [
            sign * (f.values[:, [f.places.index(p) for p in a if p in f.places]].mean(1)
                    - f.values[:, [f.places.index(p) for p in c if p in f.places]].mean(1))
            for f in (ours, theirs)
        ]  # fmt: skip
        return cheap_baseline(rows[0], rows[1], f"the last third's share of {MOVES}")


def _lengths(basis: Group | Items) -> Int[ndarray, "prompt"]:
    """Of each prompt, in tokens; items are told apart by their task."""
    if isinstance(basis, Items):
        names = list(dict.fromkeys(basis.tasks))
        return np.array([names.index(task) for task in basis.tasks])
    prompts = basis.inputs[0].signature.prompts.set_index("prompt")
    return prompts.loc[basis.pairing.rows[0], "n_tokens"].to_numpy(int)


def _untrained(network: TrainedNetwork) -> TrainedNetwork:
    """The same architecture with re-initialised weights, as far as it was measured."""
    return replace(network, signatures=tuple(s.control for s in network.signatures if s.control is not None))


def _other(evidence: Gathered, networks: tuple[TrainedNetwork, ...]) -> Gathered:
    return Gathered(networks, evidence.runs.iloc[:0], evidence.seed, evidence.resamples)


def _as_outcome(test: str, row: Mapping[str, Any], passed: bool, said: str) -> Outcome:
    if row["verdict"] == NOT_MEASURABLE:
        return Outcome(test, "not tested", f"{said}: {row['note']}")
    note = f"{row['verdict']} {said}"
    return Outcome(test, "yes" if passed else "no", note, row["estimate"], row["ci_low"], row["ci_high"])
