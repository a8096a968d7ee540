"""Rows of ``tokens.parquet``: values that keep their position, of the first prompts or of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from numpy import ndarray
from torch import Tensor

from depthsig.engine.device import Pending
from depthsig.measure.where import Where
from depthsig.metrics.distributions import TopTokens
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key

TOKEN_PROMPTS = 4
"""Token metrics of clean runs are kept for the first prompts only."""

TokenRows = list[dict[str, Any]]


def token_row(
    key: Key, prompt: int, index: int, position: int, value: float, *, rank: int | None = None,
    token_id: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One row; the tokens' texts are put in at the end.

    Args:
        index: depth, step or pass. rank: among several values at one place.
        token_id: the token that the value is about, where it is another than the one at the position.
    """
    return {
        "metric": key.metric, "part": key.part, "scope": key.scope, "prompt": prompt, "index": index,
        "position": position, "rank": rank, "token_id": token_id, "value": value,
    }  # fmt: skip


def add_rows(later: Pending, into: TokenRows, key: Key, where: Where, index: int, values: Tensor | TopTokens) -> None:
    """Add the rows of one depth or step: a value a token, or several with the tokens that they are about.

    Args:
        later: what the batch keeps on its device; the rows are made when it ends.
    """
    owners, positions = where.prompts.tolist(), where.positions.tolist()

    def of_values(found: ndarray) -> None:
        cells = zip(owners, positions, found.astype(float).tolist(), strict=True)
        into.extend(token_row(key, p, index, t, value) for p, t, value in cells)

    def of_several(ids: ndarray, probabilities: ndarray) -> None:
        cells = zip(owners, positions, ids.tolist(), probabilities.astype(float).tolist(), strict=True)
        into.extend(
            token_row(key, p, index, t, value, rank=rank, token_id=token_id)
            for p, t, some, values_ in cells
            for rank, (token_id, value) in enumerate(zip(some, values_, strict=True), 1)
        )

    if isinstance(values, Tensor):
        later.add(of_values, values)
    else:
        later.add(of_several, values.token_id, values.value)


def tokens_table(rows: TokenRows, prompts: Sequence[TokenPrompt], tokenizer: Any) -> pd.DataFrame:
    """The rows with the text of the token that each is about, and of the token at its position."""
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    ids = {p.index: p.ids for p in prompts}
    here = [ids[p][t] for p, t in zip(frame["prompt"], frame["position"], strict=True)]
    about = [i if pd.isna(token) else int(token) for token, i in zip(frame["token_id"], here, strict=True)]
    texts = _texts(tokenizer, {*here, *about})
    return frame.assign(token=[texts[i] for i in about], input_token=[texts[i] for i in here])


def _texts(tokenizer: Any, ids: set[int]) -> dict[int, str]:
    if tokenizer is None:
        return {i: str(i) for i in ids}
    return {i: tokenizer.decode([i]) for i in ids}
