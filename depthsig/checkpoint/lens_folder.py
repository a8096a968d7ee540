"""Lenses, looked at before their tensors are read: of which kind, which files, and what they are said to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from depthsig.errors import InputError, shown
from depthsig.untrusted import is_file, is_folder, made_visible, read_json

LensKind = Literal["tuned", "jacobian"]
LENS_WORDS: Mapping[LensKind, str] = {"tuned": "tuned lens", "jacobian": "Jacobian lens"}
LENS_PT = "jacobian_lens.pt"
"""In a folder of ours, the file of a Jacobian lens."""

LENS_RECORD = "lens.json"
"""Our own record of a lens, beside it."""

CONFIG, PARAMS, SAFE = "config.json", "params.pt", "params.safetensors"
LENS_TYPE = "linear_tuned_lens"


def kind_by_name(source: str | Path) -> LensKind:
    """Whether a path leads to a tuned or to a Jacobian lens, by the files that are there; reading them decides.

    Raises:
        InputError: in one line, where there is no file of either.
    """
    path = Path(source).expanduser()
    if is_file(path):
        return "jacobian"
    if not is_folder(path):
        raise InputError(
            f"--lens {shown(str(source))} is no folder, and no file either; name the folder of a lens "
            f"(`depthsig fit-lens` makes one), or the .pt of a Jacobian lens"
        )
    if is_file(path / LENS_PT):
        return "jacobian"
    if any(is_file(path / name) for name in (CONFIG, PARAMS, SAFE)):
        return "tuned"
    try:
        found = any(path.glob("*.pt"))
    except OSError as error:
        raise InputError(f"--lens {shown(str(source))} cannot be read ({error.strerror})") from None
    if not found:
        raise InputError(
            f"--lens {shown(str(source))} holds no {CONFIG} of a tuned lens, and no {LENS_PT} of a Jacobian lens"
        )
    return "jacobian"


def by_kind(lenses: Iterable[Any]) -> dict[LensKind, Any]:
    """Lenses and places of lenses by their kinds, of each kind one.

    Raises:
        InputError: in one line, for what is neither, and for two of a kind.
    """
    found: dict[LensKind, Any] = {}
    for lens in lenses:
        kind: Any = kind_by_name(lens) if isinstance(lens, (str, Path)) else getattr(lens, "kind", None)
        if kind not in LENS_WORDS:
            raise InputError(
                f"lens is {shown(lens)}; it is the folder or file of a lens, `depthsig.fit_lens(...).lens`, or a list "
                "of them"
            )
        if kind in found:
            raise InputError(
                f"--lens {str(found[kind])!r} and --lens {str(lens)!r} are both of the kind {kind}; give one of each "
                "kind at most"
            )
        found[kind] = lens
    return found


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


def files_of_lens(source: str | Path) -> list[Path]:
    """The files of a lens of any kind.

    Raises:
        InputError: where there are none.
    """
    if kind_by_name(source) == "tuned":
        folder, tensors, _ = lens_files(source)
        return [tensors, folder / CONFIG]
    path = Path(source).expanduser()
    return sorted(one for one in path.glob("*.pt") if is_file(one)) if is_folder(path) else [path]


def told_shape(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Translators and their width, as a lens' config tells them (which its tensors are held against); else None."""
    count, width = config.get("num_hidden_layers", config.get("num_layers")), config.get("d_model")
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (count, width))
    return (count, width) if whole else None  # type: ignore[return-value]


def check_lens_shape(
    lens: str, found: tuple[int, int], steps: int | None, width: int | None, *, ordered: bool, kind: LensKind = "tuned"
) -> None:  # fmt: skip
    """Refuse a lens of another shape than the run.

    Args:
        lens: what the user calls it. found: how many depths it is for, and its width.
        steps, width: those of the run; None where they are not known, and not held against it.
        ordered: whether an order was given.

    Raises:
        InputError: unless the lens is one for every step, of the model's width.
    """
    if all(other in (None, one) for one, other in zip(found, (steps, width), strict=True)):
        return
    order, option = " with the same --order" if ordered else "", "" if kind == "tuned" else f" --kind {kind}"
    holds = f"{found[0]} translators" if kind == "tuned" else f"Jacobians for {found[0]} steps"
    counted = "" if steps is None else f"{steps} steps of "
    raise InputError(
        f"--lens {lens!r} has {holds} of width {found[1]}; this run has {counted}width {width}; "
        f"`depthsig fit-lens{option}` fits a lens to it{order}"
    )


def own_record(folder: Path) -> dict[str, Any]:
    """Our own record of a lens; another program's file of that name is not ours to complain about.

    Raises:
        InputError: in one line, for a record of ours that is damaged: what it warns of would go unsaid.
    """
    path = folder / LENS_RECORD
    try:
        record = made_visible(read_json(path))
    except (OSError, InputError):
        return {}
    if not (isinstance(record, dict) and str(record.get("schema", "")).startswith("depthsig-lens/")):
        return {}
    prompts, layers, checkpoint = record.get("prompts", {}), record.get("layers", []), record.get("checkpoint", {})
    train = prompts.get("train", []) if isinstance(prompts, dict) else None
    whole = isinstance(checkpoint, dict) and isinstance(layers, list) and isinstance(train, list)
    if not whole or not all(isinstance(one, str) for one in train or ()):
        raise InputError(
            f"{str(path)!r} is damaged: it says of prompts, layers or checkpoint what no lens of ours does"
        )
    return record


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
