"""A fitted lens with its record, of either kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.checkpoint.jacobian.jacobians import JacobianLens, write_jacobian_lens
from depthsig.checkpoint.translators import TunedLens, write_lens
from depthsig.signature.folders.kinds import LENS
from depthsig.signature.folders.writing import writing
from depthsig.terms import counted


@dataclass(frozen=True)
class FittedLens:
    """A fitted tuned or Jacobian lens with its record.

    Attributes:
        lens: to give to :func:`depthsig.analyze` as ``lens=``.
        depths: one row a depth 0..S−1. Of a tuned lens: ``layer``, held-out KL(p‖q_d) in nats with the
            ``plain`` and the ``tuned`` lens, and ``kept``, where the map comes from. Of a Jacobian lens:
            ``layer``, ``iteration``, ``phase``, and of J_d the ``participation`` ratio of squared singular
            values, (Σσ²)²/Σσ⁴, the excess ``kurtosis`` of its entries, and ``cosine_to_next_pass``, with J of the
            same phase one pass later (NaN where there is none).
        record: what ``lens.json`` says. name: of the checkpoint.
    """

    lens: TunedLens | JacobianLens
    depths: pd.DataFrame
    record: dict[str, Any]
    name: str = "model"

    def save(self, out: str | Path, draw: Callable[[FittedLens, Path], Any] | None = None) -> Path:
        """Write the lens with ``lens.json``, in the format that others read.

        That is tuned-lens' own (``config.json``, ``params.pt``), or the reference implementation's file of a
        Jacobian lens (``jacobian_lens.pt``).

        Args:
            draw: puts a page into the folder that it is given.

        Raises:
            InputError: if the folder is no result of ours, or cannot be written.
        """
        with writing(out, LENS) as partial:
            if isinstance(self.lens, JacobianLens):
                write_jacobian_lens(self.lens, partial, self.record)
            else:
                write_lens(self.lens, partial, self.record)
            if draw is not None:
                draw(self, partial)
        return Path(out)

    def __repr__(self) -> str:
        uses = "  .lens is what analyze takes, .depths its table, .save(DIR) keeps it"
        return f"FittedLens of {self.name[:80]}: {self}\n{uses}"

    def __str__(self) -> str:
        if isinstance(self.lens, JacobianLens):
            what = f"{counted(len(self.lens.depths), 'Jacobian')} of width {self.lens.width}"
            return f"Jacobian lens of {what}: the mean of {counted(self.lens.prompts, 'prompt')}"
        plain, tuned = self.depths["plain"].mean(), self.depths["tuned"].mean()
        return (
            f"tuned lens of {len(self.lens)} translators: held-out KL from {plain:.3g} to {tuned:.3g} nats over depths"
        )
