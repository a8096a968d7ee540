"""Jacobian lenses of one model, fitted to different prompts, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from depthsig.arguments import check_arguments
from depthsig.checkpoint.jacobian.jacobians import JacobianLens, read_jacobian_lens
from depthsig.commands.lenses.fitted import FittedLens
from depthsig.commands.lenses.jacobian_table import depth_records, jacobian_table
from depthsig.errors import InputError, shown
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.provenance import versions

_APART = ("n", "seed", "prompts")
"""Options that may differ between lenses that are merged: they choose prompts."""


def merge_lenses(folders: Sequence[str | Path], *, out: str | Path | None = None) -> FittedLens:
    """The Jacobian lens of all prompts together, from lenses of some of them, weighted by how many each had.

    Args:
        folders: lenses that ``fit-lens --kind jacobian`` saved, of one model, plan and options, and of prompts
            that no two share.
        out: folder to save the lens in.

    Raises:
        InputError: for fewer than two, for one that is no such lens, and where they do not go together.
    """
    check_arguments(merge_lenses, locals())
    if len(folders) < 2:
        raise InputError(f"merging takes two Jacobian lenses or more; found {len(folders)}")
    lenses = [_own(read_jacobian_lens(folder)) for folder in folders]
    for other in lenses[1:]:
        _check_alike(lenses[0], other)
    _check_apart(lenses)
    total = sum(lens.prompts for lens in lenses)
    jacobians = tuple(_mean(lenses, depth, total) for depth in range(len(lenses[0])))
    first = lenses[0].record
    depths = jacobian_table(jacobians, first["depths"])
    prompts = [p for lens in lenses for p in lens.record["prompts"]["train"]]
    made_of = {"merged": sorted(str(lens.record.get(IDENTITY)) for lens in lenses)}
    record: dict[str, Any] = {
        **first, IDENTITY: identity_of(made_of), "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(), "options": {**first["options"], "n": total, "merged": len(lenses)},
        "tokens": {"train": sum(lens.record["tokens"]["train"] for lens in lenses)}, "n_prompts": total,
        "prompts": {"train": prompts}, "depths": depth_records(depths),
        "seconds": sum(float(lens.record.get("seconds", 0.0)) for lens in lenses),
    }  # fmt: skip
    lens = JacobianLens(jacobians, config={**lenses[0].config, "n_prompts": total}, record=record)
    name = Path(str(first.get("checkpoint", {}).get("id") or "model")).name
    fitted = FittedLens(lens, depths, record, name)
    if out is not None:
        fitted.save(out)
        fitted = replace(fitted, lens=replace(lens, source=str(out)))
    return fitted


def _mean(lenses: Sequence[JacobianLens], depth: int, total: int) -> Float[Tensor, "d d"]:
    matrices = [lens.jacobians[depth] for lens in lenses]
    sums = sum(m.float() * lens.prompts for m, lens in zip(matrices, lenses, strict=True) if m is not None)
    assert isinstance(sums, Tensor)  # every lens of ours has all depths
    return sums / total


def _own(lens: JacobianLens) -> JacobianLens:
    """The lens, where its record says all that merging needs.

    Raises:
        InputError: where it does not: nothing would tell whether it goes with others.
    """
    record, depths = lens.record, range(len(lens))
    try:
        steps = record["depths"]
        told = [(s["layer"], s["iteration"], s["phase"] or 0) for s in steps]
        known = all(type(number) is int for step in told for number in step)
        prompts = record["prompts"]["train"]
        whole = (
            known
            and len(told) == len(lens)
            and all(isinstance(p, str) for p in prompts)
            and len(prompts) == lens.prompts
        )
        int(record["tokens"]["train"]), dict(record["options"]), list(record["layers"])
        float(record.get("seconds", 0.0))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole or lens.depths != tuple(depths) or not lens.prompts:
        raise InputError(
            f"{str(lens)!r} is no Jacobian lens with the record of its prompts and options; "
            "`depthsig fit-lens --kind jacobian` writes one that can be merged"
        )
    return lens


def _check_alike(one: JacobianLens, other: JacobianLens) -> None:
    def said(lens: JacobianLens) -> dict[str, Any]:
        options = {k: v for k, v in lens.record["options"].items() if k not in (*_APART, "merged")}
        checkpoint = lens.record.get("checkpoint", {})
        return {
            "checkpoint": checkpoint.get("content_hash") or checkpoint.get("id"), "dtype": lens.record.get("dtype"),
            "unembedding": lens.config.get("unembed_hash"), "order of layers": lens.record["layers"],
            "width": lens.width, **options,
        }  # fmt: skip

    a, b = said(one), said(other)
    for key in {**a, **b}:
        if a.get(key) != b.get(key):
            raise InputError(
                f"{str(one)!r} and {str(other)!r} cannot be merged: their {key} differs "
                f"({shown(a.get(key))} and {shown(b.get(key))})"
            )


def _check_apart(lenses: Sequence[JacobianLens]) -> None:
    seen: dict[str, JacobianLens] = {}
    for lens in lenses:
        mine = set(lens.record["prompts"]["train"])
        shared = [p for p in mine if p in seen]
        if shared:
            raise InputError(
                f"{str(seen[shared[0]])!r} and {str(lens)!r} share {len(shared)} of their prompts, which would count "
                "twice; fit them to different ones"
            )
        seen |= dict.fromkeys(mine, lens)
