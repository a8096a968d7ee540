"""What cannot be streamed, told before any weight is read; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthsig.errors import InputError, shown


def refuse_unstreamable(place: Path | str, config: Any, where: str) -> None:
    """Refuse files whose layers cannot be read one by one.

    Args:
        place: a folder, a GGUF file, or a hub id, of which nothing is known yet.
        config: what config.json says, as a mapping or as attributes.
        where: what the user calls it.

    Raises:
        InputError: naming what is in the way, and what would work.
    """
    if isinstance(place, Path) and place.is_file():
        raise InputError(
            f"{where} is one packed file, and --stream reads layers from a folder of safetensors; load it without "
            "--stream, or save it once with save_pretrained"
        )
    entries = config if isinstance(config, Mapping) else vars(config or object)
    nested = entries.get("text_config")
    for one in (entries, nested if isinstance(nested, Mapping) else {}):
        if one.get("quantization_config"):
            raise InputError(
                f"{where} is quantised, and --stream reads plain weights only; load it without --stream, or use the "
                "unquantised checkpoint"
            )


def refuse_pickled(pickled: bool, where: str) -> None:
    """Refuse pickles: they are read whole or not at all.

    Raises:
        InputError: saying what would work.
    """
    if pickled:
        raise InputError(
            f"{where} has pickled weights, and --stream reads safetensors; load it without --stream, or convert them"
        )


def refuse_all_at_once(names: Sequence[str]) -> None:
    """Refuse metrics that need all weights at once, or a way back through them.

    Raises:
        InputError: naming the first of them.
    """
    if names:
        raise InputError(
            f"metric {shown(names[0])} needs the weights of all layers at once, or gradients through them, and "
            "--stream holds two layers; leave it out, or load the model without --stream"
        )
