"""Which kind of lens a file or folder holds, read from what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from depthsig.checkpoint.jacobian.jacobian_file import LENS_PT, is_jacobian, lens_pt, loaded
from depthsig.checkpoint.lens_folder import CONFIG, PARAMS, SAFE
from depthsig.errors import InputError, shown
from depthsig.untrusted import is_file, is_folder

LensKind = Literal["tuned", "jacobian"]


def lens_kind(source: str | Path) -> LensKind:
    """Whether a path leads to a tuned or to a Jacobian lens.

    Raises:
        InputError: in one line, for what is neither.
    """
    folder = Path(source).expanduser()
    if is_folder(folder) and not is_file(folder / LENS_PT):
        if any(is_file(folder / name) for name in (CONFIG, PARAMS, SAFE)):
            return "tuned"
        if not any(folder.glob("*.pt")):
            raise InputError(
                f"--lens {shown(str(source))} holds no lens: neither {CONFIG} and {PARAMS} of a tuned lens nor "
                f"{LENS_PT} of a Jacobian lens"
            )
    path = lens_pt(source)
    payload = loaded(path)
    if not is_jacobian(payload):
        raise InputError(
            f"--lens {shown(str(source))} is no Jacobian lens: it has the keys "
            f"{shown(sorted(map(str, payload))[:4])}; a tuned lens is named by its folder"
        )
    return "jacobian"
