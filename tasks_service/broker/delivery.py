"""Where the workers of a service take their messages from, as far as a front end needs to be told.

A front end without the service's app has a broker of its own settings. What it cannot know from them is the
prefix that the app puts in front of its queues' keys in Redis. What must agree, and is found out only here,
is the kind of the broker and the database or virtual host: otherwise calls would wait for ever. Hosts are not
compared, since one has many names; nor users, who differ by what they may do. Queues need not be known: the
workers have declared them, and messages go to a queue by its name.
"""

from __future__ import annotations

from celery import Celery

from ..addresses.broker import AMQP_SCHEMES, REDIS_SCHEMES, listed, redis_server
from ..addresses.encryption import split
from ..store.registry import Delivery


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


def consumed_delivery(app: Celery) -> Delivery:
    """Where the workers of an app take messages from by its settings; of several brokers, the first."""
    return delivery_of(app, listed(app.conf.broker_read_url or app.conf.broker_url))


def _place(broker_url: str, master_name: str) -> tuple[str, str]:
    first = broker_url.partition(";")[0]
    parts = split(first)
    scheme = parts.scheme.partition("+")[0]
    if scheme in REDIS_SCHEMES:
        # Sentinels are listed, all of one master; of other servers that are listed, one is the broker.
        server = redis_server(broker_url if scheme == "sentinel" else first, master_name=master_name)
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
        f"its workers take messages from {_told(theirs)}, and this front end sends them to {_told(ours)}. "
        "Set TASKS_BROKER_URL of the front end to the broker of the workers' Celery app"
    )


def _told(delivery: Delivery) -> str:
    if delivery.transport == "redis":
        return f"database {delivery.virtual_host} of a Redis"
    return f"{delivery.transport}, virtual host {delivery.virtual_host!r}"
