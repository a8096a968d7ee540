"""Loops that are refused by name before a weight is read, and what is not; models that only their code builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import looped
import looped_remote as remote
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer
from looped_cases import shaken
from torch import nn

import depthsig
from depthsig.checkpoint.files.unmeasurable import refuse_unmeasurable
from depthsig.cli.main import main
from depthsig.engine.certificates import certify
from depthsig.errors import InputError, UnsupportedModelError

TOKENIZER = byte_tokenizer()
PARALLEL = {
    "its type": {"model_type": "iquestpltcoder", "auto_map": {"AutoConfig": "own.Own"}},
    "its class": {"model_type": "own", "architectures": ["IQuestPLTCoderForCausalLM"]},
    "its passes": {"model_type": "keystone_plt", "plt_num_loops": 2},
    "its passes, as JSON of another program has them": {"model_type": "keystone_plt", "plt_num_loops": 2.0},
    "by another name": {"model_type": "llama", "architectures": ["ForesightLoopForCausalLM"]},
}
EXPERTS = {
    "its type": {"model_type": "loop-moe", "num_stacks": 2, "num_experts": 8},
    "its class": {"model_type": "own", "architectures": ["LoopedMoEForCausalLM"]},
    "universal": {"model_type": "moeut", "n_ffn_experts": 8},
}
OTHERS = {
    "one pass": {"model_type": "keystone_plt", "plt_num_loops": 1},
    "experts": {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
    "a loop": {"model_type": "iquestloopcoder", "architectures": ["IQuestLoopCoderForCausalLM"], "loop_num": 2},
    "a word": {"model_type": "own", "architectures": ["MoeUtilForCausalLM", 3], "plt_num_loops": "2"},
}


def _folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


def _refused(source: Any, **how: Any) -> str:
    with pytest.raises(UnsupportedModelError) as told:
        depthsig.load(source, **how)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("config", [*PARALLEL.values(), *EXPERTS.values()], ids=[*PARALLEL, *EXPERTS])
def test_by_name_where_no_weight_is(config: dict[str, Any], tmp_path: Path) -> None:
    """The folder holds a config alone: whatever looked for weights would say that there are none."""
    told = _refused(_folder(tmp_path / "own", config), trust_remote_code=True)
    kind = "a looped mixture of experts" if config in EXPERTS.values() else "a parallel loop"
    assert f"is {kind} (" in told and told.endswith("can be analysed")


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_others_are_not(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no weights"):
        depthsig.load(_folder(tmp_path / "own", config), trust_remote_code=True)


def test_on_the_command_line_and_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache/models--Multilingual-Multimodal-NLP--LoopCoder-V2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("a" * 40)
    (repository / "snapshots").mkdir()
    folder = _folder(repository / "snapshots" / ("a" * 40), PARALLEL["its type"])
    for source in (str(folder), "Multilingual-Multimodal-NLP/LoopCoder-V2"):
        assert main(["plan", source]) == 2
        assert "is a parallel loop (iquestpltcoder)" in capsys.readouterr().err


def test_live_models_too() -> None:
    class LoopMoEForCausalLM(looped.NanbeigeForCausalLM):
        pass

    assert "mixture of experts (LoopMoEForCausalLM)" in _refused(
        LoopMoEForCausalLM(looped.NanbeigeConfig()), tokenizer=TOKENIZER
    )
    config = looped.NanbeigeConfig(loop_middle_layers=[1])
    assert "loop_middle_layers" in _refused(looped.NanbeigeForCausalLM(config), tokenizer=TOKENIZER)


class Scaled(nn.Module):
    """LoopUS as its authors publish it: a module that transformers does not load, with a config of their own."""

    def __init__(self, strategy: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = shaken(remote.LDSRemoteForCausalLM(remote.LDSRemoteConfig(halting_strategy=strategy)))
        self.config = self.inside.config

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.inside(input_ids)


@pytest.mark.parametrize("strategy", ["threshold", "convergence"])
def test_a_loop_that_can_be_left_early_runs_all_its_passes(strategy: str) -> None:
    module = Scaled(strategy)
    ids = torch.tensor([TOKENIZER(PROMPTS[2]).input_ids])
    with torch.no_grad():
        module.inside.q_threshold, module.inside.convergence_epsilon = 0.0, 1e9  # everybody leaves after one pass
        early = module(ids).logits
        model = depthsig.load(module, TOKENIZER)
        assert model.plan.layers == (0, 1, 2, 1, 2, 1, 2, 3)
        assert any("left early (q_threshold, convergence_epsilon)" in note for note in model.plan.notes)
        assert all(c.passed for c in certify(model, [ids[0].tolist(), [5]]))
        assert torch.equal(module(ids).logits, early) and not torch.allclose(model.logits(ids), early)
        module.inside.q_threshold, module.inside.convergence_epsilon = 1.0, 0.0
        assert torch.allclose(model.logits(ids), module(ids).logits, atol=1e-5)
        assert depthsig.load(module, TOKENIZER, iterations=2).plan.layers == (0, 1, 2, 1, 2, 3)


class TransformerGPT(nn.Module):
    """A model without a config: a first block, a core that runs some times, a last one; more rows than tokens."""

    def __init__(self, repeats: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = remote.RemoteConfig(vocab_size=272)
        self.repeats = repeats
        self.embed, self.unembed = nn.Embedding(272, 32), nn.Linear(32, 272, bias=False)
        self.blocks = nn.ModuleList(remote.RemoteLayer(config, i) for i in range(4))
        self.norm = remote.RMSNorm(32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](self.embed(tokens))
        for _ in range(self.repeats):
            x = self.blocks[2](self.blocks[1](x))
        return self.unembed(self.norm(self.blocks[3](x)))


def test_weights_that_only_their_code_builds_a_model_around(tmp_path: Path) -> None:
    """The ladder CharlieChen/loop-*: ``final.pt`` and ``result.json``, and the recipe of the how-to."""
    trained = shaken(TransformerGPT(repeats=3), 8.0)
    torch.save({"model": trained.state_dict(), "step": 7}, tmp_path / "final.pt")
    (tmp_path / "result.json").write_text(json.dumps({"depth_mode": "loop", "repeats": 3}))
    for how in ({}, {"allow_pickle": True}):
        with pytest.raises(
            InputError, match=r"no config.json, and 'final.pt' .*depthsig\.load\(model, tokenizer="
        ) as told:
            depthsig.load(tmp_path, **how)
        assert "\n" not in str(told.value)
    model = TransformerGPT(json.loads((tmp_path / "result.json").read_text())["repeats"])
    model.load_state_dict(torch.load(tmp_path / "final.pt", weights_only=True)["model"])
    found = depthsig.load(model.eval(), tokenizer=TOKENIZER)
    assert found.plan.layers == (0, 1, 2, 1, 2, 1, 2, 3) and found.plan.spans[0].count == 3
    assert all(c.passed for c in certify(found, [TOKENIZER(text).input_ids for text in PROMPTS[:3]]))
    with torch.no_grad():
        ids = torch.tensor([TOKENIZER(PROMPTS[2]).input_ids])
        assert torch.allclose(found.logits(ids), trained(ids), atol=1e-5)


class LastOnly(nn.Module):
    """As nanoGPT in generation, with nothing that gives the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("llama")

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids).logits[:, -1:]


class Judge(LastOnly):
    """Its labels are a class a text, which no ids can be."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        last = super().forward(input_ids)
        return last if labels is None else last + nn.functional.cross_entropy(last[:, 0], labels)


@pytest.mark.parametrize("kind", [LastOnly, Judge])
def test_logits_of_the_last_token_alone_are_refused(kind: type[LastOnly]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"last tokens alone; load\(..., forward=f\)"):
        depthsig.load(kind(), TOKENIZER)
    model = depthsig.load(LastOnly(), TOKENIZER, forward=lambda m, ids: m.inner(ids))
    assert model.plan.layers == (0, 1, 2, 3)


@pytest.mark.parametrize("name", ["mixtral", "moe-utf8", "moe_utility", "SmoeUtterance", "loopformer", "plt"])
def test_what_only_sounds_alike_is_no_loop_of_experts(name: str) -> None:
    refuse_unmeasurable({"model_type": name, "architectures": [name]}, "a checkpoint")
