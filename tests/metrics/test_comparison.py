"""The fused comparison of distributions against plain float64 arithmetic, where it is hard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depthsig.measure.comparing import Against
from depthsig.metrics import all_metrics, distributions
from depthsig.metrics.comparison import Reference, compare_logits
from depthsig.metrics.quantities import QUANTITIES

VOCAB, ROWS = 5000, 70


def _pair(change: float, offset: float, shift: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p = 5 * torch.randn(ROWS, VOCAB, generator=generator) + offset
    q = p + change * torch.randn(ROWS, VOCAB, generator=generator) + shift
    targets = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    targets[3] = -1
    return p, q, targets


def _plain(p: np.ndarray, q: np.ndarray, target: int) -> dict[str, float]:
    probs_p, probs_q = oracle.softmax(p), oracle.softmax(q)
    log_p, log_q = oracle.log_softmax(p), oracle.log_softmax(q)
    nothing = target < 0
    return {
        "kl": oracle.kl(q, p), "kl_reverse": oracle.kl(p, q), "jsd": oracle.jsd(q, p),
        "overlap5": len(set(oracle.top5(q)) & set(oracle.top5(p))) / 5,
        "top1": float(oracle.top5(q)[0] == oracle.top5(p)[0]), "entropy": -float((probs_q * log_q).sum()),
        "nll": np.nan if nothing else -log_q[target], "loss": np.nan if nothing else log_p[target] - log_q[target],
        "rank": np.nan if nothing else 1.0 + (q > q[target]).sum(), "l2": float(np.linalg.norm(probs_p - probs_q)),
    }  # fmt: skip


@pytest.mark.parametrize("change", [1e-6, 1e-3, 0.03, 0.3, 3.0])
@pytest.mark.parametrize(("offset", "shift"), [(0.0, 0.0), (-100.0, 0.0), (-100.0, 40.0), (60.0, -25.0)])
def test_every_quantity_at_every_distance(change: float, offset: float, shift: float) -> None:
    p, q, targets = _pair(change, offset, shift)
    found = compare_logits(p, q, targets, QUANTITIES)
    p64, q64 = p.double().numpy(), q.double().numpy()
    wanted = [_plain(a, b, int(t)) for a, b, t in zip(p64, q64, targets, strict=True)]
    for name in wanted[0]:
        value = np.array([w[name] for w in wanted])
        gap = np.abs(found[name].double().numpy() - value)
        assert (np.isnan(gap) == np.isnan(value)).all()
        allowed = {"rank": 0, "overlap5": 1e-12, "top1": 0, "entropy": 1e-5, "l2": 1e-6}.get(name, 1e-6)
        assert np.nanmax(gap - 1e-6 * np.abs(value)) <= allowed, (name, np.nanmax(gap))
    assert found["tokens"].tolist() == [oracle.top5(row) for row in q64]
    picked = np.take_along_axis(np.array([oracle.softmax(row) for row in q64]), found["tokens"].numpy(), 1)
    assert found["probs"].double().numpy() == pytest.approx(picked, rel=1e-5)


@pytest.mark.parametrize("quantity", sorted(QUANTITIES - {"tokens", "probs"}))
def test_a_quantity_alone_is_the_same_as_with_the_others(quantity: str) -> None:
    p, q, targets = _pair(0.4, -50.0, 3.0)
    together, alone = compare_logits(p, q, targets, QUANTITIES), compare_logits(p, q, targets, [quantity])
    assert set(alone) == {quantity}
    assert torch.allclose(alone[quantity].double(), together[quantity].double(), atol=1e-6, rtol=0, equal_nan=True)


def test_inputs_stay_as_they_were_and_equal_logits_are_at_distance_nought() -> None:
    p, q, targets = _pair(0.4, 0.0, 0.0)
    before = p.clone(), q.clone()
    compare_logits(p, q, targets, QUANTITIES)
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])
    same = compare_logits(p, p, targets, QUANTITIES)
    for name in ("kl", "kl_reverse", "jsd", "l2"):
        assert same[name].abs().max() < 1e-9
    assert float(torch.nan_to_num(same["loss"]).abs().max()) == 0.0


def test_ties_go_to_the_lower_id() -> None:
    p = torch.zeros(1, 3000)
    q = torch.zeros(1, 3000)
    q[0, [2900, 17, 40]] = 1.0
    found = compare_logits(p, q, torch.tensor([40]), ["tokens", "overlap5", "top1", "rank"])
    assert found["tokens"].tolist() == [[17, 40, 2900, 0, 1]]
    assert found["overlap5"].tolist() == [0.4]  # p's five are 0..4, all equal
    assert found["top1"].tolist() == [0.0] and found["rank"].tolist() == [1.0]


def test_mass_that_the_other_lacks_is_no_overflow() -> None:
    p, q = torch.zeros(1, 8), torch.zeros(1, 8)
    p[0, 0], q[0, 1] = 2000.0, 2000.0
    found = compare_logits(p, q, torch.tensor([0]), ["kl", "kl_reverse", "jsd", "l2"])
    assert found["kl"].item() == pytest.approx(2000, rel=1e-6)
    assert found["jsd"].item() == pytest.approx(np.log(2), abs=1e-6)
    assert found["l2"].item() == pytest.approx(2**0.5, rel=1e-6)


def test_a_reference_serves_many_comparisons() -> None:
    p, q, targets = _pair(0.3, -90.0, 0.0)
    reference = Reference(p.clone(), targets, frozenset({"kl", "jsd", "nll"}))
    first = reference.compare(q.clone())
    reference.compare(p.clone())
    again = reference.compare(q.clone())
    assert all(torch.equal(first[k].nan_to_num(), again[k].nan_to_num()) for k in first)
    with pytest.raises(ValueError, match="unknown"):
        Reference(p, targets, frozenset({"nonsense"}))


@pytest.mark.parametrize("vocab", [5, 64, 130, 1000])
def test_the_first_of_equal_maxima(vocab: int) -> None:
    logits = torch.randint(0, 6, (200, vocab)).float()  # full of ties
    peak, ids = distributions.first_max(logits)
    assert torch.equal(peak.squeeze(-1), logits.amax(-1))
    assert ids.squeeze(-1).tolist() == [row.index(max(row)) for row in logits.tolist()]


FUSED = [one for one in all_metrics().values() if one.fused]


@st.composite
def hard_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits where arithmetic is hard: ties, near agreement, certainty, half precision, words all but excluded."""
    vocab, rows = draw(st.sampled_from([5, 6, 17, 300])), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    p = draw(st.sampled_from([0.1, 3.0, 40.0])) * torch.randn(rows, vocab, generator=generator)
    q = p + draw(st.sampled_from([0.0, 1e-7, 1e-4, 1.0, 30.0])) * torch.randn(rows, vocab, generator=generator)
    for kind in draw(st.lists(st.sampled_from(["ties", "excluded", "one-hot", "bf16", "far off"]), unique=True)):
        if kind == "ties":
            p, q = p.round(), q.round()
        elif kind == "excluded":
            q[:, : draw(st.integers(0, vocab - 1))] -= 1e4
        elif kind == "one-hot":
            q[0, vocab - 1] += 300.0
        elif kind == "bf16":
            p, q = p.bfloat16().float(), q.bfloat16().float()
        else:
            p, q = p - 200.0, q + 90.0
    targets = torch.randint(-1, vocab, (rows,), generator=generator)
    return p, q, targets


@settings(max_examples=150, deadline=None)
@given(hard_rows())
def test_the_fused_pass_says_what_the_documented_functions_say(
    drawn: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    p, q, targets = drawn
    fused = Against(p.clone(), targets, FUSED).values(FUSED, q.clone())
    plain = [replace(one, fused="") for one in FUSED]
    wanted = Against(p.double(), targets, plain).values(plain, q.double())
    for one in FUSED:
        found, exact = fused[one.id], wanted[one.id]
        if isinstance(exact, distributions.TopTokens):
            assert torch.equal(found.token_id, exact.token_id)
            torch.testing.assert_close(found.value.double(), exact.value.double(), rtol=1e-4, atol=1e-7)
        else:
            gap = (found.double() - exact.double()).abs() - 2e-5 * exact.double().abs()
            assert torch.equal(found.isnan(), exact.isnan()), one.id
            assert gap.nan_to_num(0.0).max() < 3e-6, one.id
