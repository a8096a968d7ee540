"""Reports: figures and a page from a saved signature, with no model (and no torch) at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

from depthsig.errors import InputError


def build(directory: str | Path) -> Path:
    """Draw every figure of a saved signature and write ``report.html`` beside it.

    Old figures are replaced when all new ones are there.

    Raises:
        InputError: if the folder is no result, or cannot be written.

    Returns:
        The path of the page.
    """
    from depthsig.report.figures import save_figures
    from depthsig.report.html import render
    from depthsig.signature import Signature

    folder = Path(directory)
    signature = Signature.load(folder)
    scratch = folder / "figures.partial"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        saved = save_figures(signature, scratch)
        page = render(signature, saved)
        (scratch / "report.html").write_text(page, encoding="utf-8")
        shutil.rmtree(folder / "figures", ignore_errors=True)
        (scratch / "report.html").replace(folder / "report.html")
        scratch.rename(folder / "figures")
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / "report.html"
