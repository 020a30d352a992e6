"""What Redis's user `default` may do, with whose rights Redis 7.0 reads its append-only file.

Transactions in the file of which that user may not run a command are left out when Redis starts, although the
file has them. Valkey 9 does not do so.
"""

from __future__ import annotations

from collections.abc import Iterator

import redis
from redis.exceptions import NoPermissionError, RedisError

from ..addresses.redis import Kind, parse_address
from ..store.findings import Finding, Severity

AFFECTED = "7.0."
"""The versions of which it is known."""


def restart_losses(url: str) -> Iterator[Finding]:
    """Find whether a single Redis would lose transactions at its next start.

    Args:
        url: Of Redis, with the login of a user who may ask for `INFO`.
    """
    address = parse_address(url)
    if address.kind is not Kind.SINGLE or address.user == "default" or not _is_affected(address.single):
        return
    with redis.Redis.from_url(address.single) as nobody:
        nobody.connection_pool.connection_kwargs.update(username=None, password=None)
        try:
            nobody.execute_command("MULTI")
        except NoPermissionError:
            yield Finding(
                severity=Severity.ERROR,
                what="Redis will lose tasks when it is restarted: it reads its append-only file with the "
                "rights of the user default, who may not run transactions.",
                fix="Before it is restarted, put into its ACL file: user default off resetpass allkeys "
                'allchannels allcommands (docs/guide-operators.md, "Who may do what in Redis").',
            )
        except RedisError:
            return  # whoever does not log in is refused, and not for want of rights


def _is_affected(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return str(client.info("server")["redis_version"]).startswith(AFFECTED)
    except RedisError:
        return False  # what is wrong with it has been told
