"""Single activations under TransformerLens' names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from depthsig.engine.batch import make_batch
from depthsig.engine.clean import CleanRun
from depthsig.engine.model import Model
from depthsig.errors import InputError
from depthsig.prompts import tokenize

_NAME = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)")
_FORMS = "blocks.{i}.hook_resid_pre, _resid_mid, _resid_post, _attn_out or _mlp_out"


def cache_activations(
    model: Model, prompts: Sequence[Any], names: Sequence[str], *, max_tokens: int = 256
) -> dict[str, list[Float[Tensor, "token d"]]]:
    """For every name, one tensor [token, d] a prompt, position 0 included.

    Raises:
        InputError: for a name that is not known, a step outside the plan, or an attention or MLP
            output whose place in this model is not known.
    """
    wanted = {name: _parse(name, len(model.plan)) for name in names}
    token_prompts = tokenize(prompts, model.tokenizer, max_tokens=max_tokens, model_max=model.checkpoint.model_max)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    parts = any(kind in ("resid_mid", "attn_out", "mlp_out") for _, kind in wanted.values())
    for prompt in token_prompts:
        run = model.clean(make_batch([prompt.ids], [0], model.device).ids, parts=parts)
        for name, (step, kind) in wanted.items():
            found[name].append(_pick(run, step, kind, name, model)[0])
    return found


def _parse(name: str, steps: int) -> tuple[int, str]:
    match = _NAME.fullmatch(name)
    if not match:
        raise InputError(f"unknown activation {name!r}; known are {_FORMS}")
    step = int(match[1])
    if step >= steps:
        raise InputError(f"{name!r}: step {step} is outside the plan, which has steps 0..{steps - 1}")
    return step, match[2]


def _pick(run: CleanRun, step: int, kind: str, name: str, model: Model) -> Tensor:
    if kind == "resid_pre":
        return run.inputs[step]
    if kind == "resid_post":
        return run.outputs[step]
    part = run.mlp[step] if kind == "mlp_out" else run.attn[step]
    layer = model.anatomy.layers[model.plan[step].layer]
    if part is None:
        raise InputError(f"{name!r}: where {model.anatomy.family} keeps its attention and MLP is not known")
    if kind != "resid_mid":
        return part
    if layer.parallel:
        raise InputError(f"{name!r}: a parallel layer has no state between attention and MLP")
    return run.inputs[step] + part
