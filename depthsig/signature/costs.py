"""What compared models cost, quantity by quantity: names, units and words, and what was held equal as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from depthsig.signature.tabular import NAME, NUMBER, TEXT, Columns

EQUAL, DIFFERS, UNKNOWN = "equal", "differs", "unknown"
LEVELS = ("one", "model", "role")
"""A signature by itself, two signatures, and two roles by the means of their members."""

HELD_COLUMNS: Columns = {
    "level": TEXT, "a": TEXT, "b": NAME, "quantity": TEXT, "unit": TEXT, "value_a": NUMBER, "value_b": NUMBER,
    "factor": NUMBER, "verdict": NAME, "note": TEXT,
}  # fmt: skip
"""Of ``held_equal.csv``: ``factor`` is the value of A over that of B."""


@dataclass(frozen=True)
class Quantity:
    """What may be held equal: its name in sentences, its unit, and what it is."""

    label: str
    unit: str
    meaning: str


HELD_QUANTITIES: dict[str, Quantity] = {
    "steps": Quantity("steps", "steps", "layers that run, each pass of a loop anew"),
    "layers": Quantity("stored layers", "layers", "layers that the checkpoint holds"),
    "parameters": Quantity("parameters", "parameters", "all that are stored, shared ones once"),
    "parameters_without_embeddings": Quantity(
        "parameters without embeddings", "parameters", "without the tables of tokens and positions and without the head"
    ),
    "parameters_read": Quantity(
        "parameters read", "parameters", "that one forward reads, a loop's block once; of experts, the chosen ones"
    ),
    "parameters_read_repeated": Quantity(
        "parameters read with repetition", "parameters", "the same, a loop's block once a pass"
    ),
    "flops": Quantity(
        "FLOPs a token", "FLOPs",
        "2 × parameters of matrix products × times run + 4 × context × heads' width a step; masks and windows "
        "are not subtracted",
    ),
    "kv_bytes": Quantity(
        "KV memory a token", "bytes", "keys and values in the dtype that ran; a loop has a slot for each pass and layer"
    ),
    "training_tokens": Quantity("training tokens", "tokens", "as the checkpoint's files say"),
    "training_flops": Quantity("training FLOPs", "FLOPs", "as the checkpoint's files say"),
}  # fmt: skip
"""By their names in the table, in its order."""


def held_in_words(table: pd.DataFrame) -> list[str]:
    """What is equal and what is not, a sentence for every two roles, or where there are none for every two models.

    >>> rows = [("role", "looped", "baseline", "steps", 1.0, "equal"),
    ...         ("role", "looped", "baseline", "parameters", 0.5034, "differs")]
    >>> held_in_words(pd.DataFrame(rows, columns=["level", "a", "b", "quantity", "factor", "verdict"]))
    ['looped and baseline: same steps; looped has 0.503 × the parameters']
    """
    level = "role" if table["level"].eq("role").any() else "model"
    rows = table[table["level"] == level].to_dict("records")
    said = []
    for (a, b), pair in groupby(rows, key=lambda r: (str(r["a"]), str(r["b"]))):
        every = list(pair)
        labels = {verdict: [HELD_QUANTITIES[r["quantity"]].label for r in every if r["verdict"] == verdict]
                  for verdict in (EQUAL, UNKNOWN)}  # fmt: skip
        factors = [(HELD_QUANTITIES[r["quantity"]].label, r["factor"]) for r in every if r["verdict"] == DIFFERS]
        pieces = [f"same {_listed(labels[EQUAL])}"] if labels[EQUAL] else []
        if factors:
            pieces.append(f"{a} has " + _listed([f"{_times(factor)} the {label}" for label, factor in factors]))
        if labels[UNKNOWN]:
            pieces.append(f"not known: {_listed(labels[UNKNOWN])}")
        said.append(f"{a} and {b}: {'; '.join(pieces)}")
    return said


def value_in_words(value: float) -> str:
    """A count as people read it.

    >>> value_in_words(24), value_in_words(4856192), value_in_words(3.46e14), value_in_words(float("nan"))
    ('24', '4.86 M', '346 T', '–')
    """
    if pd.isna(value):
        return "–"
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}" if value < 1000 * size else f"{value:.3g}"
    return f"{value:.4g}"


def _times(factor: float) -> str:
    return f"{factor:.3g} ×" if factor == factor else "another multiple of"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
