"""Whole blocks of rows against the definitions: in plain tensor code, and the kernels as Triton interprets them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from depthsig.measure.blocks import fallback, operations
from depthsig.measure.blocks.reference import BlockReference
from depthsig.metrics import distributions as of
from depthsig.metrics.comparison import compare_logits
from depthsig.metrics.quantities import AT_THE_END, QUANTITIES

DEFINED: dict[str, Callable[..., torch.Tensor]] = {
    "kl": lambda q, p, t: of.kl_divergence(q, p), "kl_reverse": lambda q, p, t: of.kl_reverse(q, p),
    "jsd": lambda q, p, t: of.js_divergence(q, p), "l2": lambda q, p, t: of.probability_l2(q, p),
    "entropy": lambda q, p, t: of.entropy(q), "nll": lambda q, p, t: of.target_nll(q, t),
    "loss": lambda q, p, t: of.loss_increase(q, p, t), "rank": lambda q, p, t: of.target_rank(q, t),
    "log_rank": lambda q, p, t: of.target_log_rank(q, t), "overlap5": lambda q, p, t: of.topk_overlap(q, p),
    "top1": lambda q, p, t: of.top1_agreement(q, p),
}  # fmt: skip

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton must know before it is imported: the kernels' tests are these, in a process of their own."""


@pytest.fixture(params=["kernels" if INTERPRETED else "plain"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the operators run; kernels as their interpreter runs them, one element after another."""
    if INTERPRETED:
        from depthsig.measure.blocks import kernels

        long = "million" in request.node.name
        monkeypatch.setattr(kernels, "TILE", 1 << 15 if long else 1024)
        monkeypatch.setattr(operations, "_kernels", lambda logits: kernels)
    return str(request.param)


@pytest.mark.extra
@pytest.mark.skipif(INTERPRETED or find_spec("triton") is None, reason="needs Triton, and runs the others")
def test_the_kernels_as_they_are_interpreted() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernels", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "5 passed" in done.stdout


@pytest.mark.skipif(not INTERPRETED, reason="is run by test_the_kernels_as_they_are_interpreted")
def test_kernels_are_tried_before_they_are_used(ways: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from depthsig.measure.blocks import kernels

    assert kernels.lacking(torch.device("cpu")) == ""
    divergences = kernels.divergences
    monkeypatch.setattr(kernels, "divergences", lambda *given: divergences(*given) * 1.01)
    assert "other numbers" in kernels.lacking(torch.device("cpu"))
    monkeypatch.setattr(kernels, "row_stats", lambda *given: 1 / 0)
    assert "division" in kernels.lacking(torch.device("cpu"))


def _held(triple: Triple) -> None:
    """Every quantity to its definition in float64."""
    p, q, targets = triple
    found = BlockReference(p, targets, QUANTITIES).compare(q)
    for name, defined in DEFINED.items():
        exact, value = defined(q.double(), p.double(), targets), found[name]
        assert torch.equal(value.isnan(), exact.isnan()), name
        assert torch.equal(value.isinf(), exact.isinf()), name
        gap = (value - exact).abs() - 2e-5 * exact.abs()
        assert gap.nan_to_num(0.0, 0.0).max() < 3e-6, (name, value, exact)
    top = of.top_tokens(q.double(), min(5, q.shape[-1]))
    assert torch.equal(found["tokens"], top.token_id)
    torch.testing.assert_close(found["probs"], top.value, rtol=1e-4, atol=1e-7)


@st.composite
def hard_blocks(draw: st.DrawFn) -> Triple:
    """Logits where arithmetic is hard."""
    vocab, rows = draw(st.sampled_from([5, 6, 17, 1500])), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    p = draw(st.sampled_from([0.1, 3.0, 40.0])) * torch.randn(rows, vocab, generator=generator)
    q = p + draw(st.sampled_from([0.0, 1e-7, 1e-4, 1.0, 30.0])) * torch.randn(rows, vocab, generator=generator)
    kinds = ["ties", "excluded", "ruled out", "ruled out in both", "one-hot", "bf16", "far off"]
    for kind in draw(st.lists(st.sampled_from(kinds), unique=True)):
        if kind == "ties":
            p, q = p.round(), q.round()
        elif kind == "excluded":
            q[:, : draw(st.integers(0, vocab - 1))] -= 1e4
        elif kind == "ruled out":
            q[0, : draw(st.integers(0, vocab - 1))] = -torch.inf
        elif kind == "ruled out in both":
            p[:, 1:3], q[:, 1:3] = -torch.inf, -torch.inf
        elif kind == "one-hot":
            q[0, vocab - 1] += 300.0
        elif kind == "bf16":
            p, q = p.bfloat16(), q.bfloat16()
        else:
            p, q = p - 200.0, q + 90.0
    return p, q, torch.randint(-1, vocab, (rows,), generator=generator)


@settings(
    max_examples=25 if INTERPRETED else 60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(triple=hard_blocks())
def test_blocks_say_what_the_definitions_say(ways: str, triple: Triple) -> None:
    _held(triple)


@settings(max_examples=60, deadline=None)
@given(triple=hard_blocks())
def test_a_processors_views_do_so_where_words_are_ruled_out(triple: Triple) -> None:
    p, q, targets = triple
    found = compare_logits(p, q, targets, QUANTITIES)
    for name, defined in DEFINED.items():
        exact, value = defined(q.double(), p.double(), targets), found[name].double()
        assert torch.equal(value.isnan(), exact.isnan()), name
        assert torch.equal(value.isinf(), exact.isinf()), name
        assert ((value - exact).abs() - 2e-5 * exact.abs()).nan_to_num(0.0, 0.0).max() < 3e-6, name


def test_a_vocabulary_of_a_quarter_of_a_million(ways: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p = 4 * torch.randn(2, 262_144, generator=generator)
    q = p + 0.01 * torch.randn(2, 262_144, generator=generator)
    q[0, 200_000:] = 7.0  # ties that lie in many tiles
    _held((p, q, torch.tensor([262_143, 17])))
    _held((p.bfloat16(), q.bfloat16(), torch.tensor([-1, 5])))


def test_only_what_is_wanted_is_computed_and_nothing_is_changed(ways: str) -> None:
    p, q, targets = torch.randn(3, 40), torch.randn(3, 40), torch.tensor([3, -1, 0])
    before = p.clone(), q.clone()
    reference = BlockReference(p, targets, frozenset({"kl", "nll"}))
    assert set(reference.compare(q)) == {"kl", "nll"}
    assert set(reference.compare(q, frozenset({"kl"}))) == {"nll"}
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])
    itself = BlockReference(p, targets, QUANTITIES).compare_itself(frozenset())
    assert not set(itself) & set(AT_THE_END) and "entropy" in itself
    with pytest.raises(ValueError, match="unknown"):
        BlockReference(p, targets, frozenset({"nonsense"}))


def test_rows_beyond_one_piece_and_rows_of_another_matrix(ways: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "PIECE_BYTES", 4 * 30 * 2)  # two rows a piece
    wide = torch.randn(7, 60)
    p, q = wide[:, :30], wide[:, ::2]  # neither is contiguous
    _held((p, q, torch.arange(7)))
    assert BlockReference(p[:0], torch.arange(0), QUANTITIES).compare(q[:0])["kl"].shape == (0,)


def test_operators_are_what_torch_takes_them_for() -> None:
    logits, targets = torch.randn(4, 12), torch.tensor([0, 1, 3, 11])  # nothing that is no number: NaN is not NaN
    torch.library.opcheck(torch.ops.depthsig.row_stats.default, (logits, targets, 5))
    stats, top, _ = operations.row_stats(logits, targets, 5)
    asked = (torch.randn(4, 12), logits, stats, top, targets, 5, [True, True, True, True])
    torch.library.opcheck(torch.ops.depthsig.compare_rows.default, asked)
