"""A user's own files, which declare metrics (and edits) when they are imported."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from depthsig.errors import DepthsigError, InputError
from depthsig.metrics.entries.fields import Metric
from depthsig.metrics.registry import all_metrics
from depthsig.untrusted import size_of

_DECLARED: dict[str, tuple[Metric, dict[str, str]]] = {}
"""What files declared, by id, and which file that was."""


def plugin_of(one: Metric) -> dict[str, str] | None:
    """The file that declares a user's own metric, path and hash; None where it was declared in Python."""
    declared, record = _DECLARED.get(one.id, (None, None))
    return record if declared is one else None


def import_plugins(files: str | Path | Sequence[str | Path]) -> list[dict[str, str]]:
    """Import a user's own files; returns what results keep of them, path and hash.

    Raises:
        InputError: for a file that is not there, or fails.
    """
    return [_import_plugin(Path(file)) for file in ([files] if isinstance(files, (str, Path)) else files)]


def _import_plugin(path: Path) -> dict[str, str]:
    try:
        size_of(path)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"--plugin {str(path)!r} cannot be read: {error.strerror}; name a Python file") from None
    digest = hashlib.sha256(content).hexdigest()
    # Not under its own name: a plug-in called statistics.py must not stand in for the library's.
    name = f"depthsig_plugin_{digest[:12]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    before = dict(all_metrics())
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except DepthsigError as error:
        raise InputError(f"--plugin {str(path)!r}: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's own code raises, the program's end included
        said = " ".join(str(error).split()) or "no message"
        raise InputError(f"--plugin {str(path)!r} failed: {type(error).__name__}: {said}") from error
    record = {"path": str(path), "sha256": digest}
    _DECLARED.update({name: (one, record) for name, one in all_metrics().items() if one is not before.get(name)})
    return record
