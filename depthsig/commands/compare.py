"""Compare signatures: distances on relative depth, late reliance, and verdicts on three claims.

Everything is computed from saved tables; no model is needed, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.arguments import check_arguments
from depthsig.comparison.claims import judge_claims
from depthsig.comparison.curves import comparable, measure_distances
from depthsig.comparison.held_equal import held_equal
from depthsig.comparison.inputs import Input, check_alike, open_inputs, own_entries, pair_prompts
from depthsig.comparison.recurrence import Periods
from depthsig.comparison.reliance import late_table, model_scores, resampled_scores
from depthsig.comparison.roles import Roles, guess_roles, read_roles
from depthsig.comparison.strict.grounds import Ground, arms_of, open_roles
from depthsig.comparison.strict.unit_tests import Others, random_ground, unit_tests
from depthsig.errors import InputError
from depthsig.progress import Progress
from depthsig.signature import Comparison, Signature
from depthsig.signature.compared import RECORD, SCHEMA
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.writing import ensure_writable
from depthsig.signature.provenance import TABLES_ONLY, versions
from depthsig.statistics.convergence import POINTS, prompt_weights
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES
from depthsig.untrusted import made_visible


def compare(
    signatures: Sequence[Signature | str | Path],
    *,
    roles: str | Mapping[str, Any] | None = None,
    strict: bool = False,
    reworded: str | Mapping[str, Any] | None = None,
    random_ablation: str | Mapping[str, Any] | None = None,
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
        strict: put every supported claim to unit tests (:mod:`depthsig.comparison.strict.unit_tests`): halves of
            the prompts, other prompts, permuted roles, re-initialised networks, random directions of the same
            norm, and a baseline that needs no edited run.
        reworded: signatures of the same networks on reworded or other prompts, as ``roles``; with ``strict``.
        random_ablation: signatures of the same networks and prompts, measured with ``ablation="random"``, as
            ``roles``; with ``strict``.
        seed: of the bootstrap. resamples: how many.
        out: folder to save the tables in; checked before anything is computed.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: fewer than two signatures or one twice, signatures that were measured differently,
            no common prompt or profile, roles that cannot be read, ``reworded`` or ``random_ablation`` without
            ``strict``.
    """
    check_arguments(compare, locals())
    given = {"--reworded": reworded, "--random-ablation": random_ablation}
    alone = [option for option, value in given.items() if value is not None and not strict]
    if alone:
        raise InputError(f"{alone[0]} goes with --strict, which was not given")
    if out is not None:
        ensure_writable(out, RECORD)
    show = Progress.of(progress)
    inputs = open_inputs(signatures)
    who = guess_roles(inputs) if roles is None else read_roles(roles, inputs)
    others = {option: open_roles(value, option) for option, value in given.items() if value is not None}
    warnings = [*check_alike(inputs), *_copies(inputs)]
    pairing = pair_prompts(inputs)
    warnings += pairing.warnings
    weights = prompt_weights(len(pairing), resamples if len(pairing) >= MIN_PROMPTS else 0, seed)
    arms = arms_of(who, len(weights) - 1, seed)
    with show.stage("distances", len(comparable(inputs)[0])) as tick:
        measured = measure_distances(inputs, pairing, weights, arms, who.of, tick)
    with show.stage("scores and claims", 2 * len(arms)) as tick:
        scores = resampled_scores(inputs, pairing, weights)
        periods = Periods(inputs, pairing, weights)
        claims, recurrence = judge_claims(arms, measured, scores, periods, tick)
    tested = pd.DataFrame()
    if strict:
        grounds = {option: Ground.of(*one, resamples, seed) for option, one in others.items()}
        beside = Others(grounds.get("--reworded"), _random(grounds.get("--random-ablation")))
        ground = Ground(inputs, pairing, weights, {arm.role: arm for arm in arms})
        members = {a.role: periods.against(a, c).members for c in arms if c.role == "baseline" for a in arms if a != c}
        with show.stage("unit tests", max(1, len(claims))) as tick:
            tested = unit_tests(ground, claims, measured.compared, members, beside, seed, tick)
    made_of = {
        "inputs": [i.content for i in inputs], "roles": who.members, "seed": seed, "resamples": resamples,
        **_strict_record(strict, others, "content"),
    }  # fmt: skip
    info = {
        "schema": SCHEMA, IDENTITY: identity_of(made_of), "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(TABLES_ONLY), "models": [i.record(who.of(p)) for p, i in enumerate(inputs)],
        "roles": {role: [inputs[p].name for p in places] for role, places in who.members.items()},
        "roles_from": who.said,
        "options": {
            "roles": _text(roles), "seed": seed, "resamples": resamples, "points": POINTS,
            **_strict_record(strict, others, "place"),
        },
        "prompts": {"n": len(pairing), "same_tokens": pairing.same_tokens},
        "profiles": {"compared": [str(k) for k in measured.compared], "left_out": measured.left},
        "metrics": own_entries(inputs), "warnings": warnings,
    }  # fmt: skip
    comparison = Comparison(
        made_visible(info), claims, measured.distances, late_table(inputs, scores, arms),
        model_scores(inputs, scores, who.of), recurrence, measured.profiles, held_equal(inputs, who), tested,
    )  # fmt: skip
    if out is not None:
        comparison.save(out)
    return comparison


def _random(ground: Ground | None) -> Ground | None:
    return None if ground is None else random_ground(ground)


def _strict_record(strict: bool, others: Mapping[str, tuple[list[Input], Roles]], of: str) -> dict[str, Any]:
    """What ``strict`` adds to a record: nothing without it.

    Args:
        of: ``content`` (what the other signatures hold), or ``place`` (where they lie, else their names).
    """
    if not strict:
        return {}
    found: dict[str, Any] = {"strict": True}
    for option, (inputs, roles) in others.items():
        said = [i.content if of == "content" else str(i.path or i.name) for i in inputs]
        name = option.removeprefix("--").replace("-", "_")
        found[name] = {role: [said[p] for p in places] for role, places in roles.members.items()}
    return found


def _copies(inputs: Sequence[Input]) -> list[str]:
    """Names of signatures with the same content in different folders."""
    by_content: dict[str, list[str]] = {}
    for one in inputs:
        by_content.setdefault(one.content, []).append(one.name)
    return [f"{' and '.join(names)} hold the same numbers" for names in by_content.values() if len(names) > 1]


def _text(roles: str | Mapping[str, Any] | None) -> str | None:
    return roles if roles is None or isinstance(roles, str) else ",".join(roles)
