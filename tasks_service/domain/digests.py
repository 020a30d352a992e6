"""Hashes that stand for a text or a request: by them a repetition is told from another request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY_BYTES = 128
"""Longest idempotency key, in bytes of UTF-8."""


def digest(text: str) -> str:
    """A hash of a text, of 128 bits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def request_digest(name: str, arguments: Mapping[str, Any]) -> str:
    """A hash of a call, whatever the order of its arguments.

    Args:
        name: The name of the tool or prompt.
        arguments: Its arguments, as JSON has them.
    """
    return digest(json.dumps([name, arguments], sort_keys=True, ensure_ascii=False))
