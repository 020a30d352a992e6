"""Build hook: the README as package metadata shows it, away from the files that it links to.

There, a link to a file of this repository would lead nowhere. It becomes the text of the link and the name
of the file, which is in the source distribution; links within the page and to other sites stay. A picture
that is such a file becomes its description.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

NOTE = "(Files that are named below are in the source distribution.)"

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_TO_A_FILE = r"\((?![a-z]+:|#)(?P<path>[^)#\s]+)(?:#[^)\s]*)?\)"
_PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]" + _TO_A_FILE)
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]" + _TO_A_FILE)


class PortableReadme(MetadataHookInterface):
    """The metadata hook `custom` of `pyproject.toml`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": portable(text)}


def portable(page: str) -> str:
    """A page with no link to a file in it; its examples are as they were."""
    title, _, rest = page.partition("\n")
    parts = _FENCED.split(rest)
    parts[::2] = [_without_files(part) for part in parts[::2]]
    return f"{title}\n\n{NOTE}\n{''.join(parts)}"


def _without_files(text: str) -> str:
    text = _PICTURE.sub(lambda found: f"*{found['text']}*", text)
    return _LINK.sub(_named, text)


def _named(found: re.Match[str]) -> str:
    text, path = found["text"], found["path"]
    return text if text.strip("`") == path else f"{text} (`{path}`)"
