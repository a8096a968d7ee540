"""A user's own files, which declare metrics (and edits) when they are imported."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from depthsig.errors import DepthsigError, InputError

PLUGIN = "depthsig_plugin_"
"""How the modules of users' own files are called."""


def import_plugins(files: str | Path | Sequence[str | Path]) -> list[dict[str, str]]:
    """Import a user's own files; returns what results keep of them, path and hash.

    Raises:
        InputError: for a file that is not there, or fails.
    """
    return [_import_plugin(Path(file)) for file in ([files] if isinstance(files, (str, Path)) else files)]


def _import_plugin(path: Path) -> dict[str, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"--plugin {str(path)!r} cannot be read: {error.strerror}; name a Python file") from None
    digest = hashlib.sha256(content).hexdigest()
    # Not under its own name: a plug-in called statistics.py must not stand in for the library's.
    name = f"{PLUGIN}{digest[:12]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except DepthsigError as error:
        raise InputError(f"--plugin {str(path)!r}: {error}") from None
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split()) or "no message"
        raise InputError(f"--plugin {str(path)!r} failed: {type(error).__name__}: {said}") from error
    return {"path": str(path), "sha256": digest}
