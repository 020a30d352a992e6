"""A tool's result for people: its text, and its images in files."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from mcp_types import CallToolResult, ImageContent, TextContent


def readable_text(result: CallToolResult) -> str:
    """The text of a result: its structured content as JSON, but a text as it is; else its texts."""
    if isinstance(result.structured_content, str):
        return result.structured_content
    if result.structured_content is not None and not result.is_error:
        return json.dumps(result.structured_content, indent=2, ensure_ascii=False)
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def save(result: CallToolResult, name: str, output: Path | None) -> list[Path]:
    """Write a result's images to files; if it has none, and `output` is given, its text.

    Args:
        result: The result of a tool.
        name: The base of the files' names if there is no `output`; then no existing file is overwritten.
        output: The file for the first image; further files get a number.

    Returns:
        The files written.
    """
    images = [block for block in result.content if isinstance(block, ImageContent)]
    if not images and output is not None:
        output.write_text(readable_text(result) + "\n")
        return [output]
    written = []
    for number, image in enumerate(images):
        path = _numbered(output, number) if output is not None else _unused(name, image.mime_type)
        path.write_bytes(base64.b64decode(image.data))
        written.append(path)
    return written


def _numbered(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_stem(f"{path.stem}-{number + 1}")


def _unused(name: str, mime_type: str) -> Path:
    return next(path for path in _names(name, mime_type) if not path.exists())


def _names(name: str, mime_type: str) -> Iterator[Path]:
    suffix = mimetypes.guess_extension(mime_type) or ".bin"
    yield Path(f"{name}{suffix}")
    for number in count(2):
        yield Path(f"{name}-{number}{suffix}")
