"""How far the rest can be trusted: prompts and certificates."""

from __future__ import annotations

import math

from depthsig.findings.evidence import Evidence
from depthsig.findings.finding import Estimate, Judged, Rule, Unjudged, Verdict, percent
from depthsig.statistics.resampling import MIN_PROMPTS
from depthsig.terms import counted


def _exact(seen: Evidence) -> Judged:
    found = seen.info.get("certificates") or []
    if not found:
        raise Unjudged("certificates", "no certificate was recorded")
    # The one nearest to its tolerance; those of none (a yes or no) can only fail.
    worst = max(found, key=lambda c: (not c["passed"], math.isfinite(share := _share(c)), share))
    failed = [c["name"] for c in found if not c["passed"]]
    estimate = Estimate(_share(worst))
    if failed:
        sentence = f"Of {len(found)} certificates, {', '.join(failed)} failed: numbers may be of another model."
        return Judged("certificates", sentence, estimate, 1.0, "does not hold", by="count")
    sentence = f"All {len(found)} certificates hold: what was run is the model's own forward"
    if math.isfinite(estimate.value):
        sentence += f"; the worst, {worst['name']}, reaches {percent(estimate.value)} of what is tolerated"
    return Judged("certificates", sentence + ".", estimate, 1.0, "holds", by="count")


def _share(certificate: dict) -> float:
    value, tolerated = certificate.get("value"), certificate.get("tolerance")
    if value is None or tolerated is None or not math.isfinite(value):
        return math.nan if certificate["passed"] else math.inf
    return value / tolerated if tolerated else float(value > 0)


def _prompts(seen: Evidence) -> Judged:
    prompts, warnings = seen.signature.prompts, seen.info.get("warnings") or []
    n, tokens = len(prompts), int(prompts["n_tokens"].sum()) if len(prompts) else 0
    said = f"{counted(n, 'prompt')} of {tokens:,} tokens in all"
    said += f"; intervals over prompts take {MIN_PROMPTS} or more" if n >= MIN_PROMPTS else (
        f"; {MIN_PROMPTS} would give intervals"
    )  # fmt: skip
    if warnings:
        many = f"{len(warnings)} warnings, the first" if len(warnings) > 1 else "one warning"
        said += f"; {many}: {str(warnings[0]).rstrip('.')}"
    else:
        said += "; no warnings"
    verdict: Verdict = "holds" if n >= MIN_PROMPTS else "does not hold"
    return Judged("prompts", said + ".", Estimate(n), MIN_PROMPTS, verdict, by="count")


ASSURANCE = (
    Rule("exact", "the model is measured exactly", "depthsig's certificates", _exact, "tolerated", percent),
    Rule("prompts", "there are prompts enough for intervals", "Efron & Tibshirani 1993, ch. 13", _prompts, "needed"),
)
