"""Writes pages while mkdocs builds: the metric reference from the entries, the tutorial from the notebooks."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

MARK = "<!-- metrics -->"
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add a page for every notebook, with the outputs that are stored in it."""
    from mkdocs.structure.files import File  # lazily: tests of the reference need no mkdocs

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"tutorial/{path.stem}.md", content=tutorial(path)))
    return files


def tutorial(path: Path) -> str:
    """A notebook as Markdown: text as it stands, code fenced, outputs below."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(_cell(cell) for cell in cells) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return text
    return "\n\n".join([f"````python\n{text}\n````", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    """One output: a picture, HTML as a notebook shows it, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="Figure drawn by the code above" src="data:image/png;base64,{picture}">'
    if "text/html" in data:
        # Blank lines would end the block of HTML; scoped styles of tables would hold for the page.
        lines = "".join(data["text/html"]).split("<style scoped>")
        html = lines[0] + "".join(piece.partition("</style>")[2] for piece in lines[1:])
        return "<div>" + " ".join(line.strip() for line in html.splitlines()) + "</div>"
    return f"<pre>{escape(''.join(data.get('text/plain', output.get('text', '')))).replace(chr(10), '&#10;')}</pre>"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page asks for it."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """One section a metric: label, unit, formula, axes, kind of run, what its function asks for, source."""
    from depthsig.metrics import all_metrics  # lazily: mkdocs also loads this file where no page asks

    return "\n\n".join(section(entry) for entry in all_metrics().values())


def section(entry: Any) -> str:
    """The section of one metric."""
    axes = " × ".join(entry.cells) or "none"
    lines = {
        "what": f"{entry.label}{f' [{entry.unit}]' if entry.unit else ''}",
        "definition": f"`{entry.formula}`",
        "kind": f"{entry.kind}, axes: {axes}",
        "run": f"{entry.on}: {entry.run.says}" if entry.measured else f"made of other entries ({entry.on})",
        "needs": ", ".join(f"`{name}`" for name in (*entry.needs, *entry.asks())) or "nothing",
        "asked for by": ", ".join(f"`--metrics {group}`" for group in entry.groups) or f"`--metrics {entry.id}`",
        "source": entry.source or "depthsig",
    }
    return f"### `{entry.id}`\n\n" + "\n".join(f"- **{key}**: {text}" for key, text in lines.items())
