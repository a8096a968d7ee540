"""What an unfinished fit has summed so far, beside the folder that will be written, for ``--resume``."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.files.tensors import read_pickled
from depthsig.engine.gradients.jacobian_sums import JacobianSums
from depthsig.errors import InputError
from depthsig.signature.folders.choosing import IDENTITY, REQUEST
from depthsig.signature.folders.kinds import LENS, record_in
from depthsig.signature.folders.writing import UNITS, begin, end, leave, storing

STORE_SECONDS = 10.0
"""Between two times that sums are stored: a kill costs at most this and the prompt in hand."""


class PartialSums:
    """Sums of the prompts that are done, by turn of depths; nowhere where there is no folder."""

    def __init__(self, out: str | Path | None, identity: str, resume: bool) -> None:
        """Begin in a folder, or go on.

        Raises:
            InputError: with ``resume``, where there is no folder, or it was begun with other options.
        """
        if resume and out is None:
            raise InputError("--resume needs the --out folder that the interrupted fit had")
        self.out, self.identity = out, identity
        self.folder: Path | None = None
        self.stored = time.monotonic()
        if out is None:
            return
        partial = begin(out, anew=not resume, record=LENS)
        self.folder = partial / UNITS
        before = record_in(self.folder / REQUEST).get(IDENTITY)
        if before is not None and before != identity:
            leave(out)
            raise InputError(
                f"--resume: {str(partial)!r} was begun with another checkpoint, other prompts or options; give the "
                "same, or leave --resume out to start anew"
            )
        with storing(out):
            self.folder.mkdir(exist_ok=True)
            (self.folder / REQUEST).write_text(json.dumps({IDENTITY: identity}), encoding="utf-8")

    def load(self, sums: JacobianSums) -> Float[Tensor, "depth d d"] | None:
        """Put the sums that were stored of these depths into ``sums``; what is damaged is summed anew.

        Returns:
            Their means, left in the file until they are used, where all prompts were done.
        """
        if self.folder is None:
            return None
        try:
            found = read_pickled(self._path(sums.depths), mmap=True)
        except InputError:
            return None
        stored, prompts, whole = found.get("sums"), found.get("prompts"), found.get("whole") is True
        if not (isinstance(stored, Tensor) and isinstance(prompts, int) and prompts >= 0):
            return None
        if stored.layout != torch.strided or stored.dtype != torch.float32 or stored.shape != sums.sums.shape:
            return None
        if found.get("digest") != self._digest(stored, prompts, whole):
            return None
        if whole:
            return stored
        sums.sums.copy_(stored)
        sums.prompts = prompts
        return None

    def store(self, sums: JacobianSums, *, whole: bool = False) -> None:
        """Store sums over prompts that are done, all or nothing; not more often than it is worth, or at the end.

        Args:
            whole: all prompts are done, and these are means.

        Raises:
            DepthsigError: if the disk is full, or the folder was taken away.
        """
        soon = time.monotonic() - self.stored < STORE_SECONDS
        if self.folder is None or self.out is None or (soon and not whole):
            return
        path = self._path(sums.depths)
        scratch = path.with_suffix(".tmp")
        with storing(self.out):
            scratch.unlink(missing_ok=True)  # a link would lead elsewhere
            digest = self._digest(sums.sums, sums.prompts, whole)
            torch.save({"sums": sums.sums, "prompts": sums.prompts, "whole": whole, "digest": digest}, scratch)
            scratch.replace(path)
        self.stored = time.monotonic()

    def finished(self, sums: JacobianSums) -> Float[Tensor, "depth d d"]:
        """The means of sums over all prompts: in their file until they are used, where there is a folder."""
        sums.sums /= sums.prompts
        self.store(sums, whole=True)
        found = self.load(sums)
        return sums.sums if found is None else found

    def clear(self) -> None:
        """Leave nothing behind."""
        if self.out is not None:
            end(self.out)

    def leave(self) -> None:
        """Let ``--resume`` go on with what is there."""
        if self.out is not None:
            with suppress(OSError):
                leave(self.out)

    def _path(self, depths: range) -> Path:
        assert self.folder is not None
        return self.folder / f"sums-{depths.start}-{depths.stop}.pt"

    def _digest(self, sums: Float[Tensor, "depth d d"], prompts: int, whole: bool) -> str:
        """Of the numbers and of whose they are: any number may stand in them, so nothing else tells a changed one."""
        digest = hashlib.sha256(f"{self.identity} {prompts} {whole} {tuple(sums.shape)}".encode())
        digest.update(sums.contiguous().numpy().tobytes())
        return digest.hexdigest()
