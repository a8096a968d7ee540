"""Arguments of functions: a value of the wrong kind is said in one line, in the words of Python.

The same word means the same in every function, so that one table holds what each of them takes.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from depthsig.errors import InputError, shown


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse what is not of the kind that an argument's name stands for; its default always is.

    Args:
        function: says what may be None. given: its arguments by name; those that no kind is known for are left alone.

    Raises:
        InputError: naming the argument, what was found and what would work.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in KINDS or given[name] is parameter.default:
            continue
        fits, words = KINDS[name]
        value, optional = given[name], "None" in str(parameter.annotation)
        if not (value is None and optional) and not fits(value):
            raise InputError(f"{name} is {shown(value)}; it is {words}{', or None' if optional else ''}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and isinstance(os.fspath(value), str)


def _is_paths(value: Any) -> bool:
    return _is_path(value) or (isinstance(value, (list, tuple)) and all(map(_is_path, value)))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_ids(value: Any) -> bool:
    return isinstance(value, (list, tuple, range)) and all(map(_is_whole, value))


def _is_seed(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_span(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_whole, value)))


def _is_counts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, (list, tuple, range)) and all(map(_is_whole, value)))


Kind = tuple[Callable[[Any], bool], str]
_TEXT: Kind = (_is_text, "text")
_WHOLE: Kind = (_is_whole, "a whole number")
_SEED: Kind = (_is_seed, "a whole number, 0 or more")
_IDS: Kind = (
    lambda value: isinstance(value, (list, tuple, range)) and all(map(_is_whole, value)),
    "a list of token ids",
)
_NUMBER: Kind = (_is_number, "a number")
_PATH: Kind = (_is_path, "a path, as text or a Path")
_NAMED: Kind = (_is_text, "a name, as text")
_AXES: Kind = (lambda value: hasattr(value, "fill_between"), "axes of matplotlib, as plt.subplots() makes them")

KINDS: dict[str, Kind] = {
    "n": _WHOLE, "max_tokens": _WHOLE, "draws": _WHOLE, "steps": _WHOLE, "resamples": _WHOLE, "step": _WHOLE,
    "prompt": _WHOLE, "shots": _WHOLE, "reword": _SEED, "seed": _SEED, "lr": _NUMBER, "weight_decay": _NUMBER,
    "target": _NAMED, "skip_first": _SEED, "tokens": _IDS, "position": _WHOLE,
    "preset": _NAMED, "revision": _TEXT, "device": (_is_text, "text, as 'cpu'"),
    "metric": _NAMED, "score": _NAMED, "part": _NAMED, "scope": _NAMED, "name": _NAMED, "kind": _NAMED,
    "out": _PATH, "directory": _PATH, "into": _PATH, "plugin": (_is_paths, "the path of a file, or a list of them"),
    "task": (_is_paths, "a name or a file, or a list of them"),
    "span": (_is_span, "text, as '4:8'"),
    "times": (_is_counts, "a list of whole numbers, as [1, 2], or text, as '1,2'"),
    "tokenizer": (callable, "a tokenizer of transformers, as AutoTokenizer.from_pretrained() gives it"),
    **dict.fromkeys(
        ("roles", "reworded", "random_ablation"),
        (lambda value: isinstance(value, (str, Mapping)), "a dictionary by role, or text"),
    ),
    "forward": (callable, "a function of a model and its ids"), "ax": _AXES,
    "run": (lambda value: hasattr(value, "summary"), "a run of wandb, as wandb.init() makes it"),
    "to": (
        lambda value: _is_path(value) or hasattr(value, "add_scalar"), "a new folder, or a SummaryWriter of TensorBoard"
    ),
}  # fmt: skip
"""What an argument is, by its name: whether a value fits, and the words for it."""
