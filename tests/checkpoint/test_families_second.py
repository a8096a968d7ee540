"""Every family in FAMILIES.md, the second half: two files, so that two processes share them."""

from __future__ import annotations

import causal_lms
import pytest
from causal_lms import FAMILIES, judge


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES[1::2])
def test_a_family_is_right_or_refused_as_listed(family: str) -> None:
    outcome = judge(family)
    assert outcome.verdict in ("right", "refused", "not built small"), outcome
    listed = causal_lms.listed()
    assert not listed or listed[family] == outcome.row(), outcome
