"""Looped checkpoints with their own code: plans, lens and edits against plain hooks on what transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from families import PROMPTS, byte_tokenizer
from looped_cases import Case, Naive
from remote_cases import REMOTE, remote_folder, source_of, with_own_code
from torch import nn

import depthsig
from depthsig.engine.certificates import certify
from depthsig.engine.edits import Skip
from depthsig.errors import InputError

TOKENIZER = byte_tokenizer()
IDS = torch.tensor([TOKENIZER(PROMPTS[2]).input_ids])


class Opened(NamedTuple):
    """A case, its folder, the model in it as transformers loads it, and as depthsig does."""

    kind: str
    case: Case
    folder: Path
    module: nn.Module
    model: depthsig.Model


@pytest.fixture(scope="module", params=list(REMOTE))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    case = REMOTE[request.param]
    name = "".join(filter(str.isalnum, request.param))
    folder = remote_folder(tmp_path_factory.mktemp("remote") / name, case.build(), source_of(request.param))
    return Opened(request.param, case, folder, with_own_code(folder), depthsig.load(folder, trust_remote_code=True))


def _near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_the_steps_are_those_of_the_code(opened: Opened) -> None:
    told, plan = opened.case, opened.model.plan
    assert plan.layers == told.order
    assert {s.step: s.boundary for s in plan if s.boundary} == (told.boundaries or {})
    assert [d for d, normed in enumerate(opened.model.trace.normed) if normed] == list(told.normed)
    assert all(c.passed for c in certify(opened.model, [TOKENIZER(text).input_ids for text in PROMPTS]))


def test_lens_and_states(opened: Opened) -> None:
    told, module, model = opened.case, opened.module, opened.model
    naive, run = Naive(told, module, IDS), model.clean(IDS)
    for a, b in zip([*run.inputs, *run.outputs], [*naive.inputs, *naive.outputs], strict=True):
        _near(a, b)
    _near(model.logits(IDS), naive.logits)
    with torch.no_grad():
        _near(told.read(module, run.outputs[-1]), naive.logits)
        wanted = [(told.head if d in told.normed else told.read)(module, h) for d, h in enumerate(naive.inputs)]
    targets = IDS[0, 2:, None]
    nll = [-x.double().log_softmax(-1)[0, 1:-1].gather(1, targets).mean().item() for x in [*wanted, naive.logits]]
    found = depthsig.analyze(model, [IDS[0].tolist()], metrics=["lens.kl", "lens.target_nll"])
    assert found.profile("lens.target_nll")["value"].to_numpy() == pytest.approx(nll, rel=1e-4)
    assert found.profile("lens.kl")["value"].to_numpy()[-1] == 0


def test_skipping_in_one_pass(opened: Opened) -> None:
    told, module = opened.case, opened.module

    def skip(step: int, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return torch.cat([after[:, :1], before[:, 1:]], dim=1) if step in told.passed else after

    wanted = Naive(told, module, IDS, skip).logits
    edit = sum((Skip(s) for s in told.passed[1:]), Skip(told.passed[0]))
    (found,) = opened.model.run([IDS[0].tolist()], [edit])
    _near(found.logits[0], wanted[0])
    assert (wanted - Naive(told, module, IDS).logits).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_parts_of_one_pass(opened: Opened, part: str) -> None:
    told, module, step = opened.case, opened.module, opened.case.passed[-1]
    layer = opened.model.layer_at(step)
    if getattr(layer, part) is None:
        assert opened.kind.startswith("loopformer")  # what its parts give is gated before it is added
        return
    steps = [0]

    def count(*seen: object) -> None:
        steps[0] += 1

    def silence(_: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :1], torch.zeros_like(output[:, 1:])], dim=1) if steps[0] == step + 1 else output

    own = told.layers(module)[opened.model.trace.layers[step]]  # one of its own, where weights alone are shared
    piece = getattr(own, "self_attn" if part == "attn" and hasattr(own, "self_attn") else part)
    hooks = [m.register_forward_pre_hook(count) for m in {id(x): x for x in told.layers(module)}.values()]
    hooks.append(piece.register_forward_hook(silence))
    wanted = Naive(told, module, IDS).logits
    for hook in hooks:
        hook.remove()
    (found,) = opened.model.run([IDS[0].tolist()], [Skip(step, part=part)])
    _near(found.logits[0], wanted[0])


FORCED = {
    "nanbeige": (4, 12), "iquest": (3, 9), "routed": (1, 3), "base loop": (3, 9), "loopformer": (5, 15),
    "loopformer, 1 block": (24, 24), "loopus": (5, 12), "retrofitted": (2, 6), "parcae": (1, 4), "ouro": (2, 6),
}  # fmt: skip


def test_forced_iterations(opened: Opened) -> None:
    if opened.kind not in FORCED:
        with pytest.raises(InputError, match="no count of iterations"):
            depthsig.load(opened.folder, trust_remote_code=True, iterations=2)
        return
    count, steps = FORCED[opened.kind]
    model = depthsig.load(opened.folder, trust_remote_code=True, iterations=count)
    assert len(model.plan) == steps
    assert [span.count for span in model.plan.spans] == ([count] if count > 1 else [])
    assert all(c.passed for c in certify(model, [IDS[0].tolist(), [5]]))


@pytest.mark.parametrize("kind", ["iquest", "loopformer", "loopus", "nanbeige"])
def test_in_bfloat16(kind: str, tmp_path: Path) -> None:
    module = REMOTE[kind].build()
    with torch.no_grad():
        for matrix in (p for p in module.parameters() if p.ndim > 1):
            matrix.div_(2)  # as it is, every layer makes several times as much of a rounding
    folder = remote_folder(tmp_path / f"half{kind}", module, source_of(kind))
    model = depthsig.load(folder, trust_remote_code=True, dtype="bfloat16")
    assert model.plan.layers == REMOTE[kind].order
    assert all(c.passed for c in certify(model, [IDS[0].tolist(), [5]]))
