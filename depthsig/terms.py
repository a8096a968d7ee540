"""The words that columns and options hold, for every room that uses them."""

from __future__ import annotations

from typing import Literal, get_args

Part = Literal["layer", "attn", "mlp"]
Scope = Literal["current", "future"]
Agg = Literal["mean", "max"]
Positions = Literal["all", "answer", "last"]
Ablation = Literal["zero", "mean", "random"]

PARTS: tuple[Part, ...] = get_args(Part)
SCOPES: tuple[Scope, ...] = get_args(Scope)
AGGS: tuple[Agg, ...] = get_args(Agg)
POSITIONS: tuple[Positions, ...] = get_args(Positions)
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)

NONE = "-"
"""What stands in ``part``, ``scope`` and ``metric`` where the column does not apply."""


def counted(number: int, word: str) -> str:
    """How many of something there are.

    >>> counted(1, "prompt"), counted(0, "prompt")
    ('1 prompt', '0 prompts')
    """
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def described(*pieces: str) -> str:
    """The pieces that apply, separated by commas.

    >>> described("layer", "-")
    'layer'
    """
    return ", ".join(piece for piece in pieces if piece not in ("", NONE))
