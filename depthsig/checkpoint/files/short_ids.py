"""Short names of hub ids that users of TransformerLens know, as ``gpt2-small``; looked up offline in its own list."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from depthsig.checkpoint.files.names import read_object

_LIST = Path("tools", "model_registry", "data", "model_aliases.json")


@cache
def short_ids() -> dict[str, str]:
    """Every short name, in small letters, with its hub id; empty where the list is not there.

    The file is read beside the package, which is not imported: that would take seconds to say that a name is misspelt.
    """
    place = find_spec("transformer_lens")
    path = Path(place.origin).parent / _LIST if place is not None and place.origin else None
    listed = read_object(path).get("aliases") if path is not None and path.is_file() else None
    listed = listed if isinstance(listed, dict) else {}
    found = {name.lower(): name for name in listed if "/" not in name}
    for name, aliases in listed.items():
        for alias in aliases if isinstance(aliases, list) else []:
            if isinstance(alias, str):
                found.setdefault(alias.lower(), name)
    return found
