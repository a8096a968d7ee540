"""``--open``: a page in the browser."""

from __future__ import annotations

import sys
from pathlib import Path


def open_page(page: Path) -> None:
    """Show a page in the browser; where that fails, say so in a line: the work is done, and its result is there."""
    import webbrowser  # start-up time

    try:
        shown = webbrowser.open(page.resolve().as_uri())
    except (webbrowser.Error, OSError, ValueError):
        shown = False
    if not shown:
        print(f"depthsig: no browser could be opened here; the report is {page}", file=sys.stderr)
