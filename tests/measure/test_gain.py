"""Token gain: passes that move losses by known amounts, and looped kinds against plain hooks and their own counts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from looped_cases import CASES, Naive, x_transformer
from torch import Tensor, nn

import depthsig
from depthsig.errors import InputError
from depthsig.measure.clean import codas
from depthsig.report.page.page_data import page_data
from depthsig.signature import Signature

TOKENIZER = byte_tokenizer()
IDS = TOKENIZER(PROMPTS[2]).input_ids
WIDTH, FOLLOWED = 8, len(IDS) - 2
"""The second: of positions 1 .. T−2, measured, and with a next token."""


class Add(nn.Module):
    """A pass: the same step for every token."""

    def __init__(self, g: float) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.eye(WIDTH)[:1] * g)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.step


class Drift(nn.Module):
    """Every pass goes on along one direction: what speaks for the token 97 speaks against 98; none else is likely."""

    def __init__(self, passes: int, g: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.passes = nn.Embedding(272, WIDTH), passes
        self.layers, self.norm, self.lm_head = nn.ModuleList([Add(g)]), nn.Identity(), nn.Linear(WIDTH, 272, False)
        with torch.no_grad():
            self.embed.weight[:, :2] = torch.tensor([0.0, 1.0])
            self.lm_head.weight[:] = torch.eye(WIDTH)[1] * -60
            self.lm_head.weight[97], self.lm_head.weight[98] = torch.eye(WIDTH)[0], -torch.eye(WIDTH)[0]

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(self.passes):
            x = self.layers[0](x)
        return self.lm_head(self.norm(x))


def test_passes_that_help_one_token_and_harm_another_by_known_amounts() -> None:
    passes, g, text = 14, 0.4, [5, 97, 98, 97, 97, 98]
    found = depthsig.analyze(Drift(passes, g).eval(), [text], tokenizer=TOKENIZER, metrics=["gain"], progress=False)
    likely = [1 / (1 + math.exp(-2 * g * (k + 1))) for k in range(passes)]
    for_97, for_98 = [-math.log(p) for p in likely], [-math.log(1 - p) for p in likely]
    rows = found.tokens("gain.change").set_index(["position", "index"])["value"]
    followed_by = {t: text[t + 1] for t in range(1, len(text) - 1)}
    assert len(rows) == len(followed_by) * (passes - 1)
    for position, target in followed_by.items():
        losses = for_97 if target == 97 else for_98
        for k in range(passes - 1):
            assert rows[position, k] == pytest.approx(losses[k + 1] - losses[k], abs=1e-5)
    # Two targets of each kind: 97 is best after the last pass, 98 after the first.
    assert sorted(followed_by.values()) == [97, 97, 98, 98]
    score = dict(zip(found.scores["score"], found.scores["value"], strict=True))
    changes = np.diff([for_97, for_98], axis=1)
    assert score["gain.better"] == pytest.approx((changes < -0.01).mean())
    assert score["gain.worse"] == pytest.approx((changes > 0.01).mean())
    assert score["gain.same"] == pytest.approx((np.abs(changes) <= 0.01).mean()) and score["gain.same"] > 0
    assert score["gain.oracle_exit"] == pytest.approx((passes - 1) / 2)
    assert score["gain.oracle_exit.loss"] == pytest.approx((for_97[-1] + for_98[0]) / 2, abs=1e-5)
    assert score["gain.last_pass.loss"] == pytest.approx((for_97[-1] + for_98[-1]) / 2, abs=1e-5)
    confident = next(k for k, p in enumerate(likely) if p >= 0.9)
    assert 0 < confident < passes - 1 and score["gain.exit_confidence"] == confident
    assert score["gain.exit_confidence.loss"] == pytest.approx((for_97[confident] + for_98[confident]) / 2, abs=1e-5)
    pairs = itertools.pairwise(likely)
    kls = [p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in pairs]
    settled = next(k for k, kl in enumerate(kls, 1) if kl < 5e-4)
    assert confident < settled < passes - 1 and score["gain.exit_settling"] == settled
    assert score["gain.exit_settling.loss"] == pytest.approx((for_97[settled] + for_98[settled]) / 2, abs=1e-5)
    marks = found.tokens("gain.oracle_exit").set_index("position")
    assert marks["value"].to_dict() == {t: float((passes - 1) * (n == 97)) for t, n in followed_by.items()}
    assert (marks["index"] == marks["value"]).all()
    assert {"gain.oracle_exit", "gain.better"} <= set(found.metrics.of("score"))
    assert found.metrics.of("token") == ["gain.change"] and found.metrics.of("matrix") == ["gain.between"]
    shown = page_data(found)["tokens"]["gain.change"]
    at = marks["value"].to_dict()
    assert shown["centre"] == 0 and shown["prompts"][0]["marks"] == {
        "oracle": at, "confident": dict.fromkeys(at, confident), "settled": dict.fromkeys(at, settled)
    }  # fmt: skip
    drawn = {one.get_label(): one.get_offsets() for one in found.plot("gain.change").collections}
    # A mark stands below the row of the pass that is not run any more, each in its own part of the column.
    assert drawn["exit: oracle"][:, 1].tolist() == [k - 0.5 for k in at.values()]
    assert drawn["exit: settled"][:, 1].tolist() == [settled - 0.5] * len(at)
    assert drawn["exit: confident"][:, 0].tolist() == [0, 1, 2, 3]
    gateless = found.scores[found.scores["score"].str.startswith("gain.exit_gate")]
    assert gateless["value"].isna().all() and (gateless["note"] == "no exit gate").all() and len(gateless) == 2
    with pytest.raises(InputError, match="exit_gate"):
        found.tokens("gain.exit_gate")


def losses_of(logits: Tensor) -> np.ndarray:
    """Of the measured tokens that others follow."""
    logs = logits[0].double().log_softmax(-1)
    return np.array([-float(logs[t, IDS[t + 1]]) for t in range(1, len(IDS) - 1)])


def losses_by_pass(found: Signature, passes: int) -> np.ndarray:
    """Mean losses after each pass, as the scores and the matrix tell them."""
    last = found.score("gain.last_pass.loss")
    between = found.matrix("gain.between")
    return np.array([last - (between.loc[k, passes - 1] if k < passes - 1 else 0.0) for k in range(passes)])


ENDS = {
    "ouro": (3, 6, 9, 12), "nanbeige": (3, 6), "huginn": (3, 5, 7), "parcae": (3, 5, 7), "loopformer": (3, 6, 9),
    "albert": (4, 5, 6), "tied": (3, 6, 9), "hrm_text": (8, 16),
}  # fmt: skip
"""One more than the last step of every pass of the loop that is left last, by hand."""


@pytest.mark.parametrize("kind", [k for k in CASES if k != "zamba2"])
def test_every_kind_is_what_plain_hooks_give(kind: str) -> None:
    case, ends = CASES[kind], ENDS[kind]
    module = case.build()
    clean = Naive(case, module, torch.tensor([IDS]))

    def stopped(end: int) -> Tensor:
        """The model's own forward, whose loop gives out what it had at ``end``."""

        def edit(step: int, before: Tensor, after: Tensor) -> Tensor:
            return clean.outputs[end - 1] if step == ends[-1] - 1 else after

        return Naive(case, module, torch.tensor([IDS]), edit).logits.detach()

    outputs = [stopped(end) for end in ends]
    plain = np.stack([losses_of(logits) for logits in outputs])
    found = depthsig.analyze(depthsig.load(module, TOKENIZER), [IDS], metrics=["gain"], control=False, progress=False)
    rows = found.tokens("gain.change").pivot(index="index", columns="position", values="value")
    assert rows.shape == (len(ends) - 1, FOLLOWED)
    assert rows.to_numpy() == pytest.approx(np.diff(plain, axis=0), abs=2e-4)
    assert losses_by_pass(found, len(ends)) == pytest.approx(plain.mean(1), abs=2e-4)
    assert found.score("gain.oracle_exit.loss") == pytest.approx(plain.min(0).mean(), abs=2e-4)
    logs = torch.stack([logits[0, 1:-1].double().log_softmax(-1) for logits in outputs])
    told = (logs.exp().amax(-1) >= 0.9).numpy()
    kls = (logs[:-1].exp() * (logs[:-1] - logs[1:])).sum(-1).numpy()
    still = np.concatenate([np.zeros_like(told[:1]), kls < 5e-4])
    for name, holds in (("confidence", told), ("settling", still)):
        exits = np.where(holds.any(0), holds.argmax(0), len(ends) - 1)
        assert found.score(f"gain.exit_{name}") == pytest.approx(exits.mean())
        chosen = plain[exits, np.arange(FOLLOWED)].mean()
        assert found.score(f"gain.exit_{name}.loss") == pytest.approx(chosen, abs=2e-4)


COUNTS = {"ouro": 3, "nanbeige": 3, "huginn": 3, "parcae": 3, "hrm_text": 2, "x_transformers": 3}


@pytest.mark.parametrize("kind", list(COUNTS))
def test_stopping_after_pass_k_is_the_model_with_so_many_passes(kind: str) -> None:
    if kind == "x_transformers":
        pytest.importorskip("x_transformers")
    module, passes = (x_transformer() if kind == "x_transformers" else CASES[kind].build()), COUNTS[kind]

    def forced(n: int) -> Any:
        return depthsig.load(module, TOKENIZER, iterations={"H_cycles": n} if kind == "hrm_text" else n)

    found = depthsig.analyze(forced(passes), [IDS], metrics=["gain"], control=False, progress=False)
    alone = [losses_of(forced(n).logits(torch.tensor([IDS]))).mean() for n in range(1, passes + 1)]
    assert losses_by_pass(found, passes) == pytest.approx(np.array(alone), abs=1e-4)


def test_where_passes_are_told_how_many_there_are_it_is_not() -> None:
    """LoopFormer's passes take steps of 1/R: the first of three is another one than the only one."""
    module = CASES["loopformer"].build()
    found = depthsig.analyze(depthsig.load(module, TOKENIZER), [IDS], metrics=["gain"], control=False, progress=False)
    alone = losses_of(depthsig.load(module, TOKENIZER, iterations=1).logits(torch.tensor([IDS]))).mean()
    assert abs(losses_by_pass(found, 3)[0] - alone) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_lets_go_as_ouros_own_code_does(dtype: torch.dtype) -> None:
    module = CASES["ouro"].build().to(dtype)
    module.config.early_exit_threshold = 0.6
    with torch.no_grad():
        module.model.early_exit_gate.weight.mul_(3.0)
    gates: list[Tensor] = []
    handle = module.model.early_exit_gate.register_forward_hook(lambda m, args, out: gates.append(out.detach()))
    with torch.no_grad():
        module(torch.tensor([IDS]))
    handle.remove()
    staying, left, leaves = torch.ones_like(gates[0][..., 0]), torch.zeros_like(gates[0][..., 0]), []
    for k, gate in enumerate(gates):
        now = gate[..., 0].sigmoid()
        left = left + (staying if k == len(gates) - 1 else now * staying)
        staying = staying * (1 - now)
        leaves.append((left >= 0.6)[0, 1:-1])
    wanted = torch.stack(leaves).byte().argmax(0).double().numpy()
    assert len(set(wanted)) > 1
    found = depthsig.analyze(module, [IDS], tokenizer=TOKENIZER, metrics=["gain"], control=False, progress=False)
    assert found.tokens("gain.exit_gate")["value"].to_numpy() == pytest.approx(wanted)
    assert found.score("gain.exit_gate") == pytest.approx(wanted.mean())
    assert found.score("gain.exit_gate.loss") >= found.score("gain.oracle_exit.loss")


def test_codas_and_exits_share_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    run = codas.run_programs

    def counted(clean: Any, programs: Any) -> Any:
        ran.append(len(programs))
        return run(clean, programs)

    monkeypatch.setattr(codas, "run_programs", counted)

    def measured(*metrics: str) -> Signature:
        ran.clear()
        return depthsig.analyze(
            build("llama"), [IDS], tokenizer=TOKENIZER, metrics=metrics, order="0:1,1:3x3,3", control=False,
            progress=False,
        )  # fmt: skip

    coda = measured("coda")
    assert ran == [7]
    gain = measured("gain")
    assert ran == [2]  # the last pass is the clean run
    both = measured("coda", "gain")
    assert ran == [7]
    assert both.scores["value"].tolist() == pytest.approx(gain.scores["value"].tolist(), nan_ok=True)
    assert both.profiles["value"].tolist() == pytest.approx(coda.profiles["value"].tolist(), nan_ok=True)
    nll = coda.profile("coda.target_nll")["value"]
    assert losses_by_pass(gain, 3) == pytest.approx([nll[3], nll[5], nll[7]], abs=1e-6)


def test_many_prompts_are_each_one_alone() -> None:
    module = looped_model()
    prompts = PROMPTS[:3]
    together = depthsig.analyze(module, prompts, tokenizer=TOKENIZER, metrics=["gain"], control=False, progress=False)
    alone = [
        depthsig.analyze(module, [text], tokenizer=TOKENIZER, metrics=["gain"], control=False, progress=False)
        for text in prompts if len(TOKENIZER(text).input_ids) > 2
    ]  # fmt: skip
    for score in ("gain.better", "gain.oracle_exit.loss", "gain.exit_settling.loss", "gain.last_pass.loss"):
        each = [one.score(score) for one in alone]
        assert together.score(score) == pytest.approx(np.mean(each), abs=1e-5)
    shares = sum(together.score(f"gain.{name}") for name in ("better", "same", "worse"))
    assert shares == pytest.approx(1)
    rows = together.tokens("gain.change")
    assert rows["prompt"].max() <= 3 and rows["value"].notna().all()


def test_tokens_that_none_follows_have_no_gain() -> None:
    module = looped_model()
    with pytest.raises(InputError, match="last position has none"):
        depthsig.analyze(module, [IDS], tokenizer=TOKENIZER, metrics=["gain"], positions="last")
    two = depthsig.analyze(module, [[5, 7]], tokenizer=TOKENIZER, metrics=["gain"], control=False, progress=False)
    assert two.scores["value"].isna().all() and len(two.scores) == 12
    assert set(two.scores["note"]) == {"no measured token has a next one", "no exit gate"}
    with pytest.raises(InputError, match="need a loop that runs"):
        depthsig.analyze(build("llama"), [IDS], tokenizer=TOKENIZER, metrics=["gain"])


def test_a_profile_over_passes_is_refused() -> None:
    with pytest.raises(InputError, match="over passes declare it with kind='token'"):
        depthsig.metric("mine.loss", on="exits", axis="iteration")(lambda losses: losses)


@pytest.mark.parametrize("tied", [False, True])
def test_half_precision_is_near(tied: bool) -> None:
    module, found = looped_model(), []
    if tied:
        module.lm_head.weight = module.model.embed_tokens.weight
    for dtype in (torch.float32, torch.bfloat16):
        signature = depthsig.analyze(
            module.to(dtype), [IDS], tokenizer=TOKENIZER, metrics=["gain"], control=False, progress=False
        )
        found.append(losses_by_pass(signature, signature.plan["iteration"].max() + 1))
    assert found[1] == pytest.approx(found[0], rel=0.02) and (found[0] != found[1]).all()
