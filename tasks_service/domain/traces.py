"""The W3C trace context of a call: recorded with its task, and understood by nobody here."""

from __future__ import annotations

import re

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def is_trace_parent(text: object) -> bool:
    """Whether this is a `traceparent` as W3C Trace Context has it."""
    return isinstance(text, str) and _TRACE_PARENT.fullmatch(text) is not None


def trace_id(trace_parent: str) -> str:
    """The id of the trace that a well-formed trace parent belongs to; empty if it belongs to none."""
    return trace_parent[3:35] if len(trace_parent) >= 35 else ""
