"""One family of each kind against plain forward hooks; all of them are slow, and stand in FAMILIES.md."""

from __future__ import annotations

from itertools import pairwise

import causal_lms
import pytest
import torch
from causal_lms import FAMILIES, NotBuiltSmall, Outcome, build, judge

KINDS = {
    "bamba": "layers that return two things", "rwkv": "three", "zaya": "what the next layer's router reads",
    "gemma4_text": "keys and values of earlier layers", "bert": "a head without a weight", "xlm": "no residual layers",
    "gpt_oss": "experts", "mamba": "no attention", "llama": "plain", "opt": "rows and tokens flattened in the MLP",
    "deepseek_v4": "several streams",
}  # fmt: skip
REFUSED = {"xlm", "deepseek_v4"}


@pytest.mark.parametrize("family", KINDS)
def test_a_family_of_each_kind(family: str) -> None:
    outcome = judge(family)
    assert outcome.verdict == ("refused" if family in REFUSED else "right"), outcome
    assert family in FAMILIES
    assert not causal_lms.listed() or causal_lms.listed()[family] == outcome.row()


def test_the_judge_sees_a_wrong_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_lms, "_kl", lambda p, q: 1.001 * float((p.exp() * (p - q)).sum(-1).mean()) + 1e-3)
    assert judge("llama").verdict == "wrong"


def test_a_built_model_matters_at_every_layer() -> None:
    module = build("llama")
    with torch.no_grad():
        states = module(torch.arange(3, 13)[None], output_hidden_states=True).hidden_states
    assert all(float((b - a).norm() / a.norm()) > 0.05 for a, b in pairwise(states[:-1]))
    with pytest.raises(NotBuiltSmall):
        build("no-such-family")


def test_the_table_counts_its_rows() -> None:
    text = causal_lms.TABLE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    verdicts = [row.split(" | ")[2] for row in rows]
    assert f"{len(rows)} families: {verdicts.count('right')} right, {verdicts.count('refused')} refused" in text
    assert not {"wrong", "crash"} & set(verdicts)
    assert Outcome("llama", "right").row() in rows
