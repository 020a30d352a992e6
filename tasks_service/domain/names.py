"""Names of tasks: their ids, and the short hashes that logs, Celery and Flower show."""

from __future__ import annotations

from hashlib import blake2b
from secrets import token_urlsafe

from .task import Owner

HASH_BYTES = 9
"""Bytes of the hash that names a task in logs, Celery and Flower."""


def task_hash(task_id: str) -> str:
    """A short name of a task for logs, Celery and Flower; the id itself is its owner's secret."""
    return blake2b(task_id.encode(), digest_size=HASH_BYTES).hexdigest()


SHARD_DIGITS = 2
"""Hex digits of the shard's number, with which a task id begins."""


TASK_ID_BYTES = 18
"""Random bytes in a task id: 144 bits."""


def shard_of_owner(owner: Owner, shards: int) -> int:
    """The shard that holds all tasks of an owner, so that one transaction can change them together."""
    return int.from_bytes(blake2b(owner.encode(), digest_size=4).digest()) % shards


def new_task_id(owner: Owner, shards: int = 1) -> str:
    """Draw a task id: the owner's shard in hex, then 144 random bits.

    Args:
        owner: Whose task it will be.
        shards: How many shards the store has.
    """
    return f"{shard_of_owner(owner, shards):0{SHARD_DIGITS}x}{token_urlsafe(TASK_ID_BYTES)}"
