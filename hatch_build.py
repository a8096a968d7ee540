"""What a package index shows of README: there a relative link leads nowhere, so it becomes its text."""

from __future__ import annotations

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"^!\[[^\]]*\]\((?!https?://)[^)]*\)\n\n?", re.M)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://|#)[^)]*\)")
_COMMENT = re.compile(r"^<!--.*?-->\n", re.M)


def shown_elsewhere(readme: str) -> str:
    """README without what only works in the repository: its pictures, relative links, comments."""
    return _LINK.sub(r"\1", _PICTURE.sub("", _COMMENT.sub("", readme)))


class ReadmeHook(MetadataHookInterface):
    """Gives the README to the package's metadata."""

    def update(self, metadata: dict) -> None:
        """Set ``readme``, which ``pyproject.toml`` declares as dynamic."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": shown_elsewhere(text)}
