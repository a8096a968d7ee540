"""Live models as people have them give what the model inside gives, or are refused with the cause by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer
from torch import nn

import depthsig
from depthsig.errors import InputError, UnsupportedModelError

TOKENIZER = byte_tokenizer()


class Wrapper(nn.Module):
    """A user's own module, without a config, that does not ask the model inside to leave its cache out."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("llama")

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids).logits


def _in_place() -> nn.Module:
    module = build("llama")
    module.compile(backend="eager")
    return module


def _layers(compiled: Callable[[nn.Module], Any]) -> nn.Module:
    module = build("llama")
    for number, layer in enumerate(module.model.layers):
        made = compiled(layer)
        if made is not None:
            module.model.layers[number] = made
    return module


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "data parallel": lambda: nn.DataParallel(build("llama")),
    "twice": lambda: nn.DataParallel(torch.compile(build("llama"), backend="eager")),
    "compiled": lambda: torch.compile(build("llama"), backend="eager"),
    "compiled in place": _in_place,
    "compiled layers": lambda: _layers(lambda layer: torch.compile(layer, backend="eager")),
    "layers compiled in place": lambda: _layers(lambda layer: layer.compile(backend="eager")),
    "a module of one's own": Wrapper,
}


@pytest.fixture(scope="module")
def bare() -> np.ndarray:
    return _lens(build("llama"))


def _lens(module: nn.Module) -> np.ndarray:
    found = depthsig.analyze(module, PROMPTS[:3], tokenizer=TOKENIZER, metrics=["lens.kl", "skip.kl"])
    return np.concatenate([found.profile("lens.kl")["value"], found.profile("skip.kl", scope="current")["value"]])


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_model_is_the_model_inside(how: str, bare: np.ndarray) -> None:
    module = WRAPPED[how]()
    configs = [m.config for m in module.modules() if hasattr(m, "config")]
    assert _lens(module) == pytest.approx(bare, abs=1e-7)
    assert all(config.use_cache for config in configs)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())


def _adapted(kind: str) -> nn.Module:
    peft = pytest.importorskip("peft")
    configs = {
        "lora": lambda: peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(build("llama"), configs[kind]()).eval()


def test_active_adapters_take_part() -> None:
    module = _adapted("lora")
    (found,) = depthsig.load(module, TOKENIZER).run(PROMPTS[:1], [None])
    with torch.no_grad():
        plain = module(torch.tensor([TOKENIZER(PROMPTS[0]).input_ids]), use_cache=False).logits
    assert torch.allclose(found.logits[0], plain[0], atol=1e-6)
    assert not torch.allclose(found.logits[0], depthsig.load(build("llama")).run([[5, 6]], [None])[0].logits[0][:1])


def test_adapters_of_the_prompt_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="PROMPT_TUNING"):
        depthsig.load(_adapted("prompt"), TOKENIZER)


def test_weights_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="meta device"):
        depthsig.load(build("llama").to("meta"), TOKENIZER)
