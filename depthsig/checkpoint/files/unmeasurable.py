"""Loops that are refused by name, from a config alone: before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from depthsig.errors import UnsupportedModelError, shown

_PARALLEL = re.compile("pltcoder|parallellooptransformer|foresightloop")
"""In the names of models whose passes run side by side: LoopCoder-V2 (``iquestpltcoder``), ForesightLoop."""
_LOOPED_EXPERTS = re.compile("moeut(?!il|f8|ter)|loop(ed)?moe")
"""In the names of mixtures of experts that loop: MoEUT, LoopMoE (``loop-moe``)."""
_MORE_THAN_A_STREAM = {
    "nanbeige": (
        "loop_middle_layers", "enable_double_loop_split", "loop_share_kv", "enable_hyper_connection", "enable_mhc",
        "enable_h_res_identity", "enable_depth_attention",
    ),
}  # fmt: skip
"""Options of known families under which a pass is more than layers on one residual stream."""


def refuse_unmeasurable(config: Mapping[str, Any], where: str, kinds: Iterable[str] = ()) -> None:
    """Refuse by name what would be measured wrongly.

    Args:
        config: the entries of a config.json, or of a live model's. where: what the user calls it.
        kinds: names of classes beside those of the config.

    Raises:
        UnsupportedModelError: naming what it is, or the option that is set, and what works.
    """
    family, classes = config.get("model_type"), config.get("architectures")
    told = [family, *(classes if isinstance(classes, (list, tuple)) else ()), *kinds]
    named = [name for name in told if isinstance(name, str)]
    parallel = _called(named, _PARALLEL)
    loops = config.get("plt_num_loops")
    if parallel is None and isinstance(loops, (int, float)) and loops > 1:
        parallel = "plt_num_loops"
    if parallel is not None:
        raise UnsupportedModelError(
            f"{where} is a parallel loop ({shown(parallel)[1:-1]}): a pass goes on from what the pass before made of "
            "the previous token, so that no token has a stream of its own to read or to skip steps in; loops whose "
            "passes follow each other (Ouro, Huginn, IQuest-Coder-Loop) can be analysed"
        )
    experts = _called(named, _LOOPED_EXPERTS)
    if experts is not None:
        raise UnsupportedModelError(
            f"{where} is a looped mixture of experts ({shown(experts)[1:-1]}): its router takes other experts at every "
            "pass, so that passes with the same weights are not one block again, which measures of loops suppose; "
            "mixtures of experts that do not loop, and loops of dense layers, can be analysed"
        )
    for option in _MORE_THAN_A_STREAM.get(str(family), ()):
        if config.get(option):
            raise UnsupportedModelError(
                f"{where} is a {family} that sets {option} = {shown(config[option])}, under which its passes share "
                "more than the residual stream; checkpoints that leave it unset can be analysed"
            )


def _called(named: Iterable[str], kind: re.Pattern[str]) -> str | None:
    """The first name with ``kind`` in it, however it is spelt."""
    return next((name for name in named if kind.search(re.sub(r"[^a-z0-9]", "", name.lower()))), None)
