"""The page of found blocks: which there are, on what evidence, and the cosines that were searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.findings.finding import listed, plain
from depthsig.metrics import entry
from depthsig.metrics.rules import ACTIVATIONS, OF_LAYERS
from depthsig.report.alt_texts import matrix_in_words
from depthsig.report.figures.heatmap import draw_heatmap
from depthsig.report.gallery import Drawn
from depthsig.report.page import chart_data as charts
from depthsig.report.page.glance import Answer
from depthsig.report.page.page_files import write_page
from depthsig.report.page.templates import embedded, page
from depthsig.report.style import COLUMN, house_style, new_figure
from depthsig.signature.found_blocks import SavedBlocks
from depthsig.signature.records import BlockRecord, BlocksRecord, as_record

EVIDENCE = {"weights": OF_LAYERS, "activations": ACTIVATIONS[0]}
"""The metric whose matrix is searched, for each kind of evidence that is tested."""

_HEAD = ("kind", "first layer", "layers", "times", "evidence", "p", "what was seen")


def draw(found: SavedBlocks, folder: Path) -> None:
    """Figures and page into a folder that exists and has none."""
    write_page(folder, block_figures(found), lambda saved: render(found, saved))


def block_figures(found: SavedBlocks) -> Iterator[Drawn]:
    """The cosines that were searched, as heat maps."""
    plan = pd.DataFrame(_plan(as_record(found.info, BlocksRecord)))
    with house_style():
        for evidence, metric in EVIDENCE.items():
            matrix, one = found.matrix(evidence), entry(metric)
            if matrix is not None:
                figure = new_figure(COLUMN, 2.8, plain=True)
                draw_heatmap(figure.add_subplot(), matrix, one, plan)
                seen = f"{one.label}: {matrix_in_words(matrix, one.row_label, one.col_label)}."
                yield Drawn(metric, "evidence", metric, f"{one.formula}.", figure, seen)


def render(found: SavedBlocks, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text; every name in it is escaped."""
    info = as_record(found.info, BlocksRecord)
    rows = [
        [b.kind, str(b.start), str(b.size), str(b.count), ", ".join(b.evidence), _p(b), b.note] for b in info.blocks
    ]
    data = blocks_data(found)
    return page(
        "blocks.html.j2", data, places=[one["id"] for one in data["sections"]],
        info=info, short=blocks_in_short(info), blocks=(_HEAD, rows),
        tests=(("evidence", "p"), [[name, plain(p)] for name, p in info.p_values.items()]),
        figures=[embedded(d, path) for d, path in figures],
        options=[(name, value) for name, value in info.options.items() if value is not None],
    )  # fmt: skip


def blocks_data(found: SavedBlocks) -> dict[str, Any]:
    """The plan with the blocks that were found, and the cosines.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; what can be marked is a step.
    """
    info = as_record(found.info, BlocksRecord)
    plan = _plan(info)
    metrics: dict[str, Any] = {}
    for evidence, metric in EVIDENCE.items():
        matrix, one = found.matrix(evidence), entry(metric)
        if matrix is not None:
            drawn = charts.cells(matrix, charts.scale_of(one, matrix.to_numpy(dtype=float)))
            metrics[metric] = charts.about(one, pd.DataFrame(plan)) | {"cells": [drawn]}
    sections = [charts.section("evidence", "Evidence", list(metrics))] if metrics else []
    return charts.record(info.checkpoint, metrics, sections, plan=plan)


def blocks_in_short(info: BlocksRecord) -> list[Answer]:
    """Are there blocks, of which layers, and on what that rests."""
    if info.blocks:
        said = listed([f"{b.count} × {b.size} layers, {_KINDS.get(b.kind, b.kind)}, from layer {b.start}"
                       for b in info.blocks])  # fmt: skip
        first = Answer("Are there blocks?", "Yes", "pass", f"{said}.")
    else:
        first = Answer("Are there blocks?", "None was found", "open", "That is the usual answer.")
    tested = [f"{name} p = {plain(p)}" for name, p in info.p_values.items()]
    proven = ["trace (which proves a loop)"] if any("trace" in b.evidence for b in info.blocks) else []
    rest = f"A p below {plain(info.level)} is needed, corrected for the search and for both kinds of evidence."
    if info.notes:
        rest += f" {len(info.notes)} {'note' if len(info.notes) == 1 else 'notes'}, below."
    said = listed([*proven, *tested]) or "nothing could be tested"
    return [first, Answer("What does it rest on?", said[:1].upper() + said[1:], "open", rest)]


_KINDS = {"loop": "run again as they are", "grown": "copied"}


def _p(block: BlockRecord) -> str:
    return "proven" if block.p_value is None else plain(block.p_value)


def _plan(info: BlocksRecord) -> list[dict[str, Any]]:
    """A record a step, with the number of its block and its phase where it lies in one that was found."""
    places: list[dict[str, int | None]] = [{"block": None, "phase": None} for _ in info.layers]
    number = 0
    for block in info.blocks:
        inside = _inside(block, info.layers)
        for step, (repeat, phase) in inside.items():
            places[step] = {"block": number + repeat, "phase": phase}
        number += 1 + max((repeat for repeat, _ in inside.values()), default=0)
    return [
        {"step": step, "layer": layer, "iteration": None, "span": None, **place}
        for step, (layer, place) in enumerate(zip(info.layers, places, strict=True))
    ]


def _inside(block: BlockRecord, layers: Sequence[int]) -> dict[int, tuple[int, int]]:
    """The steps of a block: which repeat of it, and which of its layers.

    >>> found = BlockRecord(start=1, size=2, count=2, kind="loop", evidence=["trace"])
    >>> _inside(found, [0, 1, 2, 1, 2, 3])
    {1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 1)}
    """
    found: dict[int, tuple[int, int]] = {}
    seen: dict[int, int] = {}
    for step, layer in enumerate(layers):
        place = layer - block.start
        if block.kind == "loop" and 0 <= place < block.size:
            found[step] = (seen.get(layer, 0), place)
            seen[layer] = seen.get(layer, 0) + 1
        elif block.kind != "loop" and 0 <= place < block.size * block.count:
            found[step] = divmod(place, block.size)
    return found
