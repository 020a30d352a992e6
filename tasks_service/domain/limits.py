"""The limits: sizes, depths and quotas. What exceeds a size or depth is refused here, a quota in `decide`.

Every store, front end and worker uses these, so that no limit differs between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import LimitExceeded, NotJson
from .task import JsonText

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

BLOCK_BYTES = 4 * KIB
"""In what pieces it is counted what is stored of a task: its payloads, and room for the record itself, are
rounded up to the next of them."""

OTHER_QUEUES = "*"
"""The key that stands for every queue that is not named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes, depths and quotas. Sizes are bytes of UTF-8 JSON text.

    Attributes:
        arguments_bytes: Arguments of one call.
        argument_values: Values in the arguments of one call: members of objects and items of arrays.
        result_bytes: Result of one task.
        variables_bytes: All variables of one task together.
        status_message_bytes: A status or progress message; longer ones are truncated, not refused.
        answers_bytes: All answers of one `answer_input`.
        journal_bytes: All journal entries of one task together.
        journal_entries: Journal entries of one task.
        open_inputs: Questions of one task that are open at once.
        depth: Nesting of any JSON that is stored.
        live_per_owner: Tasks of one owner that are not final.
        stored_per_owner: What is stored of all tasks of one owner, until they are removed: arguments,
            results, variables and journals, in blocks of `BLOCK_BYTES`. A create that would exceed it is
            refused. What a task that was accepted adds to it counts, and is never refused.
        tasks_per_shard: Tasks that are stored in the shard of their owner, ended ones included until they are
            removed; may be exceeded by the creates in flight.
        traceback_bytes: A traceback that is kept for operators; longer ones lose their middle.
        log_entries: Entries kept of a task's transition log.
        running_per_owner: How many tasks of one owner may run from a queue at a time, by queue or
            `OTHER_QUEUES`; further ones wait for a slot, and are not refused.
    """

    arguments_bytes: int = MIB
    argument_values: int = 10_000
    result_bytes: int = MIB
    variables_bytes: int = 64 * KIB
    status_message_bytes: int = KIB
    answers_bytes: int = 64 * KIB
    journal_bytes: int = 4 * MIB
    journal_entries: int = 10_000
    open_inputs: int = 64
    depth: int = 64
    live_per_owner: int = 10_000
    stored_per_owner: int = GIB
    tasks_per_shard: int = 2_000_000
    traceback_bytes: int = 16 * KIB
    log_entries: int = 64
    running_per_owner: Mapping[str, int] = field(default_factory=dict)

    def concurrency_limit(self, queue: str) -> int | None:
        """The number of tasks of one owner that may run from a queue at a time; None: no limit."""
        slots = self.running_per_owner
        return slots.get(queue, slots.get(OTHER_QUEUES)) if slots else None


DEFAULT_LIMITS = Limits()


def size(text: str) -> int:
    """The size of a text in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def check_size(what: str, text: str, maximum: int) -> None:
    """Refuse a text over `maximum` bytes.

    Raises:
        LimitExceeded: It is larger.
    """
    if (actual := size(text)) > maximum:
        raise LimitExceeded(what, maximum=maximum, actual=actual, unit="bytes")


def to_json(what: str, value: Any, *, maximum: int, depth: int = DEFAULT_LIMITS.depth) -> JsonText:
    """Write a value as strict JSON text within the limits.

    Args:
        what: The name of the value, for the error: "arguments", "result".
        value: A value of dict, list, str, int, float, bool and None.
        maximum: Largest size in bytes.
        depth: Deepest nesting.

    Raises:
        NotJson: NaN, an infinity, a lone surrogate, or a type that JSON does not have.
        LimitExceeded: Too large or too deep.
    """
    check_depth(what, value, depth)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        actual = len(text.encode())
    except UnicodeEncodeError as error:
        raise NotJson(what, "it contains a lone surrogate, which is not valid Unicode") from error
    except ValueError as error:
        raise NotJson(what, "NaN and Infinity are not JSON numbers") from error
    except TypeError as error:
        raise NotJson(what, str(error)) from error
    if actual > maximum:
        raise LimitExceeded(what, maximum=maximum, actual=actual, unit="bytes")
    return JsonText(text)


_CONTAINERS = (dict, list, tuple)  # a union would be made anew for each of ten thousand values


def check_depth(what: str, value: Any, maximum: int) -> None:
    """Refuse nesting deeper than `maximum`; works without recursion.

    Raises:
        LimitExceeded: Nested too deeply.
    """
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(maximum + 1):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, _CONTAINERS)
        ]
        if not level:
            return
    raise LimitExceeded(what, maximum=maximum, actual=maximum + 1, unit="levels of nesting")


def valid_text(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which cannot be sent or stored."""
    return text.encode(errors="replace").decode()


def truncate(text: str, maximum: int) -> str:
    """Shorten a message for people to `maximum` bytes, at a character boundary, with an ellipsis."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= maximum:
        return encoded.decode()
    return encoded[: maximum - 3].decode(errors="ignore") + "…"


LEFT_OUT = "\n[...]\n"
"""What stands in a text for its middle."""


def truncate_middle(text: str, maximum: int) -> str:
    """Shorten a text to `maximum` bytes by its middle, at character boundaries; more of its end is kept."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= maximum:
        return encoded.decode()
    kept = maximum - len(LEFT_OUT)
    head = encoded[: kept // 4].decode(errors="ignore")
    return head + LEFT_OUT + encoded[-(kept - kept // 4) :].decode(errors="ignore")
