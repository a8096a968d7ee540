"""The derivative of a pass: known answers, and every loop against its whole Jacobian by plain hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from families import build, byte_tokenizer
from looped_cases import CASES, Case
from torch import Tensor, nn

import depthsig
from depthsig.errors import InputError, UnsupportedModelError
from depthsig.metrics import lyapunov, spectral_radius
from depthsig.progress import Progress

TOKENIZER = byte_tokenizer()
IDS = TOKENIZER("a few words").input_ids
OWN, ALL = "loop.spectral_radius", "loop.spectral_radius_all"
EVERY = [OWN, "loop.spectral_residual", ALL, "loop.spectral_residual_all", "loop.lyapunov"]
pytestmark = pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")


def rotated(size: int, eigenvalues: list[complex], skew: float, seed: int = 0) -> Tensor:
    """A real matrix with these eigenvalues (a complex one stands for its pair), normal where ``skew`` is 0."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.zeros(size, size, dtype=torch.float64)
    at = 0
    for value in map(complex, eigenvalues):
        if value.imag:
            a, b = value.real, value.imag
            blocks[at : at + 2, at : at + 2] = torch.tensor([[a, -b], [b, a]])
        else:
            blocks[at, at] = value.real
        at += 1 + bool(value.imag)
    above = torch.triu(torch.randn(size, size, generator=generator, dtype=torch.float64), 2)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return turn @ (blocks + skew * above) @ turn.T


KNOWN = {
    "real": ([1.3, *np.linspace(-0.9, 0.9, 47)], 0.0, 1.3),
    "negative": ([-1.1, *np.linspace(-0.8, 0.8, 47)], 0.0, 1.1),
    "pair": ([0.9 * complex(math.cos(1), math.sin(1)), *np.linspace(-0.7, 0.7, 46)], 0.0, 0.9),
    "skew": ([1.2, *np.linspace(-0.8, 0.8, 47)], 0.1, 1.2),
    "skew pair": ([0.8 * complex(math.cos(2), math.sin(2)), *np.linspace(-0.5, 0.5, 46)], 0.1, 0.8),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_radius_is_read_to_a_hundredth(name: str) -> None:
    values, skew, wanted = KNOWN[name]
    matrix = rotated(48, values, skew)
    assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(wanted, rel=1e-6)
    probe = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    found = spectral_radius(lambda v: (v.double() @ matrix).float(), probe)
    assert found.radius.numpy() == pytest.approx([wanted] * 3, rel=0.01) and found.residual.max() < 0.05
    # A row is what it is alone.
    alone = spectral_radius(lambda v: (v.double() @ matrix).float(), probe[1:2])
    assert float(alone.radius) == pytest.approx(float(found.radius[1]), rel=1e-5)


def test_what_is_left_of_nothing() -> None:
    still = spectral_radius(lambda v: 0.0 * v, torch.ones(2, 5))
    assert still.radius.tolist() == [0.0, 0.0]
    lost = spectral_radius(lambda v: v * torch.tensor([[math.nan], [2.0]]), torch.ones(2, 5))
    assert math.isnan(lost.radius[0]) and float(lost.radius[1]) == pytest.approx(2)
    assert math.isnan(lyapunov([lambda v: 0.0 * v], torch.ones(1, 5)))


def test_arnoldi_takes_as_many_products_as_it_says() -> None:
    calls = []

    def product(v: Tensor) -> Tensor:
        calls.append(len(v))
        return v @ rotated(200, list(np.linspace(-1, 1, 200)), 0.0).float()

    found = spectral_radius(product, torch.randn(1, 200, generator=torch.Generator().manual_seed(0)))
    assert len(calls) == 32 and 0.9 < float(found.radius) <= 1 and 1e-3 < float(found.residual) < 0.2


def test_growth_along_passes_is_that_of_their_product() -> None:
    """Of passes that differ, the exponent is what the product of all of them grows by; a pair rotates evenly."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    sizes = [torch.tensor([2.0, 0.3, 0.2, 0.1, 0.1, 0.1]) * s for s in (1.0, 0.7, 1.5)]
    maps = [turn @ torch.diag(s) @ turn.T for s in sizes]
    found = lyapunov([lambda v, m=m: v @ m for m in maps], torch.randn(1, 6, generator=generator))
    assert found == pytest.approx(np.log([2, 1.4, 3]).mean(), rel=1e-4)
    pair = rotated(6, [0.9 * complex(math.cos(1), math.sin(1)), 0.1, 0.2, 0.3, 0.1], 0.05).float()
    assert lyapunov([lambda v: v @ pair] * 3, torch.ones(1, 6)) == pytest.approx(math.log(0.9), rel=1e-2)


class Linear(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix.float())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + 0.3


class LinearLoop(nn.Module):
    """An embedding, a linear pass several times, a head."""

    def __init__(self, matrix: Tensor, passes: int = 3) -> None:
        super().__init__()
        self.embed, self.passes = nn.Embedding(272, len(matrix)), passes
        self.layers = nn.ModuleList([Linear(matrix)])
        self.norm, self.lm_head = nn.Identity(), nn.Linear(len(matrix), 272, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(self.passes):
            x = self.layers[0](x)
        return self.lm_head(self.norm(x))


@pytest.mark.parametrize("name", ["real", "pair", "skew pair"])
def test_a_linear_loop_has_the_radius_that_it_was_given(name: str) -> None:
    values, skew, wanted = KNOWN[name]
    module = LinearLoop(rotated(48, values, skew)).eval()
    found = depthsig.analyze(module, [IDS, IDS[:3]], tokenizer=TOKENIZER, metrics=EVERY)
    assert found.matrix(OWN).to_numpy() == pytest.approx(np.full((3, 1), wanted), rel=0.01)
    assert found.matrix(ALL).to_numpy() == pytest.approx(np.full((3, 1), wanted), rel=0.01)
    assert found.score("loop.lyapunov") == pytest.approx(math.log(wanted), abs=0.01)


def jacobian(case: Case, module: nn.Module, start: int, size: int) -> Tensor:
    """∂(input of step start + size)/∂(input of step start) over all positions, by a hooked forward and autograd."""
    layers = list({id(m): m for m in case.layers(module)}.values())
    ids = torch.tensor([IDS])

    def run(x: Tensor | None) -> Tensor:
        step, seen = 0, []

        def enter(layer: nn.Module, args: tuple, kwargs: dict) -> Any:
            nonlocal step
            step += 1
            hidden = args[0] if args else kwargs["hidden_states"]
            if step - 1 in (start, start + size):
                seen.append(hidden)
            if step - 1 == start and x is not None:
                return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})
            return None

        handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
        try:
            case.call(module, ids)
        finally:
            for handle in handles:
                handle.remove()
        return seen[0].detach() if x is None else seen[1]

    x = run(None)
    found = torch.autograd.functional.jacobian(run, x)[0, :, :, 0]  # [token, d, token, d]
    return found.detach()


SPANS = {"ouro": (0, 3), "huginn": (1, 2), "parcae": (1, 2), "loopformer": (0, 3), "albert": (0, 1), "tied": (0, 3)}


@pytest.mark.parametrize("kind", SPANS)
def test_radii_are_those_of_the_whole_jacobian(kind: str) -> None:
    case, (first, size) = CASES[kind], SPANS[kind]
    module = case.build()
    found = depthsig.analyze(module, [IDS], tokenizer=TOKENIZER, metrics=[*EVERY[:4]], probes=4)
    positions = [1 + int(i) for i in np.round(np.linspace(0, len(IDS) - 2, 4))]
    samples = found.matrices[found.matrices["scope"].isin(["-", f"{first}:{first + 3}"])]
    for k, phase in ((0, 0), (1, size - 1)):
        if k == 1 and kind == "albert":
            continue
        whole = jacobian(case, module, first + k * size + phase, size).double()
        own = [float(torch.linalg.eigvals(whole[t, :, t]).abs().max()) for t in range(len(IDS))]
        # Earlier tokens do not depend on later ones, so all positions together have the tokens' own eigenvalues.
        assert float(whole[0, :, 1:].abs().max()) == 0
        n = (len(IDS) - 1) * whole.shape[1]
        together = float(torch.linalg.eigvals(whole[1:, :, 1:].reshape(n, n)).abs().max())
        assert together == pytest.approx(max(own[1:]), rel=1e-6)

        def read(name: str, k: int = k, phase: int = phase) -> float:
            rows = samples[(samples["metric"] == name) & (samples["row"] == k) & (samples["col"] == phase)]
            return float(rows["value"].iloc[0])

        assert read(OWN) == pytest.approx(np.mean([own[t] for t in positions]), rel=0.01)
        assert read(ALL) == pytest.approx(together, rel=0.03)


@pytest.mark.parametrize("kind", ["order", "ouro"])
def test_the_pass_after_the_last_is_the_one_that_would_run(kind: str) -> None:
    """The last pass's derivative, from any phase, is that of the same pass in a run of one pass more."""
    found = []
    for count in (2, 3):
        if kind == "order":
            given: dict[str, Any] = {"order": f"0:1,1:3x{count},3:4"}
            model = build("llama")
        else:
            model, given = depthsig.load(CASES["ouro"].build(), TOKENIZER, iterations=count), {}
        more = {} if isinstance(model, depthsig.Model) else {"tokenizer": TOKENIZER}
        found.append(depthsig.analyze(model, [IDS], metrics=[OWN], probes=2, control=False, **more, **given))
    few, many = (one.matrix(OWN).to_numpy() for one in found)
    assert many.shape[0] == 3 and few == pytest.approx(many[:2], rel=2e-3)


def test_prompts_in_one_batch_do_not_meet() -> None:
    model = depthsig.load(build("llama"), TOKENIZER, order="0:1,1:3x2,3:4")
    both = depthsig.analyze(model, [IDS, IDS[:4]], metrics=EVERY, control=False)
    one = depthsig.analyze(model, [IDS[:4]], metrics=EVERY, control=False)
    for name in (OWN, ALL):
        rows = both.samples(name).query("prompt == 1")["value"].to_numpy()
        assert rows == pytest.approx(one.samples(name)["value"].to_numpy(), rel=1e-3)


def test_half_precision_reads_about_the_same() -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = depthsig.load(build("llama", dtype=dtype), TOKENIZER, order="0:1,1:3x2,3:4")
        found.append(depthsig.analyze(model, [IDS], metrics=[OWN], control=False).matrix(OWN).to_numpy())
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_a_model_that_leaves_gradients_out_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"HrmText.*leaves gradients out.*--metrics loop"):
        depthsig.analyze(CASES["hrm_text"].build(), [IDS[:3]], tokenizer=TOKENIZER, metrics=[OWN])


def test_without_a_loop_there_is_no_pass() -> None:
    with pytest.raises(InputError, match=r"loop.* need a loop that runs.*--order"):
        depthsig.analyze(build("llama"), [IDS], tokenizer=TOKENIZER, metrics=["loop.lyapunov"])
    with pytest.raises(InputError, match="--probes is 0"):
        depthsig.analyze(build("llama"), [IDS], tokenizer=TOKENIZER, probes=0)


def test_they_are_measured_where_they_are_named_only() -> None:
    model = depthsig.load(build("llama"), TOKENIZER, order="0:1,1:3x2,3:4")
    found = depthsig.analyze(model, [IDS[:3]], metrics=["loop"], control=False)
    assert not {*EVERY} & {*found.matrices["metric"], *found.scores["score"]}


def test_progress_is_told_pass_by_pass_and_adds_up() -> None:
    ticked: list[float] = []
    totals: list[float] = []

    class Told(Progress):
        @contextmanager
        def stage(self, name: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
            if name == "edited runs":
                totals.append(total or 0.0)
            yield ticked.append if name == "edited runs" else lambda amount: None

    model = depthsig.load(build("llama"), TOKENIZER, order="0:1,1:3x2,3:4")
    depthsig.analyze(model, [IDS, IDS[:4]], metrics=EVERY, probes=2, control=False, progress=Told())
    assert sum(ticked) == sum(totals) > 0 and max(ticked) < sum(totals) / 4
