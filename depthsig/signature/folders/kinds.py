"""The file that makes a folder a result of ours, and what else such a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from depthsig import untrusted
from depthsig.signature.schema import FILES

SIGNATURE, REPEAT, COMPARE, LENS = "signature.json", "repeat.json", "compare.json", "lens.json"
FOUND_BLOCKS, REPLICATION, SWEEP = "blocks.json", "replicate.json", "sweep.json"
STABILITY_CARD = "stability.json"
RECORDS = {
    SIGNATURE: "depthsig-signature/", REPEAT: "depthsig-repeat/", COMPARE: "depthsig-compare/", LENS: "depthsig-lens/",
    FOUND_BLOCKS: "depthsig-blocks/", REPLICATION: "depthsig-replicate/",
    SWEEP: "depthsig-sweep/", STABILITY_CARD: "depthsig-stability/",
}  # fmt: skip
"""The file that makes a folder a result of ours, and how its schema begins."""

FIGURES, PAGE, CONTROL, FINDINGS = "figures", "report.html", "control", "findings.json"
RUN = "run.toml"
"""The options of the command that made a result, for its ``--config``; a result from Python has none."""
GIVEN = ("prompts.jsonl", "calibration.jsonl")
"""Prompts that were given as objects, as they were given."""
REPLICATED = ("replication", "networks", "curves", "held_equal", "unit_tests")
SIGNATURES, LATEX, RUNS = "signatures", "replication.tex", "runs.parquet"
"""Of a replication: the analyses behind it, its table for a paper, and what was run beside them."""
COMPARED = ("claims", "distances", "late", "scores", "recurrence", "profiles", "held_equal", "unit_tests")
CARDED = ("stability", "passes", "counts", "losses")
"""Tables of a stability card."""
_OWN = {
    SIGNATURE: frozenset({SIGNATURE, *FILES.values(), *GIVEN, CONTROL, FINDINGS, FIGURES, PAGE}),
    REPEAT: frozenset({REPEAT, "repeat.csv", "ranking.csv", "prediction.csv", "samples.parquet", FIGURES, PAGE}),
    COMPARE: frozenset({COMPARE, *(f"{name}.csv" for name in COMPARED), FIGURES, PAGE}),
    LENS: frozenset({LENS, "config.json", "params.pt", "jacobian_lens.pt", PAGE}),
    FOUND_BLOCKS: frozenset({FOUND_BLOCKS, "similarities.csv", FIGURES, PAGE}),
    REPLICATION: frozenset(
        {REPLICATION, *(f"{name}.csv" for name in REPLICATED), SIGNATURES, LATEX, RUNS, FIGURES, PAGE}
    ),
    STABILITY_CARD: frozenset({STABILITY_CARD, *(f"{name}.csv" for name in CARDED), FIGURES, PAGE}),
    SWEEP: frozenset({SWEEP, "sweep.csv", "onset.csv", FIGURES, PAGE}),
}
WRITTEN = {kind: names | {RUN} for kind, names in _OWN.items()}
"""What our commands write into a result of each kind; what else lies there is somebody's own, and kept when the
result is replaced. Folders among it are replaced whole."""

MARK = ".depthsig"
"""An empty file that makes a partial folder ours, so that nobody else's is ever cleared."""

PARTIAL, REDRAWN, ASIDE = ".partial", ".report.partial", ".depthsig-old"
"""How the names of folders end that hold unfinished work, or an old result on its way out."""


def is_leftover(name: str) -> bool:
    """Whether a folder of this name is one that work in progress makes, and clears."""
    return name.endswith(PARTIAL) or (name.startswith(".") and name.endswith(ASIDE))


def claimed_by(path: Path) -> Path | None:
    """The folder above a path in which our own work would replace or clear what lies there; None where there is none.

    That is a result, under a name that the result itself uses, or unfinished work.
    """
    for inside, folder in zip((path, *path.parents), path.parents, strict=False):
        kinds = [kind for kind, names in WRITTEN.items() if inside.name in {*names, MARK}]
        if kinds and result_kind(folder) in kinds:
            return folder
        if is_leftover(folder.name) and (folder / MARK).is_file():
            return folder
    return None


def is_result(directory: str | Path) -> bool:
    """Whether a folder is a result of ours."""
    return result_kind(directory) is not None


def result_kind(directory: str | Path) -> str | None:
    """Which of :data:`RECORDS` a folder holds; None if it is no result of ours."""
    for name, schema in RECORDS.items():
        if str(record_in(Path(directory) / name).get("schema", "")).startswith(schema):
            return name
    return None


def record_in(path: Path) -> dict[str, Any]:
    """The object that a file holds, all its text made visible; an empty one where there is none that can be read."""
    try:
        found = untrusted.made_visible(untrusted.read_json(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
