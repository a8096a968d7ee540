"""What was held equal between the arms: counted from plan and config, with a verdict that needs no interval."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from depthsig.comparison.held_equal import held_equal
from depthsig.comparison.inputs import Input
from depthsig.comparison.roles import Roles
from depthsig.replication.criteria import Claim
from depthsig.replication.depth_quantities import Found, quantity
from depthsig.replication.gathered import Gathered
from depthsig.replication.members import TrainedNetwork, arm
from depthsig.signature import Signature
from depthsig.signature.costs import DIFFERS, EQUAL, HELD_COLUMNS, held_in_words

BUDGETS = ("parameters", "parameters_read", "flops", "kv_bytes", "training_tokens", "training_flops")
"""What an arm may be matched by; steps and layers are its shape."""


def held_table(networks: Sequence[TrainedNetwork], roles: Sequence[str]) -> pd.DataFrame:
    """The table of ``held_equal.csv``, of the networks whose costs are recorded, and of roles side by side."""
    inputs: list[Input] = []
    place_of: dict[int, int] = {}
    for place, one in enumerate(networks):
        signature = _costed(one)
        if signature is not None:
            place_of[place] = len(inputs)
            inputs.append(Input(one.name, signature, None, ""))
    members = {role: tuple(place_of[p] for p in arm(networks, role) if p in place_of) for role in dict.fromkeys(roles)}
    known = Roles({role: places for role, places in members.items() if places}, "as given")
    return held_equal(inputs, known) if inputs else pd.DataFrame(columns=list(HELD_COLUMNS))


@quantity("held_equal")
def held_budgets(evidence: Gathered, claim: Claim, a: tuple[int, ...], c: tuple[int, ...]) -> Found:
    """Which budgets are equal between the arms, and which differ."""
    known: list[Input] = []
    sides: dict[str, tuple[int, ...]] = {}
    for name, places in (("a", a), ("c", c)):
        found = [(p, _costed(evidence.networks[p])) for p in places]
        there = [Input(evidence.networks[p].name, s, None, "") for p, s in found if s is not None]
        sides[name] = tuple(range(len(known), len(known) + len(there)))
        known += there
    if not all(sides.values()):
        return Found(reason="what its networks cost was not recorded; analyze them again")
    table = held_equal(known, Roles(sides, "as given"))
    rows = table[(table["level"] == "role") & table["quantity"].isin(BUDGETS)]
    verdicts = set(rows["verdict"]) & {EQUAL, DIFFERS}
    said = held_in_words(rows)[0].removeprefix("a and c: ").replace("a has", "it has")
    if not verdicts:
        return Found(reason=f"nothing of what its networks cost is known of both arms ({said})")
    return Found(decided="supported" if verdicts == {EQUAL, DIFFERS} else "contradicted", notes=(said,))


def _costed(network: TrainedNetwork) -> Signature | None:
    return next((s for s in network.signatures if s.info.get("costs")), None)
