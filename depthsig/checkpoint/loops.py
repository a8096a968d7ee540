"""What is known of looped models: where their iteration counts are, and what cannot be analysed.

The plan itself is always observed. These names only let a count be forced, be held against the
trace, and be refused where a model carries more than its residual stream from pass to pass.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.conduct import Conduct, Setting, conducted
from depthsig.checkpoint.draws import FirstForward, first_forward
from depthsig.checkpoint.files.unmeasurable import refuse_unmeasurable
from depthsig.checkpoint.known import counts_by_field, counts_in
from depthsig.errors import DepthsigError, InputError, UnsupportedModelError

_ARGUMENTS: dict[str, Callable[[int], Any]] = {
    "num_steps": lambda n: n,  # Huginn; left out it samples a depth
    "num_steps_pair": lambda n: torch.tensor([n, 0]),  # Parcae: (without, with gradient)
    "looped_steps": lambda n: n,  # x-transformers
    "steps": lambda n: [1.0 / n] * n,  # LoopFormer: equal step sizes
}
_DEFAULTS = ("mean_recurrence", "train_max_looped_steps", "num_loops", "n_loop", "n_loops", "max_loops", "loops")
"""Where the trained count stands that an argument overrides, in the config or on the module."""

_LEFT_EARLY: dict[str, dict[str, float]] = {
    "lds": {"q_threshold": 1.0, "convergence_epsilon": 0.0},  # LoopUS
    "ouro": {"early_exit_threshold": 1.0},
}
"""Where the families that may leave their loop early keep the threshold, and a value at which they never do."""


def refuse_loops(module: nn.Module, config: Any, where: str) -> None:
    """Refuse by name what would be measured wrongly, of a model that is there already.

    Raises:
        UnsupportedModelError: naming it, or the option that is set.
    """
    entries = {} if config is None else {"model_type": getattr(config, "model_type", None), **vars(config)}
    refuse_unmeasurable(entries, where, [type(module).__name__])


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
    counts, forced = counts_in(config), dict(iterations or {})
    arguments: dict[str, Any] = {}
    argument = None if function is not None else argument_of(module)
    if argument is not None:
        name = argument.name
        count = forced.pop("", forced.pop(name, None))
        given = argument.given(count)
        arguments |= {} if given is None else {name: given}
        counts = {k: v for k, v in counts.items() if k != "mean_recurrence"}
        counts |= {} if (ran := count or argument.trained) is None else {name: ran}
    settings, notes = _never_early(module, config)
    for name, count in counts_by_field(forced, counts).items():
        settings += _places(module, config, name, counts[name], count)
        counts[name] = count
    conduct = _whole(module, Conduct(function, arguments, tuple(settings), notes=notes), seed)
    return conduct, counts if function is None else {}


def _whole(module: nn.Module, conduct: Conduct, seed: int) -> Conduct:
    """``conduct``, with what a first forward shows that the model needs: its cache, targets, a seed."""
    seen, conduct = _first(module, conduct)
    if not seen.whole and conduct.function is None:
        parameters = inspect.signature(module.forward).parameters
        for name in ("targets", "labels"):
            told = replace(conduct, targets=name)
            if name in parameters and (other := _with_targets(module, told)) is not None and other.whole:
                seen, conduct = other, told
                break
    if not seen.whole:
        raise UnsupportedModelError(
            f"{type(module).__name__} gives logits of its last tokens alone; load(..., forward=f) works with an "
            "f(module, ids) that gives those of every token"
        )
    return replace(conduct, seed=seed) if seen.draws else conduct


def _with_targets(module: nn.Module, conduct: Conduct) -> FirstForward | None:
    """The first forward with the ids as targets; None where these are something else, such as a class a text."""
    try:
        return first_forward(conducted(module, conduct))
    except (DepthsigError, torch.cuda.OutOfMemoryError):
        raise
    except Exception:
        return None


def _first(module: nn.Module, conduct: Conduct) -> tuple[FirstForward, Conduct]:
    """The first forward; with a cache, which it makes anew each time, where a model cannot do without.

    In IQuest-Coder-Loop a pass attends to the keys of the first one, which lie there.
    """
    try:
        return first_forward(conducted(module, conduct)), conduct
    except (DepthsigError, torch.cuda.OutOfMemoryError):
        raise
    except Exception:
        if conduct.function is not None or "use_cache" not in inspect.signature(module.forward).parameters:
            raise
        cached = replace(conduct, arguments={**conduct.arguments, "use_cache": True})
        with contextlib.suppress(Exception):
            return first_forward(conducted(module, cached)), cached
        raise


@dataclass(frozen=True)
class Argument:
    """An argument of a model's forward that counts iterations.

    Attributes:
        trained: how often it loops as trained, where that is known.
        made: the argument's value for a count.
        default: whether leaving it out runs the trained count, or what the model takes for that.
        kind: of the model, for messages.
    """

    name: str
    trained: int | None
    made: Callable[[int], Any]
    default: bool
    kind: str

    def given(self, count: int | None) -> Any:
        """What is given for it: None where it is left out.

        Raises:
            InputError: where nobody knows how often to loop.
        """
        if count is None and self.default:
            return None
        if count is None and self.trained is None:
            raise InputError(
                f"{self.kind} takes its iterations as the argument {self.name!r} and no trained count is known; "
                "--iterations N or load(..., forward=...) says how many"
            )
        return self.made(count or self.trained or 1)


def argument_of(module: nn.Module) -> Argument | None:
    """The argument of the forward that counts iterations."""
    kind = type(module).__name__
    for name, parameter in inspect.signature(module.forward).parameters.items():
        if name not in _ARGUMENTS or (name == "looped_steps" and not getattr(module, "looped", False)):
            continue
        if name != "steps":
            return Argument(name, _trained(module), _ARGUMENTS[name], False, kind)
        found = _of_steps(parameter.default, f"{kind}{_family(module)}".lower())
        if found is not None:
            default, made = found
            told = parameter.default is not parameter.empty
            return Argument(name, default or _trained(module), made, told, kind)
    return None


def _of_steps(default: Any, names: str) -> tuple[int | None, Callable[[int], Any]] | None:
    """The count that an argument ``steps`` has by default, and its value for another; None where it is something else.

    Step sizes that add up to one (LoopFormer), or in a model that calls itself a loop a number.
    """
    sizes = isinstance(default, (list, tuple)) and all(isinstance(one, (int, float)) for one in default)
    if sizes and default and abs(sum(default) - 1) < 1e-6:
        return len(default), _ARGUMENTS["steps"]
    if isinstance(default, int) and not isinstance(default, bool) and default > 0 and "loop" in names:
        return default, lambda n: n
    return (None, _ARGUMENTS["steps"]) if "loopformer" in names else None


def _never_early(module: nn.Module, config: Any) -> tuple[list[Setting], tuple[str, ...]]:
    """Settings under which every pass runs for every token, with a note where a model would leave its loop early."""
    settings: list[Setting] = []
    for name, never in _LEFT_EARLY.get(str(getattr(config, "model_type", None)), {}).items():
        held = {id(w): w for w in _holders(module, config) if name in w.__dict__ and w.__dict__[name] != never}
        settings += [(where, name, never) for where in held.values()]
    names = ", ".join(dict.fromkeys(name for _, name, _ in settings))
    return settings, (f"the loop can be left early ({names}): here every pass runs for every token",) if names else ()


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
    for where in _holders(module, config):
        held = where.__dict__.get(name, None)
        if held == trained and not isinstance(held, bool):
            holders[id(where)] = where
    return [(where, name, count) for where in holders.values()]


def _holders(module: nn.Module, config: Any) -> list[Any]:
    """Configs and modules, with whatever has attributes."""
    found = (config, *(c for m in module.modules() for c in (m, getattr(m, "config", None))))
    return [one for one in found if hasattr(one, "__dict__")]
