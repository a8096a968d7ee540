"""Depth control against plain code: prefixes, repeated steps and suffixes by hand, and fits with a known answer."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import planted_drift as drift
import pytest
import torch
from families import PROMPTS, VOCAB, build, byte_tokenizer, looped_model, places
from looped_cases import CASES
from oracle import first, get
from torch import Tensor, nn

import depthsig
from depthsig.commands.calibration import affine_maps, temperatures
from depthsig.commands.calibration.calibration_tokens import CalibrationTokens, FollowingLoss
from depthsig.measure.truncated.truncated_readouts import TruncatedReadouts
from depthsig.metrics import recovered_share
from depthsig.signature import Signature

TOKENIZER = byte_tokenizer()
RUNS = ["truncation.prefix", "truncation.repeat", "truncation.suffix"]
LEFT_PADDED = byte_tokenizer(left=True, pad=True)


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text).input_ids


def nll(logits: Tensor, ids: list[int]) -> float:
    """The mean over positions 1 .. T−2, in float64."""
    logs = logits.double().log_softmax(-1)
    return float(np.mean([-logs[t, ids[t + 1]] for t in range(1, len(ids) - 1)]))


def by_hand(module: nn.Module, layers: list[nn.Module], readout: Any, ids: list[int]) -> dict[str, list[float]]:
    """All three controls of one prompt, with hooks that swap what each call of a layer is given and gives.

    Every run is the model's own forward: a hook in front of a step puts in another state, one behind it puts
    out another one. For a repeat, later steps are answered by the layer of step k−1, called as it was itself.
    """
    calls: list[tuple[nn.Module, tuple, dict, Any]] = []

    def note(m: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        kept = {name: v.clone() if name == "hidden_states" else v for name, v in kwargs.items()}
        calls.append((m, tuple(a.clone() if isinstance(a, Tensor) else a for a in args), kept, first(output).clone()))

    different = list(dict.fromkeys(layers))
    with torch.no_grad():
        handles = [x.register_forward_hook(note, with_kwargs=True) for x in different]
        module(torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        steps = len(calls)
        entering = [c[1][0] if c[1] else c[2]["hidden_states"] for c in calls]
        states = [*entering, calls[-1][3]]
        found: dict[str, list[float]] = {"prefix": [], "repeat": [], "suffix": []}
        for k in range(1, steps + 1):
            found["prefix"].append(nll(readout(states[k])[0], ids))
            again, args, kwargs, _ = calls[k - 1]

            named = {n: v for n, v in kwargs.items() if n != "hidden_states"}
            h = states[k]
            for _ in range(steps - k):
                h = _again(again, args[1:], named, h)
            found["repeat"].append(nll(readout(h)[0], ids))
            at = itertools.count()

            def enter(m: nn.Module, args: tuple, kwargs: dict, at: Any = at, k: int = k) -> Any:
                if next(at) != steps - k:
                    return None
                return ((states[0], *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states[0]})

            handles = [x.register_forward_pre_hook(enter, with_kwargs=True) for x in different]
            found["suffix"].append(nll(module(torch.tensor([ids]), use_cache=False).logits[0], ids))
            for handle in handles:
                handle.remove()
    return found


def _again(m: nn.Module, args: tuple, kwargs: dict, x: Tensor) -> Tensor:
    return first(m(x, *args, **kwargs))


def mean_by_hand(module: nn.Module, layers: list[nn.Module], readout: Any, texts: list[str]) -> dict[str, Any]:
    each = [by_hand(module, layers, readout, ids) for text in texts if len(ids := ids_of(text)) > 2]
    return {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}


@pytest.mark.parametrize("name", ["gpt2", "llama_tied", "gemma2", "granite", "falcon_alibi", "phi"])
def test_truncated_runs_are_what_plain_hooks_give(name: str) -> None:
    module, where = build(name), places(name)
    layers = list(get(module, where.layers))

    def readout(x: Tensor) -> Tensor:
        assert where.norm is not None
        return where.after(module.get_output_embeddings()(get(module, where.norm)(x)))

    found = depthsig.analyze(module, PROMPTS, tokenizer=LEFT_PADDED, metrics=RUNS, progress=False)
    for control, values in mean_by_hand(module, layers, readout, PROMPTS).items():
        assert found.profile(f"truncation.{control}")["value"].to_numpy() == pytest.approx(values, abs=1e-4), control


def test_every_pass_of_a_loop_is_steps_of_its_own() -> None:
    module = looped_model()
    layers = list(module.model.layers)
    found = depthsig.analyze(module, PROMPTS, tokenizer=TOKENIZER, metrics=RUNS, progress=False)
    plain = mean_by_hand(module, layers, lambda x: module.lm_head(module.model.norm(x)), PROMPTS)
    for control, values in plain.items():
        rows = found.profile(f"truncation.{control}")
        assert len(rows) == 8 and rows["iteration"].max() == 2
        assert rows["value"].to_numpy() == pytest.approx(values, abs=1e-4), control


def test_an_executed_order_is_a_loop_as_well() -> None:
    module = build("llama")
    a, b, c, d = module.model.layers
    found = depthsig.analyze(module, PROMPTS, tokenizer=TOKENIZER, metrics=RUNS, order="0:1,1:3x2,3:4", progress=False)
    module.model.layers = nn.ModuleList([a, b, c, b, c, d])
    module.config.num_hidden_layers = 6
    plain = mean_by_hand(module, [a, b, c, b, c, d], lambda x: module.lm_head(module.model.norm(x)), PROMPTS)
    for control, values in plain.items():
        assert found.profile(f"truncation.{control}")["value"].to_numpy() == pytest.approx(values, abs=1e-4), control


def test_what_a_loop_does_between_its_passes_stays() -> None:
    """A norm stands before every pass: a prefix that ends there is read by the head alone, as the lens has it."""
    module = CASES["nanbeige"].build()
    texts = [PROMPTS[0], *PROMPTS[2:4]]
    found = depthsig.analyze(module, texts, tokenizer=TOKENIZER, metrics=[*RUNS, "lens.target_nll"], progress=False)
    lens = found.profile("lens.target_nll")["value"].to_numpy()
    assert found.profile("truncation.prefix")["value"].to_numpy() == pytest.approx(lens[1:], abs=1e-12)
    norm, head, layers = module.model.norm, module.lm_head, list(module.model.layers)
    steps = [0, 1, 2, 0, 1, 2]
    repeated, last = np.zeros((3, 6)), np.zeros((3, 6))
    for row, text in enumerate(texts):
        ids = ids_of(text)
        calls: dict[int, Any] = {}
        start: list[Tensor] = []

        def note(
            m: nn.Module, args: tuple, kwargs: dict, output: Any, start: list = start, calls: dict = calls
        ) -> None:
            start.append(args[0] if args else kwargs["hidden_states"])
            kept = {n: v for n, v in kwargs.items() if n != "hidden_states"}
            calls[layers.index(m)] = partial(_again, m, args[1:], kept)

        with torch.no_grad():
            handles = [x.register_forward_hook(note, with_kwargs=True) for x in layers]
            module(torch.tensor([ids]))
            for handle in handles:
                handle.remove()
            for k in range(1, 7):
                h, tail = start[0], start[0]
                for s in range(6):
                    h = norm(h) if s == 3 else h
                    h = calls[steps[min(s, k - 1)]](h)
                    if s >= 6 - k:
                        tail = norm(tail) if s == 3 and s > 6 - k else tail
                        tail = calls[steps[s]](tail)
                repeated[row, k - 1], last[row, k - 1] = (nll(head(norm(x))[0], ids) for x in (h, tail))
    assert found.profile("truncation.repeat")["value"].to_numpy() == pytest.approx(repeated.mean(0), abs=1e-4)
    assert found.profile("truncation.suffix")["value"].to_numpy() == pytest.approx(last.mean(0), abs=1e-4)


@pytest.fixture(scope="module")
def measured() -> tuple[nn.Module, Signature, TruncatedReadouts]:
    """Every control of a model with a soft-cap, and what was fitted."""
    module, kept = build("gemma2"), []
    observe = TruncatedReadouts.observe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TruncatedReadouts, "observe", lambda self, *rest: (kept.append(self), observe(self, *rest))[1])
        found = depthsig.analyze(
            module, [text * 2 for text in PROMPTS], tokenizer=TOKENIZER, metrics="truncation", max_tokens=48,
            calibration=[f"{a} and {b}" for a in PROMPTS for b in PROMPTS if a != b], progress=False,
        )  # fmt: skip
    return module, found, kept[0]


def value(found: Signature, name: str) -> np.ndarray:
    return found.profile(f"truncation.{name}")["value"].to_numpy()


def test_what_was_fitted_read_out_by_plain_code(measured: tuple[nn.Module, Signature, TruncatedReadouts]) -> None:
    module, found, reads = measured
    fitted, where = reads.work.recalibrated, places("gemma2")
    assert fitted is not None and fitted.maps is not None and len(fitted.temperatures) == len(fitted.maps) == 3
    plain: dict[str, list[list[float]]] = {"temperature": [], "affine": []}
    for text in PROMPTS:
        ids = ids_of(text * 2)[:48]
        with torch.no_grad():
            states = module(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
            rows: dict[str, list[float]] = {"temperature": [], "affine": []}
            for k in (1, 2, 3):
                h = states[k][0]
                weight, bias = fitted.maps.weights[k - 1], fitted.maps.biases[k - 1]  # type: ignore[index]
                read = lambda x: where.after(module.lm_head(module.model.norm(x)))  # noqa: E731
                rows["temperature"].append(nll(read(h) / fitted.temperatures[k - 1], ids))
                rows["affine"].append(nll(read(h + h @ weight.T + bias), ids))
        for name, row in rows.items():
            plain[name].append(row)
    for name, values in plain.items():
        assert value(found, name)[:3] == pytest.approx(np.mean(values, axis=0), abs=1e-4)


def test_with_all_steps_every_control_is_the_model_itself(
    measured: tuple[nn.Module, Signature, TruncatedReadouts],
) -> None:
    _, found, _ = measured
    last = {name: value(found, name)[-1] for name in ("prefix", "temperature", "affine", "repeat", "suffix")}
    assert len(set(last.values())) == 1
    assert np.isnan(value(found, "recoverable")[-1])


def test_the_share_is_one_of_means_with_a_paired_bootstrap() -> None:
    """Against plain loops: whole prompts are drawn, and the ratio is of their means."""
    module = drift.drifting()
    prompts, others = drift.written_by(module, 8, 16, 2), drift.written_by(module, 8, 16, 1)
    found = depthsig.analyze(module, prompts, metrics="truncation", calibration=others, progress=False)
    samples = {
        name: found.samples(f"truncation.{name}").pivot(index="prompt", columns="index", values="value").to_numpy(float)
        for name in ("prefix", "affine")
    }  # fmt: skip

    def share(rows: Any, k: int) -> float:
        prefix, affine = (samples[name][rows].mean(0) for name in ("prefix", "affine"))
        return float((prefix[k] - affine[k]) / (prefix[k] - prefix[-1]))

    draws = np.random.default_rng(0).integers(0, 8, size=(1000, 8))
    rows = found.profile("truncation.recoverable")
    assert rows["value"].isna().tolist() == [False, False, True, True] and (rows["n_prompts"] == 8).all()
    for k in (0, 1):
        low, high = np.percentile([share(d, k) for d in draws], [2.5, 97.5])
        assert rows["value"][k] == pytest.approx(share(range(8), k))
        assert (rows["ci_low"][k], rows["ci_high"][k]) == (pytest.approx(low), pytest.approx(high))
    assert "truncation.recoverable" not in set(found.samples_table["metric"])


def test_a_planted_drift_is_recovered_by_a_map_and_not_by_a_temperature() -> None:
    module = drift.drifting()
    found = depthsig.analyze(
        module, drift.written_by(module, 16, 64, 2), metrics="truncation", progress=False,
        calibration=drift.written_by(module, 64, 64, 1),
    )  # fmt: skip
    at = drift.DRIFTS_AT - 1
    share = found.profile("truncation.recoverable")["value"][at]
    by_temperature = recovered_share(value(found, "prefix"), value(found, "temperature"))[at]
    assert value(found, "prefix")[at] - value(found, "prefix")[-1] > 0.5
    assert share >= 0.95 and by_temperature < 0.2
    assert np.isnan(found.profile("truncation.recoverable")["value"][at + 1])  # past the drift nothing is lacking


def test_known_shares() -> None:
    assert recovered_share(np.array([3.0, 2.0]), np.array([2.5, 2.0]))[0] == 0.5
    rows = recovered_share(np.array([[3.0, 2.0], [2.009, 2.0]]), np.array([[3.5, 2.0], [2.0, 2.0]]))
    assert rows[0, 0] == -0.5 and np.isnan(rows[1, 0]) and np.isnan(rows[:, 1]).all()


# The fits alone.


def tokens_of(model: Any, n: int = 400) -> tuple[FollowingLoss, CalibrationTokens]:
    """States of an early depth with tokens drawn at random, a fifth of them held out."""
    draws = torch.Generator().manual_seed(0)
    states = torch.randn(n, model.trace.width, generator=draws) * torch.linspace(0.2, 3, model.trace.width)
    targets = torch.randint(VOCAB, (n,), generator=draws)
    return FollowingLoss(model, 1, 64), CalibrationTokens(states, targets, torch.arange(n) % 5 == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_temperature_is_the_best_of_a_fine_grid(dtype: torch.dtype) -> None:
    module = build("llama", dtype=dtype)
    module.lm_head.weight.data *= 4  # so that tokens tell where they were drawn from
    model = depthsig.load(module)
    loss, tokens = tokens_of(model, 3000)
    with torch.no_grad():
        logits = model.readout(tokens.states.to(dtype)).float()
        teacher = torch.Generator().manual_seed(1)
        drawn = torch.multinomial((logits / 2.5).softmax(-1), 1, generator=teacher)[:, 0]
        tokens = CalibrationTokens(tokens.states, drawn, tokens.held)
        grid = np.linspace(1.5, 4, 126)
        losses = [float(nn.functional.cross_entropy(logits / float(t), drawn)) for t in grid]
        found = temperatures.fit_temperature(loss, tokens)
    assert found == pytest.approx(grid[int(np.argmin(losses))], abs=0.02)
    assert found == pytest.approx(2.5, abs=0.4)  # where the tokens came from


def test_the_gradient_is_that_of_autograd() -> None:
    model = depthsig.load(build("gemma2"))
    loss, tokens = tokens_of(model, 90)
    plain = tokens.states.clone().requires_grad_()
    value_, found, drawn = loss.gradient(tokens.states, tokens.targets, torch.Generator().manual_seed(0))
    mean = nn.functional.cross_entropy(model.readout(plain), tokens.targets)
    (slope,) = torch.autograd.grad(mean, plain)
    assert (
        value_ == pytest.approx(float(mean.detach()), rel=1e-6) and loss.value(tokens.states, tokens.targets) == value_
    )
    assert torch.allclose(found / 90, slope, atol=1e-6)
    assert drawn is not None and not torch.allclose(drawn, found)
    assert all(p.grad is None for p in model.module.parameters()), "nothing is left in the model"


def test_a_map_is_where_a_plain_optimiser_ends() -> None:
    model = depthsig.load(build("llama"))
    loss, tokens = tokens_of(model, 200)
    space, every = affine_maps.Standard.of(tokens.states), torch.ones(200, dtype=torch.bool)
    fit = affine_maps._Fit(loss, tokens, space, 0, lambda amount: None)
    d, strength = model.trace.width, 3.0
    with torch.no_grad():
        found = fit.minimised(torch.zeros(d, d + 1), strength, every, 1e-7)
    plain = torch.zeros(d, d + 1, requires_grad=True)
    mean, scale = tokens.states.mean(0), tokens.states.std(0, correction=0)

    def objective(matrix: Tensor) -> Tensor:
        moved = tokens.states + scale * ((tokens.states - mean) / scale @ matrix[:, :-1].T + matrix[:, -1])
        return (
            nn.functional.cross_entropy(model.readout(moved), tokens.targets) + strength / (2 * d) * (matrix**2).sum()
        )

    optimiser = torch.optim.LBFGS([plain], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        now = objective(plain)
        now.backward()
        return now

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        assert float(objective(found)) == pytest.approx(float(objective(plain)), abs=2e-4)
        assert float(objective(torch.zeros(d, d + 1))) > float(objective(found)) + 0.05
    weight, bias = space.folded(found)
    moved = tokens.states + tokens.states @ weight.T + bias
    assert torch.allclose(moved, space.moved(tokens.states, found, every), atol=1e-3)


def test_where_no_map_helps_the_identity_is_kept() -> None:
    model = depthsig.load(build("llama"))
    loss, tokens = tokens_of(model, 100)
    with torch.no_grad():  # the likeliest word at every held-out token, another at the rest: what is learnt does harm
        best = model.readout(tokens.states).argsort(-1, descending=True)
    tokens = CalibrationTokens(tokens.states, torch.where(tokens.held, best[:, 0], best[:, -1]), tokens.held)
    found = affine_maps.fit_affine(loss, tokens, 0)
    assert found.ridge is None and not found.weight.any() and not found.bias.any()
