"""What is known of looped models: where their iteration counts are, and what cannot be analysed.

The plan itself is always observed. These names only let a count be forced, be held against the
trace, and be refused where a model carries more than its residual stream from pass to pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.conduct import Conduct, Setting, conducted
from depthsig.checkpoint.draws import draws_randomly
from depthsig.checkpoint.known import counts_by_field, counts_in
from depthsig.errors import InputError, UnsupportedModelError

_ARGUMENTS: dict[str, Callable[[int], Any]] = {
    "num_steps": lambda n: n,  # Huginn; left out it samples a depth
    "num_steps_pair": lambda n: torch.tensor([n, 0]),  # Parcae: (without, with gradient)
    "looped_steps": lambda n: n,  # x-transformers
    "steps": lambda n: [1.0 / n] * n,  # LoopFormer: equal step sizes
}
_DEFAULTS = ("mean_recurrence", "train_max_looped_steps", "num_loops", "n_loop", "n_loops", "max_loops", "loops")
"""Where the trained count stands that an argument overrides, in the config or on the module."""

_MORE_THAN_A_STREAM = {
    "nanbeige": (
        "loop_middle_layers", "enable_double_loop_split", "loop_share_kv", "enable_hyper_connection", "enable_mhc",
        "enable_h_res_identity", "enable_depth_attention",
    ),
}  # fmt: skip
"""Options of known families under which a pass is more than layers on one residual stream."""


def refuse_unsupported(config: Any) -> None:
    """Refuse by name what would be measured wrongly.

    Raises:
        UnsupportedModelError: naming the option that is set.
    """
    family = getattr(config, "model_type", None)
    for name in _MORE_THAN_A_STREAM.get(str(family), ()):
        value = getattr(config, name, None)
        if value:
            raise UnsupportedModelError(
                f"this {family} checkpoint sets {name} = {value!r}, under which its passes share more than the "
                "residual stream; checkpoints that leave it unset can be analysed"
            )


def find_conduct(
    module: nn.Module,
    config: Any,
    *,
    function: Callable[[nn.Module, Tensor], Any] | None = None,
    iterations: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[Conduct, dict[str, int]]:
    """How to call this model, and the counts that it should then show.

    Raises:
        InputError: if a count is forced that the model has no place for.
    """
    arguments: dict[str, Any] = {}
    settings: list[Setting] = []
    counts = counts_in(config)
    forced = dict(iterations or {})
    argument = None if function is not None else argument_of(module)
    if argument is not None:
        # Given always: without it some models sample their depth.
        name, trained = argument
        count = forced.pop("", forced.pop(name, trained))
        if count is None:
            raise InputError(
                f"{type(module).__name__} takes its iterations as the argument {name!r} and no trained count is "
                "known; --iterations N or load(..., forward=...) says how many"
            )
        arguments[name] = _ARGUMENTS[name](count)
        counts = {k: v for k, v in counts.items() if k != "mean_recurrence"} | {name: count}
    for name, count in counts_by_field(forced, counts).items():
        settings += _places(module, config, name, counts[name], count)
        counts[name] = count
    conduct = Conduct(function, arguments, tuple(settings))
    if draws_randomly(conducted(module, conduct)):
        conduct = Conduct(function, arguments, tuple(settings), seed)
    return conduct, counts if function is None else {}


def argument_of(module: nn.Module) -> tuple[str, int | None] | None:
    """The argument of the forward that counts iterations, with the trained count where it is known."""
    parameters = inspect.signature(module.forward).parameters
    for name in _ARGUMENTS:
        if name not in parameters:
            continue
        if name == "looped_steps" and not getattr(module, "looped", False):
            continue
        if name == "steps" and "loopformer" not in f"{type(module).__name__}{_family(module)}".lower():
            continue
        return name, _trained(module)
    return None


def _family(module: nn.Module) -> str:
    return str(getattr(getattr(module, "config", None), "model_type", ""))


def _trained(module: nn.Module) -> int | None:
    for name in _DEFAULTS:
        for where in (getattr(module, "config", None), module):
            value = getattr(where, name, None)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1:
                return int(value)
    return None


def _places(module: nn.Module, config: Any, name: str, trained: int, count: int) -> list[Setting]:
    """Everywhere the count is kept: configs, and modules that copied it from theirs."""
    holders: dict[int, Any] = {}
    for where in (config, *(c for m in module.modules() for c in (m, getattr(m, "config", None)))):
        held = getattr(where, "__dict__", {}).get(name, None)
        if held == trained and not isinstance(held, bool):
            holders[id(where)] = where
    return [(where, name, count) for where in holders.values()]
