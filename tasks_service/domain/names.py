"""Names of tasks and sessions: ids, which are secrets of their owners, and the short names that all may see.

An id ends with a tag of its owner. So whoever names a task or a session of somebody else is answered without
looking whether there is one, and learns nothing by the time that takes.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from secrets import token_urlsafe

from .task import Owner

HASH_BYTES = 9
"""Bytes of the hash in a task's name."""

SHARD_DIGITS = 2
"""A task's id and its name begin with the number of its shard, in this many hex digits."""

TASK_ID_BYTES = 18
"""Random bytes in a task id: 144 bits."""

SESSION_ID_BYTES = 24
"""Random bytes in a session's id: 192 bits."""

OWNER_TAG_BYTES = 3
"""Bytes of the owner's tag behind them. One id in 16 million has that of another by chance."""

_TAG_DIGITS = OWNER_TAG_BYTES * 4 // 3
_TASK_ID_DIGITS = SHARD_DIGITS + (TASK_ID_BYTES + OWNER_TAG_BYTES) * 4 // 3
_SESSION_ID_DIGITS = (SESSION_ID_BYTES + OWNER_TAG_BYTES) * 4 // 3

_NAME = re.compile(rf"[0-9a-f]{{{SHARD_DIGITS + 2 * HASH_BYTES}}}")
_SHARD = re.compile(rf"[0-9a-f]{{{SHARD_DIGITS}}}")


@lru_cache(maxsize=4096)  # every key and every message is made of it, a dozen times in one transition
def task_hash(reference: str) -> str:
    """The short name of a task: its shard, then a hash of its id, in lower-case hex.

    Keys, index entries, messages, logs and Flower show it. It leads to the record, and tells nobody the id.

    Args:
        reference: The task's id, or its name, which stays what it is; a name may carry the `.<claim>` with
            which Celery shows it. Any other text is an id that no task has, and gets the name of none.
    """
    if is_name(reference):
        return _bare(reference)
    shard = reference[:SHARD_DIGITS]
    digest = blake2b(reference.encode(errors="replace"), digest_size=HASH_BYTES).hexdigest()
    return (shard if _SHARD.fullmatch(shard) else "0" * SHARD_DIGITS) + digest


def is_name(reference: str) -> bool:
    """Whether a reference is a task's name, with or without the `.<claim>` behind it, and not an id."""
    return _NAME.fullmatch(_bare(reference)) is not None


def _bare(reference: str) -> str:
    return reference.partition(".")[0]


def shard_of_owner(owner: Owner, shards: int) -> int:
    """The shard that holds all tasks of an owner, so that one transaction can change them together."""
    return int.from_bytes(blake2b(owner.encode(), digest_size=4).digest()) % shards


def new_task_id(owner: Owner, shards: int = 1) -> str:
    """Draw a task id: the owner's shard in hex, then 144 random bits, then the owner's tag.

    Args:
        owner: Whose task it will be.
        shards: How many shards the store has.
    """
    return f"{shard_of_owner(owner, shards):0{SHARD_DIGITS}x}{_drawn(owner, TASK_ID_BYTES)}"


def new_session_id(owner: Owner) -> str:
    """Draw a session's id: 192 random bits, then the owner's tag."""
    return _drawn(owner, SESSION_ID_BYTES)


def is_task_of(task_id: str, owner: Owner) -> bool | None:
    """Whether a task can be an owner's; None: its id does not say, as one of an earlier release does not."""
    return _has_tag(task_id[SHARD_DIGITS:], owner) if len(task_id) == _TASK_ID_DIGITS else None


def is_session_of(session_id: str, owner: Owner) -> bool | None:
    """Whether a session can be an owner's; None as of `is_task_of`."""
    return _has_tag(session_id, owner) if len(session_id) == _SESSION_ID_DIGITS else None


def _drawn(owner: Owner, random_bytes: int) -> str:
    random = token_urlsafe(random_bytes)
    return random + _owner_tag(random, owner)


@lru_cache(maxsize=4096)  # each poll asks
def _has_tag(token: str, owner: Owner) -> bool:
    return token[-_TAG_DIGITS:] == _owner_tag(token[:-_TAG_DIGITS], owner)


def _owner_tag(random: str, owner: Owner) -> str:
    digest = blake2b(f"{random}:{owner}".encode(errors="replace"), digest_size=OWNER_TAG_BYTES)
    return urlsafe_b64encode(digest.digest()).decode()
