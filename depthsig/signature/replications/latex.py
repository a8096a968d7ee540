"""A replication's verdicts as a table for a paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "≥": r"$\geq$", "→": r"$\rightarrow$",
}  # fmt: skip


def escaped(text: object) -> str:
    r"""Text that LaTeX sets as it is.

    >>> escaped("50% of a_b")
    '50\\% of a\\_b'
    """
    return "".join(_SPECIAL.get(sign, sign) for sign in str(text))


def as_latex(info: Mapping[str, Any], table: pd.DataFrame) -> str:
    """A ``tabular`` in the style of ``booktabs``, a row a claim and role, experiments apart."""
    paper = info["paper"]
    lines = [
        f"% {paper['id']}, criteria {info['criteria_sha256'][:16]}; needs \\usepackage{{booktabs}}",
        r"\begin{tabular}{lllrl}",
        r"\toprule",
        r"Claim & Role & Verdict & Estimate & 95\% interval \\",
        r"\midrule",
    ]
    last = None
    for row in table.to_dict("records"):
        if last not in (None, row["experiment"]):
            lines.append(r"\addlinespace")
        last = row["experiment"]
        estimate = f"${row['estimate']:+.3f}$" if np.isfinite(row["estimate"]) else "--"
        interval = f"$[{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]$" if np.isfinite(row["ci_low"]) else "--"
        cells = [escaped(row["claim"]), escaped(row["role"]), escaped(row["verdict"]), estimate, interval]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
