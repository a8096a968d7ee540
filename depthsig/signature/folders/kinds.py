"""The file that makes a folder a result of ours, and what else such a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from depthsig import untrusted
from depthsig.signature.schema import FILES

SIGNATURE, REPEAT, COMPARE, LENS = "signature.json", "repeat.json", "compare.json", "lens.json"
RECORDS = {
    SIGNATURE: "depthsig-signature/", REPEAT: "depthsig-repeat/", COMPARE: "depthsig-compare/", LENS: "depthsig-lens/",
}  # fmt: skip
"""The file that makes a folder a result of ours, and how its schema begins."""

FIGURES, PAGE = "figures", "report.html"
COMPARED = ("claims", "distances", "late", "scores", "recurrence", "profiles")
OURS = frozenset({
    *RECORDS, *FILES.values(), FIGURES, PAGE, "control", *(f"{name}.csv" for name in COMPARED),
    "repeat.csv", "ranking.csv", "prediction.csv", "config.json", "params.pt",
})  # fmt: skip
"""What our commands write into results; what else lies there is somebody's own, and kept when they are replaced."""


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
    """The object that a file holds; an empty one where there is none that can be read."""
    try:
        found = untrusted.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
