"""Results of every kind, made without a model, whose names are hostile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from made_signatures import three_arms
from page_signatures import EVIL

import depthsig
from depthsig.signature import Comparison
from depthsig.signature.found_blocks import SCHEMA as BLOCKS_SCHEMA
from depthsig.signature.found_blocks import SavedBlocks
from depthsig.signature.repeated import SCHEMA as REPEAT_SCHEMA
from depthsig.signature.repeated import Repeated


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
