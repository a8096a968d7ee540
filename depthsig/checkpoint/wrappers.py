"""Live models as people have them: compiled, spread over devices, with adapters, inside a module of their own."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from depthsig.errors import UnsupportedModelError


def unwrapped(module: nn.Module) -> nn.Module:
    """The model that compiled modules, ``DataParallel`` and PEFT only stand for.

    What PEFT puts into the layers (LoRA and its kin) stays active; compiled code is run eagerly.

    Raises:
        UnsupportedModelError: for PEFT methods that work on the prompt, which no model inside knows of.
    """
    inner = _inside(module)
    return module if inner is None else unwrapped(inner)


def _inside(module: nn.Module) -> nn.Module | None:
    if "_orig_mod" in module._modules:  # torch.compile
        return module._modules["_orig_mod"]
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return module.module
    if any(c.__name__ == "PeftModel" for c in type(module).__mro__):
        return _adapted(module)
    return None


def _adapted(module: Any) -> nn.Module:
    for name in module.active_adapters:
        kind = module.peft_config[name]
        if getattr(kind, "is_prompt_learning", False):
            method = str(getattr(kind.peft_type, "value", kind.peft_type))
            raise UnsupportedModelError(
                f"this PEFT model's adapter {name!r} is {method}, which adds virtual tokens or keys to every prompt; "
                "adapters inside the layers (LoRA and its kin) can be analysed"
            )
    return module.get_base_model()


def config_of(module: nn.Module) -> Any:
    """A model's config: its own, or that of the one transformers model inside a wrapper; None without any."""
    own = getattr(module, "config", None)
    if isinstance(own, PretrainedConfig) or (own is not None and not isinstance(own, dict)):
        return own
    models = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    inside = {id(c) for m in models for c in m.modules() if c is not m}
    outermost = [m for m in models if id(m) not in inside]
    return outermost[0].config if len(outermost) == 1 else None
