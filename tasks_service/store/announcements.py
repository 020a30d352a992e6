"""The names under which every front end is told that a list or a resource has changed.

Announcements go over the channel of changes and are not stored. One that is lost is not repeated: clients may
read again whenever they like.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum


class Listed(StrEnum):
    """The lists that clients keep."""

    TOOLS = "tools"
    PROMPTS = "prompts"
    RESOURCES = "resources"


def list_name(listed: Listed) -> str:
    """The name to wake when a list has changed."""
    return f"list:{listed}"


def resource_name(uri: str) -> str:
    """The name to wake when a resource has changed; of the same length for every URI."""
    return f"resource:{hashlib.blake2b(uri.encode(errors='replace'), digest_size=16).hexdigest()}"
