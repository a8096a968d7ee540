"""A signature that has something of everything its page shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from made_signatures import late, noisy, signature, skip_only

from depthsig.signature import Signature

EVIL = "</script><script>alert(1)</script>"


def made() -> Signature:
    """Profiles over depths and steps, of three parts; a matrix with undefined cells; tokens."""
    effect = np.abs(np.random.default_rng(0).normal(0.1, 0.05, (6, 6, 6)))
    effect[:, np.tril(np.ones((6, 6), bool))] = np.nan
    curves = {
        **skip_only(late(6, 0.5)), ("lens.kl", "-", "-", "depth"): noisy(np.linspace(2, 0, 7), 6),
        ("contribution.relative", "layer", "-", "step"): noisy(np.linspace(0.9, 0.1, 6), 6),
        ("contribution.relative", "attn", "-", "step"): noisy(np.linspace(0.2, 0.4, 6), 6),
        ("skip.effect", "layer", "current", "step"): effect,
    }  # fmt: skip
    found = signature(curves, 6, span=(0, 2, 3, "grown"))
    return replace(found, tokens_table=tokens("w"))


def tokens(word: str) -> pd.DataFrame:
    about = {"metric": "lens.tokens", "part": "-", "scope": "-", "prompt": 0, "token_id": 7, "input_token": "in" + word}
    return pd.DataFrame([
        {**about, "index": d, "position": p, "rank": r, "token": f"{word}{r}", "value": 0.5 / r}
        for d in range(3) for p in (1, 2) for r in range(1, 6)
    ])  # fmt: skip
