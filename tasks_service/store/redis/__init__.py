"""Tasks in Redis.

Start with `transaction`, the one loop that every transition goes through. `layout` names the keys and `codec`
writes a record. `transitions` says what each event reads and writes, `reads` what clients and operators look
up, `sweeps` what sweeps look up and note. All are programs; `blocking` and `asynchronous` drive them.
"""

from .asynchronous import AsyncRedisTaskStore
from .blocking import RedisTaskStore
from .memory_guard import refused_work
from .permissions import Role
from .refusals import refusal_of

__all__ = ["AsyncRedisTaskStore", "RedisTaskStore", "Role", "refusal_of", "refused_work"]
