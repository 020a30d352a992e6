"""Tasks in Redis.

`layout` names the keys, `codec` writes a record, `transaction` is the one loop, `operations` says what each
operation reads and writes, and two faces, blocking and asyncio, drive it.
"""

from .asynchronous import AsyncRedisTaskStore
from .blocking import RedisTaskStore
from .memory_guard import refused_work
from .permissions import Role

__all__ = ["AsyncRedisTaskStore", "RedisTaskStore", "Role", "refused_work"]
