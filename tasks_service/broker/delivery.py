"""Where the workers of a service take their messages from, as far as a front end needs to be told.

A front end without the service's app has a broker of its own settings. What it cannot know from them is the
prefix that the app puts in front of its queues' keys in Redis. What must agree, and is found out only here,
is the kind of the broker and the database or virtual host: otherwise calls would wait for ever. Hosts are not
compared, since one has many names; nor users, who differ by what they may do. Queues need not be known: the
workers have declared them, and messages go to a queue by its name.
"""

from __future__ import annotations

from typing import NamedTuple

from celery import Celery

from ..addresses.broker import AMQP_SCHEMES, REDIS_SCHEMES, redis_server
from ..addresses.encryption import split


class Delivery(NamedTuple):
    """Where messages must go.

    Attributes:
        transport: The kind of the broker: `redis`, `amqp`, or kombu's name of another one. Empty: not known.
        virtual_host: The virtual host, or the number of the database.
        key_prefix: What stands in front of the names of queues, where they are keys in Redis.
    """

    transport: str = ""
    virtual_host: str = ""
    key_prefix: str = ""

    def __str__(self) -> str:
        if self.transport == "redis":
            return f"database {self.virtual_host} of a Redis"
        return f"{self.transport}, virtual host {self.virtual_host!r}"


def delivery_of(app: Celery, broker_url: str) -> Delivery:
    """Where the workers of an app take messages from.

    Args:
        app: The Celery app.
        broker_url: Its broker, in kombu's form.
    """
    options = app.conf.broker_transport_options or {}
    transport, virtual_host = _place(broker_url, str(options.get("master_name", "")))
    prefix = str(options.get("global_keyprefix", "")) if transport == "redis" else ""
    return Delivery(transport, virtual_host, prefix)


def _place(broker_url: str, master_name: str) -> tuple[str, str]:
    first = broker_url.partition(";")[0]
    parts = split(first)
    scheme = parts.scheme.partition("+")[0]
    if scheme in REDIS_SCHEMES:
        server = redis_server(broker_url, master_name=master_name)
        return "redis", str(0 if server is None else server.database)
    if scheme in AMQP_SCHEMES:
        return "amqp", parts.path[1:] or "/"
    return scheme, parts.path.strip("/")


def disagreement(theirs: Delivery, ours: Delivery) -> str | None:
    """Why messages that are sent to one place do not reach workers at another, and what to do; None: they do.

    Args:
        theirs: Where workers take messages from; of an older release, not known.
        ours: Where a front end sends them.
    """
    if not theirs.transport or theirs[:2] == ours[:2]:
        return None
    return (
        f"its workers take messages from {theirs}, and this front end sends them to {ours}: set "
        "TASKS_BROKER_URL of the front end to the broker of the workers' Celery app"
    )
