"""The check of shapes itself: what does not fit its annotation raises."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch
from shapes import unchecked

from depthsig.engine.batch import make_batch
from depthsig.measure.where import Where, tokens_at
from depthsig.metrics import kl_divergence
from depthsig.prompts import tokenize
from depthsig.statistics.periodicity import block_periodicity


def test_functions_methods_and_records_refuse_what_does_not_fit() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="vocab"):
        kl_divergence(torch.zeros(2, 5), torch.zeros(2, 6))
    with pytest.raises(jaxtyping.TypeCheckError, match="profile"):
        block_periodicity(np.zeros((4, 4)), 0, 2, 2)
    prompts = tokenize([[1, 2, 3]], None)
    where = tokens_at(make_batch([[1, 2, 3]], [0], torch.device("cpu")), prompts, lambda p: p.positions)
    with pytest.raises(jaxtyping.TypeCheckError):
        where.within(np.ones((1, 3)))  # no mask
    with pytest.raises(jaxtyping.TypeCheckError):
        Where(where.rows, where.positions[:1], where.prompts, where.index, where.targets)


def test_what_is_returned_is_held_to_it_too() -> None:
    from shapes import checked

    def cut(x: jaxtyping.Float[torch.Tensor, "row d"]) -> jaxtyping.Float[torch.Tensor, "row d"]:
        return x[:, :1]

    cut(torch.zeros(2, 3))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(cut)(torch.zeros(2, 3))
    with unchecked():
        checked(cut)(torch.zeros(2, 3))
