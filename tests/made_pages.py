"""Results of every kind, made without a model, whose names are hostile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from made_signatures import three_arms
from page_signatures import EVIL

import depthsig
from depthsig.replication.criteria import as_record, criteria, criteria_hash
from depthsig.signature import Comparison
from depthsig.signature.found_blocks import SCHEMA as BLOCKS_SCHEMA
from depthsig.signature.found_blocks import SavedBlocks
from depthsig.signature.repeated import SCHEMA as REPEAT_SCHEMA
from depthsig.signature.repeated import Repeated
from depthsig.signature.replications.replication import OUTCOMES, Replication
from depthsig.signature.replications.replication import SCHEMA as REPLICATION_SCHEMA


def comparison() -> Comparison:
    """Three arms with claims; the looped one has the hostile name."""
    return depthsig.compare(three_arms(looped=EVIL), resamples=30)


def _row(task: str, span: tuple[Any, Any], times: int, damping: float, loss: float) -> dict[str, Any]:
    value = {"loss": loss, "loss_low": loss - 0.1, "loss_high": loss + 0.1}
    right = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    change = {
        "delta_loss": loss - 1,
        "delta_loss_low": loss - 1.1,
        "delta_loss_high": loss - 0.9,
        "delta_accuracy": 0.0,
    }
    about = {"task": task, "start": span[0], "end": span[1], "times": times, "damping": damping, "n_prompts": 6}
    return {**about, **value, **right, **change}


def scan() -> Repeated:
    """Every span of three layers, run twice, on two tasks; layers 1 to 2 lower the loss most, by 0.4 nats."""
    spans = [(a, b) for a in range(3) for b in range(a + 1, 4)]
    runs = [_row(task, (pd.NA, pd.NA), 1, 1.0, 1.0) for task in (EVIL, "lookup")]
    runs += [_row(t, s, 2, 1.0, 0.6 if s == (1, 3) else 1.0 + 0.1 * s[1]) for t in (EVIL, "lookup") for s in spans]
    ranked = sorted((r for r in runs if r["times"] > 1 and r["task"] == "lookup"), key=lambda r: r["delta_loss"])
    prediction = {"predictor": "length", "meaning": "layers in the span", "times": 2, "damping": 1.0, "spearman": 0.5,
                  "ci_low": 0.1, "ci_high": 0.7, "n_spans": 6}  # fmt: skip
    frames = {"repeat": pd.DataFrame(runs), "ranking": pd.DataFrame(ranked), "prediction": pd.DataFrame([prediction])}
    info = {"schema": REPEAT_SCHEMA, "checkpoint": {"id": EVIL}, "tasks": [EVIL, "lookup"], "plan": "3 steps"}
    return Repeated.of(frames, info)


def one_span() -> Repeated:
    """Layers 1 to 2, run up to three times, naive and damped; it never helps."""
    runs = [_row("lookup", (pd.NA, pd.NA), 1, 1.0, 1.0)]
    runs += [
        _row("lookup", (1, 3), times, damping, 1.0 + damping * times) for times in (2, 3) for damping in (0.5, 1.0)
    ]
    frames = {"repeat": pd.DataFrame(runs), "ranking": pd.DataFrame(runs[1:])}
    return Repeated.of(frames, {"schema": REPEAT_SCHEMA, "checkpoint": {"id": EVIL}, "span": "1:3"})


def lens() -> dict[str, Any]:
    """Four depths; the tuned lens is nearer at three of them, most at depth 0 (by 3 nats)."""
    depths = [
        {"depth": d, "layer": d, "plain": p, "tuned": t, "kept": EVIL}
        for d, (p, t) in enumerate([(4.0, 1.0), (2.0, 0.5), (1.0, 0.25), (0.5, 0.5)])
    ]
    tokens = {"train": 900, "held_out": 120, "judged": 100}
    checks = [{"name": "readout", "value": 0.0, "tolerance": 1e-3, "note": "", "passed": True}]
    return {"schema": "depthsig-lens/1", "checkpoint": {"id": EVIL}, "tokens": tokens, "depths": depths,
            "certificates": checks, "options": {"seed": 0}}  # fmt: skip


def blocks(found: bool = True) -> SavedBlocks:
    """Six layers in which 1 to 2 were copied once, into 3 to 4."""
    rng = np.random.default_rng(0)
    grid = pd.DataFrame(np.eye(6) + 0.01 * rng.random((6, 6)))
    cells = grid.stack().rename_axis(["row", "col"]).reset_index(name="value")
    table = pd.concat([cells.assign(evidence="weights"), cells.assign(evidence="activations")], ignore_index=True)
    block = {
        "start": 1,
        "size": 2,
        "count": 2,
        "kind": "grown",
        "evidence": ["weights"],
        "p_value": 0.001,
        "note": EVIL,
    }
    info = {
        "schema": BLOCKS_SCHEMA, "checkpoint": EVIL, "level": 0.01, "layers": list(range(6)),
        "blocks": [block] if found else [], "p_values": {"weights": 0.001, "activations": 0.4}, "notes": [EVIL],
    }  # fmt: skip
    return SavedBlocks(info, table)


def replication(paper: str = "2602.16490") -> Replication:
    """Every claim of a paper, its roles' verdicts in turn; a looped network has the hostile name.

    An estimate is 2 half-widths on the claimed side where it is supported, 3 on the other where it is contradicted, and
    .5 on the claimed side where it is undecided.
    """
    told = criteria()
    claims = told.of_paper(paper)
    rows, own, curves = [], [], []
    for claim in claims:
        for role in claim.roles:
            verdict = OUTCOMES[len(rows) % 4]
            middle = {"supported": 0.2, "contradicted": -0.3, "undecided": 0.05}.get(verdict, np.nan)
            middle *= 1 if claim.above else -1
            note = f"no network has the role {role}" if verdict == "not measurable" else f"networks: 2; {EVIL}"
            about = {"experiment": claim.experiment, "claim": claim.id, "criterion": claim.criterion, "role": role}
            ends = {"ci_low": middle - 0.1, "ci_high": middle + 0.1}
            rows.append({**about, "estimate": middle, **ends, "verdict": verdict, "note": note})
            if verdict == "not measurable":
                continue
            for network, value in ((EVIL, 1.0), ("grown", 2.0), ("baseline", 3.0)):
                arm = {"claim": claim.id, "role": role, "arm": role, "network": network}
                own.append({**arm, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1})
                axis = {"E7": "phases apart", "E8": "times in all"}.get(claim.experiment, "relative depth")
                for x in (0.0, 0.5, 1.0) if axis == "relative depth" else (1.0, 2.0):
                    y = value + x + 0.001 * len(claim.quantity)  # the same for claims of one quantity
                    point = {"axis": axis, "shows": claim.quantity, "x": x, "value": y}
                    curves.append({**arm, **point, "ci_low": y - 0.1, "ci_high": y + 0.1})
    networks = [
        {"name": name, "role": role, "steps": 24, "checkpoint": kept, "content_hash": EVIL, "signatures": [EVIL]}
        for name, role, kept in ((EVIL, "looped", EVIL), ("grown", "midas", None), ("baseline", "baseline", None))
    ]
    experiments = [vars(told.experiments[e]) for e in dict.fromkeys(c.experiment for c in claims)]
    info = {
        "schema": REPLICATION_SCHEMA, "created": "today", "versions": {"depthsig": EVIL},
        "paper": {"id": paper, "title": EVIL, "authors": EVIL, "year": 2026}, "experiments": experiments,
        "claims": [as_record(c) for c in claims], "criteria_sha256": criteria_hash(claims), "networks": networks,
        "roles_from": "as given", "roles": {"looped": [EVIL], "midas": ["a folder"], "baseline": ["b", "c"]},
        "options": {"quick": True, "seed": 3, "only": [], "memory": "4GiB"}, "warnings": [EVIL],
        "loading": {"device": "auto", "dtype": None, "allow_pickle": True},
    }  # fmt: skip
    return Replication(info, pd.DataFrame(rows), pd.DataFrame(own), pd.DataFrame(curves))
