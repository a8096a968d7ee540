"""Compare signatures: distances on relative depth, late reliance, and verdicts on three claims.

Everything is computed from saved tables; no model is needed, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from depthsig.arguments import check_arguments
from depthsig.comparison.claims import judge_claims
from depthsig.comparison.curves import Arm, comparable, measure_distances
from depthsig.comparison.held_equal import held_equal
from depthsig.comparison.inputs import Input, check_alike, open_inputs, own_entries, pair_prompts
from depthsig.comparison.recurrence import Periods
from depthsig.comparison.reliance import late_table, model_scores, resampled_scores
from depthsig.comparison.roles import Roles, guess_roles, read_roles
from depthsig.progress import Progress
from depthsig.signature import Comparison, Signature
from depthsig.signature.compared import RECORD, SCHEMA
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.writing import ensure_writable
from depthsig.signature.provenance import TABLES_ONLY, versions
from depthsig.statistics.convergence import POINTS, prompt_weights, seed_weights
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES
from depthsig.untrusted import made_visible


def compare(
    signatures: Sequence[Signature | str | Path],
    *,
    roles: str | Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    out: str | Path | None = None,
    progress: bool | Progress | None = None,
) -> Comparison:
    """Compare signatures of models that may differ in depth.

    Profiles are read at 50 relative depths, scaled to unit mean absolute value and compared by L1
    distance, profile by profile (:mod:`depthsig.comparison.curves` says which take part). All
    intervals are 95 % percentile bootstraps: prompts are drawn anew, the same for all signatures; where
    a role has several members (seeds), those first, role by role, and the prompts inside.

    Args:
        signatures: two or more signatures or results folders, measured alike on the same prompts
            (paired by the hash of their text).
        roles: who is who: ``{"looped": sig, "grown": [sig, sig], "baseline": sig}``, with signatures,
            folders or names, several being seeds of one arm; or the command's text
            ``looped=DIR+DIR,grown=DIR,baseline=DIR``. Default: as far as the signatures declare it
            without leaving a choice. Claims are judged where there is a baseline.
        seed: of the bootstrap. resamples: how many.
        out: folder to save the tables in; checked before anything is computed.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: fewer than two signatures or one twice, signatures that were measured differently,
            no common prompt or profile, roles that cannot be read.
    """
    check_arguments(compare, locals())
    if out is not None:
        ensure_writable(out, RECORD)
    show = Progress.of(progress)
    inputs = open_inputs(signatures)
    who = guess_roles(inputs) if roles is None else read_roles(roles, inputs)
    warnings = [*check_alike(inputs), *_copies(inputs)]
    pairing = pair_prompts(inputs)
    warnings += pairing.warnings
    weights = prompt_weights(len(pairing), resamples if len(pairing) >= MIN_PROMPTS else 0, seed)
    arms = _arms(who, len(weights) - 1, seed)
    with show.stage("distances", len(comparable(inputs)[0])) as tick:
        measured = measure_distances(inputs, pairing, weights, arms, who.of, tick)
    with show.stage("scores and claims", 2 * len(arms)) as tick:
        scores = resampled_scores(inputs, pairing, weights)
        claims, recurrence = judge_claims(arms, measured, scores, Periods(inputs, pairing, weights), tick)
    made_of = {
        "inputs": [i.content for i in inputs], "roles": who.members, "seed": seed, "resamples": resamples,
    }  # fmt: skip
    info = {
        "schema": SCHEMA, IDENTITY: identity_of(made_of), "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(TABLES_ONLY), "models": [i.record(who.of(p)) for p, i in enumerate(inputs)],
        "roles": {role: [inputs[p].name for p in places] for role, places in who.members.items()},
        "roles_from": who.said,
        "options": {"roles": _text(roles), "seed": seed, "resamples": resamples, "points": POINTS},
        "prompts": {"n": len(pairing), "same_tokens": pairing.same_tokens},
        "profiles": {"compared": [str(k) for k in measured.compared], "left_out": measured.left},
        "metrics": own_entries(inputs), "warnings": warnings,
    }  # fmt: skip
    comparison = Comparison(
        made_visible(info), claims, measured.distances, late_table(inputs, scores, arms),
        model_scores(inputs, scores, who.of), recurrence, measured.profiles, held_equal(inputs, who),
    )  # fmt: skip
    if out is not None:
        comparison.save(out)
    return comparison


def _arms(roles: Roles, resamples: int, seed: int) -> list[Arm]:
    """Members with their shares; every arm draws its seeds apart from the others and from the prompts."""
    arms = []
    for number, (role, places) in enumerate(roles.members.items()):
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        arms.append(Arm(role, places, seed_weights(len(places), resamples, own)))
    return arms


def _copies(inputs: Sequence[Input]) -> list[str]:
    """Names of signatures with the same content in different folders."""
    by_content: dict[str, list[str]] = {}
    for one in inputs:
        by_content.setdefault(one.content, []).append(one.name)
    return [f"{' and '.join(names)} hold the same numbers" for names in by_content.values() if len(names) > 1]


def _text(roles: str | Mapping[str, Any] | None) -> str | None:
    return roles if roles is None or isinstance(roles, str) else ",".join(roles)
