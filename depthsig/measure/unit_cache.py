"""Units of work that were measured before, of whichever analysis, on the same weights and prompts in the same way.

A unit is what one job (a provider of edited runs) gives on one batch of prompts. Its key holds all that its numbers
depend on; the numbers that an analysis gives to its prompts are none of that, so another analysis can take it over.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from depthsig import kept
from depthsig.engine.memory import Budget
from depthsig.errors import DepthsigError
from depthsig.measure.edited.edited_batch import EditedProvider, Means
from depthsig.measure.providers import Work
from depthsig.measure.resume import DAMAGED, Piece, rows_of
from depthsig.measure.token_rows import TokenRows
from depthsig.model import Model
from depthsig.prompts import TokenPrompt
from depthsig.signature.provenance import source_digest, versions
from depthsig.tables.samples import Samples

KEPT_UNITS = "units"
"""What they are called in the cache folder."""
MOST_BYTES = 2 << 30
"""Of all units together; those that were not used for the longest time go first."""
_LOOK_AGAIN = 1 << 28
"""Bytes written after which the size of all is looked at again."""


@dataclass
class UnitCache:
    """Where units are looked for, and kept.

    Attributes:
        ground: what all units of a model depend on (:func:`ground_of`); None: nothing is kept or taken.
        recheck: measure all anew, and keep that.
        measured, taken, resumed: how many units were measured, were kept from before, and were left by an interrupted
            run of the same analysis.
    """

    ground: dict[str, Any] | None = None
    recheck: bool = False
    measured: int = 0
    taken: int = 0
    resumed: int = 0
    _written: int = field(default=0, repr=False)

    def load(
        self, key: str | None, names: Sequence[str], here: Sequence[TokenPrompt], samples: Samples
    ) -> Piece | None:  # fmt: skip
        """Add a unit to ``samples`` and return it; None where none is kept, or a damaged one.

        Args:
            names: of the metrics that it may hold. here: the batch's prompts, row by row.
        """
        data = None if key is None or self.recheck else kept.read(KEPT_UNITS, key, touch=True)
        if data is None:
            return None
        try:
            state, rows = _unpacked(data, set(names), here)
            alone = Samples(samples.n_prompts)
            alone.absorb(state)
            if any(samples.shapes.get(k, shape) != shape for k, shape in alone.shapes.items()):
                return None
        except (*DAMAGED, DepthsigError):
            return None
        samples.absorb(state)
        self.taken += 1
        return state, rows

    def save(self, key: str | None, here: Sequence[TokenPrompt], piece: Samples, rows: TokenRows) -> None:
        """Keep a unit that was measured, where it has a key."""
        self.measured += 1
        if key is None:
            return
        data = _packed(here, piece, rows)
        kept.write(KEPT_UNITS, key, data)
        self._written += len(data)
        if self._written > _LOOK_AGAIN:
            self.trim()

    def trim(self) -> None:
        """Let go of what was not used for the longest time, if what is kept has become too large."""
        if self._written:
            kept.trim(KEPT_UNITS, MOST_BYTES)
        self._written = 0

    def record(self) -> dict[str, int]:
        """How many units came from where, as ``timings`` of ``signature.json`` keep it."""
        return {"measured": self.measured, "kept": self.taken, "resumed": self.resumed}


def ground_of(model: Model) -> dict[str, Any] | None:
    """What all units of a model depend on: weights, plan, where and by what it is run; None without a content hash."""
    if model.checkpoint.content_hash is None:
        return None
    cuda = model.device.type == "cuda"
    return {
        "weights": model.checkpoint.content_hash, "layers": list(model.plan.layers), "steps": model.plan.records(),
        "spans": [repr(span) for span in model.plan.spans], "declared": model.declared.explicit_options().given(),
        "dtype": str(model.dtype), "random_state": model.random_state, "places": _places(model),
        "streamed": model.is_streamed,
        "attention": str(getattr(model.checkpoint.config, "_attn_implementation", None)),
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "card": torch.cuda.get_device_name(model.device) if cuda else None,
        "precision": [torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()],
        "versions": versions(), "source": source_digest(),
    }  # fmt: skip


def _places(model: Model) -> list[list[str]]:
    """The devices of every layer's weights, and of what stands around the layers."""
    inside = [list(layer.module.parameters()) for layer in model.anatomy.layers]
    known = {id(p) for some in inside for p in some}
    around = [p for p in model.module.parameters() if id(p) not in known]
    return [sorted({str(p.device) for p in some}) for some in (*inside, around)]


def unit_key(
    ground: dict[str, Any] | None, work: Work, job: EditedProvider, here: Sequence[TokenPrompt], budget: Budget, *,
    parts: bool, means: str,
) -> str | None:  # fmt: skip
    """All that a unit's numbers depend on; None where that is not known: of models and metrics that came as objects.

    Args:
        here: the batch's prompts, row by row. parts: whether attention and MLP contributions are kept apart.
        means: the digest of the means over all prompts.
    """
    request = work.request
    entries = request.on(*job.kinds)
    if ground is None or any(one.own for one in entries):
        return None
    random = "ablation" in job.options and request.ablation == "random"
    depends = {
        **ground, "job": job.name, "metrics": [one.id for one in entries],
        "options": {name: getattr(request, name) for name in job.options},
        "seed": request.seed if random else None, "parts": parts, "means": means if job.needs_means else "",
        "memory": [budget.states, budget.rows],
        "prompts": [[list(map(int, p.ids)), list(map(int, p.positions)), p.answer_span] for p in here],
    }  # fmt: skip
    return json.dumps(depends, sort_keys=True, default=str)


def digest_of(means: Means) -> str:
    """Of means over all prompts."""
    digest = hashlib.sha256()
    for name, tensor in (*sorted(means.parts.items()), ("states", means.states)):
        if tensor is not None:
            array = tensor.float().cpu().numpy()
            digest.update(f"{name} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def _packed(here: Sequence[TokenPrompt], piece: Samples, rows: TokenRows) -> bytes:
    """A unit with its prompts numbered by their rows in the batch."""
    place = {prompt.index: row for row, prompt in enumerate(here)}
    state = piece.state()
    for name in [name for name in state if name.endswith(".rows")]:
        state[name] = np.array([place[int(p)] for p in state[name]], dtype=np.int64)
    told = json.dumps([{**row, "prompt": place[row["prompt"]]} for row in rows])
    into = io.BytesIO()
    np.savez(into, tokens=np.array(told), **state)  # type: ignore[arg-type]
    return into.getvalue()


def _unpacked(data: bytes, names: set[str], here: Sequence[TokenPrompt]) -> tuple[dict[str, ndarray], TokenRows]:
    """A unit with its prompts under the numbers that they have now.

    Raises:
        ValueError: for what :func:`_packed` did not make.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if any(one.compress_type or one.file_size > len(data) for one in packed.infolist()):
            raise ValueError("it is larger than it looks")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        state = {name: arrays[name] for name in arrays.files}
    rows = rows_of(str(state.pop("tokens")))
    numbers = np.array([p.index for p in here], dtype=np.int64)
    for name in [name for name in state if name.endswith(".rows")]:
        if state[name].dtype.kind != "i" or (state[name] < 0).any():
            raise ValueError("it is of other prompts")
        state[name] = numbers[state[name]]
    if not {one[0] for one in json.loads(str(state["names"]))} | {row["metric"] for row in rows} <= names:
        raise ValueError("it holds other metrics")
    if any(row["prompt"] < 0 for row in rows):
        raise ValueError("it is of other prompts")
    return state, [{**row, "prompt": int(numbers[row["prompt"]])} for row in rows]
