"""Tasks in Redis.

Start with `transaction`, the one loop that every transition goes through. `layout` names the keys and `codec`
writes a record. `transitions` says what each event reads and writes, `reads` what clients and operators look
up, `sweeps` what sweeps look up and note. All are programs; `blocking` and `asynchronous` drive them.
"""

from typing import TYPE_CHECKING, Any

from .blocking import RedisTaskStore
from .memory_guard import CREATES_UNTIL, refused_work
from .permissions import Role
from .refusals import refusal_of

if TYPE_CHECKING:
    from .asynchronous import AsyncRedisTaskStore

__all__ = ["CREATES_UNTIL", "AsyncRedisTaskStore", "RedisTaskStore", "Role", "refusal_of", "refused_work"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name != "AsyncRedisTaskStore":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Not at the top: workers and commands need none of it.
        from .asynchronous import AsyncRedisTaskStore

        return AsyncRedisTaskStore
