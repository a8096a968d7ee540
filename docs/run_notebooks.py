"""Execute the notebooks and keep their outputs, small enough to show on GitHub.

``python docs/run_notebooks.py [NAME ...]``, in a checkout with the extra ``notebooks``: of all, or of those whose file
names begin so. What is kept is text, tables and pictures of at most 32 colours; progress and times are not.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COLOURS = 32


def executed(path: Path, folder: Path, without: str = "") -> Any:
    """The notebook with the outputs that it has here and now, run in ``folder``.

    Args:
        without: a tag, whose cells are left out.

    Raises:
        nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if without not in cell.metadata.get("tags", [])]
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [before.get("PYTHONPATH")])])
    os.environ.pop("MPLBACKEND", None)  # the kernel's own shows figures
    try:
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return notebook


def slim(notebook: Any) -> None:
    """Leave out of a notebook what is large, or another one every time."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = joined([one for one in cell.outputs if not _passes(one)])
        for one in cell.outputs:
            data = one.get("data", {})
            if "image/png" in data:
                data["image/png"] = fewer_colours(data["image/png"])
                one.metadata.pop("image/png", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}


def joined(outputs: list[Any]) -> list[Any]:
    """What is printed in one go may come in pieces: as one output each time it does."""
    found: list[Any] = []
    for one in outputs:
        if found and one.output_type == "stream" and found[-1].output_type == "stream":
            found[-1].text += one.text
        else:
            found.append(one)
    return found


def _passes(output: Any) -> bool:
    """Whether an output is progress: on stderr, or a bar, which is empty once its stage is over."""
    if output.output_type == "stream":
        return bool(output.name == "stderr")
    html = output.get("data", {}).get("text/html")
    return html is not None and (not html.strip() or "<progress" in html)


def fewer_colours(png: str) -> str:
    """A picture in base64 with a palette of its own."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main(names: list[str]) -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if names and not path.name.startswith(tuple(names)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        slim(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
