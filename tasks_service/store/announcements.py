"""What is announced to every front end beside the changes of tasks: that a list or a resource is another now.

Announcements travel as wake-ups do: by name, on the channel of changes, and are kept nowhere. One that gets
lost is not made up for: clients may read again whenever they like.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum


class Listed(StrEnum):
    """What clients keep lists of."""

    TOOLS = "tools"
    PROMPTS = "prompts"
    RESOURCES = "resources"


def list_name(listed: Listed) -> str:
    """What is woken when a list has changed."""
    return f"list:{listed}"


def resource_name(uri: str) -> str:
    """What is woken when a resource has changed; of the same length for every URI."""
    return f"resource:{hashlib.blake2b(uri.encode(errors='replace'), digest_size=16).hexdigest()}"
