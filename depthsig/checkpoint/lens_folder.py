"""The folder of a tuned lens, looked at before its tensors are read: which files, and what they are said to hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthsig.errors import InputError, shown
from depthsig.untrusted import is_folder, read_json

CONFIG, PARAMS, SAFE = "config.json", "params.pt", "params.safetensors"
LENS_TYPE = "linear_tuned_lens"


def lens_files(source: str | Path) -> tuple[Path, Path, dict[str, Any]]:
    """The folder, the file with its tensors, and its config.

    Raises:
        InputError: in one line, for what is no folder of a tuned lens.
    """
    folder = Path(source).expanduser()
    if not is_folder(folder):
        raise InputError(
            f"--lens {shown(str(source))} is no folder; name one with {CONFIG} and {PARAMS} of a tuned lens"
        )
    config = _config(folder)
    path = next((folder / name for name in (SAFE, PARAMS) if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"--lens {str(source)!r} holds no {PARAMS}; it is no tuned lens")
    return folder, path, config


def told_shape(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Translators and their width, as a lens' config tells them (which its tensors are held against); else None."""
    count, width = config.get("num_hidden_layers", config.get("num_layers")), config.get("d_model")
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (count, width))
    return (count, width) if whole else None  # type: ignore[return-value]


def check_lens_shape(
    lens: str, found: tuple[int, int], steps: int | None, width: int | None, *, ordered: bool
) -> None:  # fmt: skip
    """Refuse a lens of another shape than the run.

    Args:
        lens: what the user calls it. found: its translators, and their width.
        steps, width: those of the run; None where they are not known, and not held against it.
        ordered: whether an order was given.

    Raises:
        InputError: unless the lens has a translator for every step, of the model's width.
    """
    if all(other in (None, one) for one, other in zip(found, (steps, width), strict=True)):
        return
    order = " with the same --order" if ordered else ""
    counted = "" if steps is None else f"{steps} steps of "
    raise InputError(
        f"--lens {lens!r} has {found[0]} translators of width {found[1]}; this run has {counted}width {width}; "
        f"`depthsig fit-lens` fits a lens to it{order}"
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = read_json(path)
    except OSError:
        raise InputError(f"--lens {str(folder)!r} holds no {CONFIG}; it is no tuned lens") from None
    if not isinstance(config, dict):
        raise InputError(f"{str(path)!r} holds a {type(config).__name__}; the config of a tuned lens is an object")
    kind = config.get("lens_type", LENS_TYPE)
    if kind != LENS_TYPE:
        raise InputError(f"{str(path)!r} is a lens of type {shown(kind)}; {LENS_TYPE!r} can be read")
    if config.get("extra_layers") or config.get("reuse_unembedding") is False:
        raise InputError(f"{str(path)!r} has layers or unembeddings of its own; only affine translators can be read")
    return config
