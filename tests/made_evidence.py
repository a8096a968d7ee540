"""Evidence made of known numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from made_signatures import Values, signature

from depthsig.replication.criteria import Claim
from depthsig.replication.gathered import Gathered
from depthsig.replication.members import TrainedNetwork
from depthsig.signature import Signature
from depthsig.signature.tested import choose_span


def claim(quantity: str, *of: str, **other: Any) -> Claim:
    about = {"id": "E0.made", "papers": ("2602.16490",), "statement": "{a} beside {c}", "control": "", "source": "made"}
    return Claim(quantity=quantity, of=of, **{**about, "roles": ("looped",), "prompts": "made", **other})


def network(name: str, role: str, *signatures: Signature, **other: Any) -> TrainedNetwork:
    info = signatures[0].info
    spans = [choose_span(s.info) for s in signatures]
    told = {"steps": len(info["plan"]), "span": next((s for s in spans if s is not None), None), **other}
    return TrainedNetwork(name, role, signatures=signatures, **told)


def made(values: Values, steps: int, name: str = "model", **other: Any) -> Signature:
    """A signature with these values on the prompts ``made``."""
    return signature(values, steps, name=name, **other)


def evidence(*networks: TrainedNetwork, runs: pd.DataFrame | None = None, resamples: int = 50) -> Gathered:
    empty = pd.DataFrame(columns=["run", "network", "task", "item", "condition", "loss", "exact"])
    return Gathered(networks, empty if runs is None else runs, 0, resamples)


def with_control(one: Signature, control: Signature) -> Signature:
    return replace(one, control=control)


def profile(
    values: Any, metric: str, part: str = "layer", scope: str = "current", n: int = 6, axis: str = "step"
) -> Values:
    """The same profile at every prompt."""
    return {(metric, part, scope, axis): np.tile(np.asarray(values, dtype=float), (6, 1))}
