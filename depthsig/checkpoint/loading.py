"""How a checkpoint is opened: one record of it, checked and kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from depthsig.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "auto")


def device_unusable(device: str, error: Exception) -> str:
    """One line for a device that torch knows and that is not there."""
    return f"--device {device!r} cannot be used: {str(error).splitlines()[0]}"


@contextmanager
def offload_folder(device_map: str | Mapping[str, Any] | None) -> Iterator[str | None]:
    """A temporary folder for weights that a device map leaves on the disk, removed where loading fails.

    It is its model's from then on, and must be removed when that goes. None where nothing is left there.
    """
    if device_map is None or not (isinstance(device_map, str) or "disk" in map(str, device_map.values())):
        yield None
        return
    folder = tempfile.mkdtemp(prefix="depthsig-offload-")
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(frozen=True)
class LoadOptions:
    """Options of loading, under the names of the command.

    Attributes:
        dtype: ``float32`` (default; on a GPU the checkpoint's own where float32 weights would take
            more than half of its memory), ``bfloat16``, ``float16``, or ``auto``: the checkpoint's.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` ...
        device_map: spread the model over devices, as in transformers.
        revision: of a hub id.
        trust_remote_code: run code that a checkpoint brings.
        allow_pickle: load pickled weights.
        stream: read layers from safetensors as they are needed, instead of loading them.

    Raises:
        InputError: for a dtype that there is not, and for options that do not go together.
    """

    dtype: str | torch.dtype | None = None
    device: str = "auto"
    device_map: str | dict[str, Any] | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    stream: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.dtype, str) and self.dtype not in DTYPES:
            raise InputError(f"--dtype {self.dtype!r} is unknown; there are {', '.join(DTYPES)}")
        if self.stream and self.device_map is not None:
            raise InputError(
                "--stream holds two layers on one device, so that --device-map has nothing to spread; give one of them"
            )

    def given(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def record(self) -> dict[str, Any]:
        """All of it, as results keep it; dtypes by their name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        if found["dtype"] is not None:
            found["dtype"] = str(found["dtype"]).removeprefix("torch.")
        return found
