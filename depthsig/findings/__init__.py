"""Findings: a dozen or so claims about how a model uses its depth, each judged by one number beside a reference.

The rules stand in :data:`RULES`, by what they are about: :mod:`~depthsig.findings.using_depth`,
:mod:`~depthsig.findings.early_exits`, :mod:`~depthsig.findings.recurring`, :mod:`~depthsig.findings.single_steps`,
:mod:`~depthsig.findings.assurance`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from depthsig.findings.assurance import ASSURANCE
from depthsig.findings.early_exits import EARLY_EXITS
from depthsig.findings.evidence import Evidence
from depthsig.findings.finding import LEVEL, Judged, Rule, Unjudged, recorded
from depthsig.findings.recurring import RECURRING
from depthsig.findings.shown import Findings, shown
from depthsig.findings.single_steps import SINGLE_STEPS
from depthsig.findings.using_depth import USING_DEPTH
from depthsig.statistics.resampling import missed

if TYPE_CHECKING:
    from depthsig.signature import Signature

RULES: tuple[Rule, ...] = (*USING_DEPTH, *EARLY_EXITS, *RECURRING, *SINGLE_STEPS, *ASSURANCE)
"""Every rule, in the order in which findings are told."""


def findings_of(signature: Signature) -> Findings:
    """What a signature says about its model, claim by claim; what cannot be judged is open, with the reason."""
    seen = Evidence(signature)
    judged = {rule: _judge(rule, seen) for rule in RULES}
    by = [found.by for found in judged.values() if found.verdict != "open" and found.by != "count"]
    rates = [LEVEL if one == "test" else missed(max(2, len(signature.prompts))) for one in by]
    records = [recorded(rule, found) for rule, found in judged.items()]
    return Findings(records, [shown(rule, found) for rule, found in judged.items()], rates)


def beside_early_exit(signature: Signature) -> str:
    """What stands beside every early-exit curve: how much of its loss is its readout's."""
    seen = Evidence(signature)
    return " ".join(_judge(rule, seen).sentence for rule in EARLY_EXITS)


def _judge(rule: Rule, seen: Evidence) -> Judged:
    try:
        found = rule.judge(seen)
    except Unjudged as why:
        return Judged(why.metric, f"Open: {why}.", why.estimate, None, "open", caveat=str(why))
    if found.by == "interval" and found.verdict == "open" and math.isnan(found.estimate.low):
        return replace(found, sentence=f"{found.sentence} Open: there is no interval to judge it by.")
    return found
