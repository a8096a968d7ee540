"""Kinds of run, and what each offers: the names that a metric's function may have as parameters.

A metric says by the names of its parameters what it needs, as a pytest fixture does; which run that
comes from is a matter of who offers it. This is the whole list. Each kind has one provider that measures
it (:mod:`depthsig.measure`, or :mod:`depthsig.tables` for what is made of tables), and the tests hold
the providers to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["token", "stack", "pooled", "table", "rest"]
"""What one call of a metric's function sees.

- ``token``: any number of tokens, one row each; a number for each comes back. Averaged over positions.
- ``stack``: the same tokens at all depths, steps or passes, which stand along the first axis; what comes
  back has its cells first (rows, and columns of a matrix) and the tokens last.
- ``pooled``: kept tokens of all prompts together, or the weights; a whole matrix comes back.
- ``table``: values of other entries (``needs``), cells along the last axes, any number of rows first;
  with ``on="readout"``, ``"tuned"`` or ``"jacobian"``, every token's own values before they are averaged.
- ``rest``: one prompt's states with the rest of the model as a differentiable function.
"""

Axis = Literal["depth", "step", "ahead", "layer", "iteration", "phase", "block", "start", "end", ""]


@dataclass(frozen=True)
class Offer:
    """Names that a kind of run offers at one level, over one axis (rows and columns, for matrices)."""

    level: Level
    cells: tuple[Axis, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class RunKind:
    """A kind of run.

    Attributes:
        name: what ``on`` of an entry says.
        says: what is run, in one line.
        offers: what its metrics may ask for.
        by_part: whether it is done for each of ``--parts`` and ``--scopes``.
        loops: whether it needs a loop that runs.
        several: whether each of its edits moves several steps at once: no place of its own in depth.
        tokens: whether token-level values of it are kept.
        lens: the kind of lens that it needs; empty for none.
    """

    name: str
    says: str
    offers: tuple[Offer, ...]
    by_part: bool = False
    loops: bool = False
    several: bool = False
    tokens: bool = False
    lens: str = ""

    def offer(self, level: Level, cells: tuple[Axis, ...]) -> Offer | None:
        """What it offers at this level over these cells."""
        return next((o for o in self.offers if o.level == level and o.cells == cells), None)


OUTPUT = ("logits", "final", "targets")
"""A readout or an edited run's output, the model's own, and the ids of the tokens that follow (−1: none)."""

_OF_EXITS = ("losses", "confidences", "output_kls", "exit_cdf", "exit_threshold")
"""Of every pass and token: loss, largest probability, KL from the output of the pass before, the probability of having
left by the model's own gate; and the gate's threshold."""

_DEPTH: tuple[Axis, ...] = ("depth",)
_STEP: tuple[Axis, ...] = ("step",)

_CLEAN = RunKind(
    "clean", "every prompt once, as the model is",
    (
        Offer("token", _DEPTH, ("h",)),
        Offer("token", _STEP, ("h", "h_next", "u", "r")),
        Offer("stack", (), ("hs",)),
        Offer("stack", _DEPTH, ("hs",)),
        Offer("stack", _STEP, ("hs", "us", "rs")),
        Offer("stack", ("depth", "depth"), ("hs",)),
        Offer("stack", ("depth", "ahead"), ("hs",)),
        Offer("stack", ("step", "step"), ("us", "rs")),
        Offer("pooled", ("depth", "depth"), ("hs",)),
    ),
    tokens=True,
)  # fmt: skip


def _lens(name: str, says: str, lens: str = "") -> RunKind:
    return RunKind(name, says, (Offer("token", _DEPTH, ("h", *OUTPUT)), Offer("table", (), ())), tokens=True, lens=lens)


def _order(name: str, says: str, cells: tuple[Axis, ...] = _STEP) -> RunKind:
    return RunKind(f"order.{name}", says, (Offer("token", cells, OUTPUT),), several=True)


def _truncated(name: str, says: str) -> RunKind:
    return RunKind(f"truncated.{name}", says, (Offer("token", _STEP, OUTPUT),), several=True)


_EVERY = (
    _CLEAN,
    _lens("readout", "every state read out by the model's own norm and head"),
    _lens("tuned", "every state read out through the translators of --lens", "tuned"),
    _lens("jacobian", "every state transported to the end by the Jacobian lens of --lens, and read out", "jacobian"),
    RunKind(
        "transport", "nothing: the matrices of the Jacobian lens as they are",
        (Offer("pooled", _DEPTH, ("jacobians",)), Offer("pooled", ("iteration", "phase"), ("passes",))),
        lens="jacobian",
    ),
    RunKind(
        "coda", "every state before the end of a loop, run through what comes after the loop",
        (Offer("token", _DEPTH, ("h", *OUTPUT)),), loops=True,
    ),
    RunKind(
        "exits", "the state after every pass of a loop, run through what comes after the loop",
        (
            Offer("stack", ("iteration",), _OF_EXITS),
            Offer("stack", ("iteration", "iteration"), _OF_EXITS),
            Offer("stack", (), _OF_EXITS),
        ),
        loops=True, tokens=True,
    ),
    RunKind(
        "loop", "the states of successive passes of a loop, and of one more",
        (
            Offer("stack", ("iteration", "phase"), ("xs", "x_next")),
            Offer("token", ("iteration", "phase"), ("logits", "logits_next", "attention")),
            Offer("pooled", ("iteration",), ("xs",)),
        ),
        loops=True, tokens=True,
    ),
    RunKind("weights", "the weights as they are stored", (Offer("pooled", ("layer", "layer"), ("layers",)),)),
    RunKind(
        "skip", "one step's part taken away",
        (Offer("token", ("step", "step"), ("delta", "delta_edited")), Offer("token", _STEP, OUTPUT)),
        by_part=True,
    ),
    RunKind(
        "maintained", "the part of one step's layer taken away in its pass and in every later one",
        (Offer("token", ("step", "step"), ("delta", "delta_edited")), Offer("token", _STEP, OUTPUT)),
        by_part=True, loops=True, several=True,
    ),
    RunKind(
        "local", "later layers on their clean input without one step's part",
        (Offer("token", ("step", "step"), ("delta", "delta_edited")),), by_part=True,
    ),
    _order("swap_next", "steps s and s+1 exchanged"),
    _order("reverse", "steps s..s+3 reversed"),
    _order("skip_block", "steps s..s+b−1 left out (b the declared block, else 4)"),
    _order("swap_blocks", "blocks i and j exchanged", ("block", "block")),
    RunKind(
        "repeat", "layers start..end−1 run twice in all", (Offer("token", ("start", "end"), OUTPUT),), several=True,
    ),
    _truncated("prefix", "the first k steps, read out"),
    _truncated("temperature", "the first k steps, their logits divided by a temperature fitted on other prompts"),
    _truncated("affine", "the first k steps, read out through an affine map fitted on other prompts"),
    _truncated("repeat", "the first k steps, then the k-th again in the place of every later one"),
    _truncated("suffix", "the last k steps on the embeddings"),
    RunKind(
        "truncated.made", "nothing: curves made of the mean curves of truncated runs", (Offer("table", _STEP, ()),),
        several=True,
    ),
    RunKind(
        "erasure", "one state replaced by the mean state of its depth; the largest over what follows counts",
        (Offer("token", _DEPTH, OUTPUT),), tokens=True,
    ),
    RunKind(
        "attribution", "gradients of the answer's log-probability to one prompt's states",
        (Offer("rest", _DEPTH, ("rest", "h", "baseline")), Offer("rest", (), ("rest", "h", "baseline"))),
        tokens=True,
    ),
    RunKind(
        "pass.own", "one pass of a loop as a map of a token's own state, from each phase to itself",
        (Offer("rest", ("iteration", "phase"), ("transposed", "probe")),), loops=True,
    ),
    RunKind(
        "pass.all",
        "one pass of a loop as a map of a prompt's states together (but the first), from each phase to itself",
        (Offer("rest", ("iteration", "phase"), ("transposed", "probe")),), loops=True,
    ),
    RunKind(
        "passes", "all passes of a loop, one after another, as maps of a prompt's states together, but the first",
        (Offer("rest", (), ("along", "probe")),), loops=True,
    ),
    RunKind("scores", "nothing: numbers made of other entries' values", (Offer("table", (), ("n",)),)),
    RunKind(
        "periods", "nothing: tests of every profile and matrix over steps",
        (Offer("table", (), ("profile", "start", "block", "count", "log")),),
    ),
)  # fmt: skip

RUNS: Mapping[str, RunKind] = {kind.name: kind for kind in _EVERY}
"""Every kind of run by its name."""

ON_A_LENS = tuple(kind.name for kind in _EVERY if kind.lens)
"""Runs that need a lens, which is fitted to a model's own weights."""

RECALIBRATED = ("truncated.temperature", "truncated.affine")
"""Runs whose readout is fitted on calibration prompts."""

READ_TRUNCATED = ("truncated.prefix", *RECALIBRATED)
RUN_TRUNCATED = ("truncated.repeat", "truncated.suffix")
"""Truncated runs that the clean run's states tell, and those that are runs of their own."""

OF_PASSES = ("pass.own", "pass.all", "passes")
"""Runs that differentiate a pass of a loop."""

EXITS = "exits"
"""The run of a loop that is left after each of its passes."""

OF_OTHERS = ("scores", "periods", "truncated.made")
"""Kinds of run that run nothing: what is made of other entries' values."""

BY_DEFAULT = ("clean", "readout")
"""Where a metric is measured that does not say: the first of these that offers what it asks for."""
