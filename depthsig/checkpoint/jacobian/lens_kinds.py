"""Which kind of lens a file or folder holds, read from what is in it."""

from __future__ import annotations

from pathlib import Path

from depthsig.checkpoint.files.tensors import read_pickled
from depthsig.checkpoint.jacobian.jacobian_file import is_jacobian, lens_pt
from depthsig.checkpoint.lens_folder import LensKind, kind_by_name
from depthsig.errors import InputError, shown


def lens_kind(source: str | Path) -> LensKind:
    """Whether a path leads to a tuned or to a Jacobian lens.

    Raises:
        InputError: in one line, for what is neither.
    """
    if kind_by_name(source) == "tuned":
        return "tuned"
    payload = read_pickled(lens_pt(source), mmap=True)
    if not is_jacobian(payload):
        raise InputError(
            f"--lens {shown(str(source))} is no Jacobian lens: it has the keys "
            f"{shown(sorted(map(str, payload))[:4])}; a tuned lens is named by its folder"
        )
    return "jacobian"
