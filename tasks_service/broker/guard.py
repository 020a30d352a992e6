"""The guard of a transport: it looks at what is read before kombu does, and keeps the worker alive.

kombu takes whatever a queue holds for a message, and what stands in its bookkeeping for its own; whatever is
something else raises in the worker's event loop and ends it. The guard replaces methods of one connection's
channels, and of no class: so it works as well on the app of a shop, whose other connections stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from queue import Empty
from typing import Any, Protocol

from kombu.transport import pyamqp
from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import ResponseError

from .scriptless import Scriptless, make_scriptless
from .transport import UNREADABLE

logger = logging.getLogger(__name__)


class Inspector(Protocol):
    """Judges what is read, and counts what is dropped."""

    def admits(self, queue: str, raw: bytes) -> bool:
        """Whether a worker may have what a queue held; what it may not have is counted as dropped."""

    def unpacks(self, queue: str, name: Any) -> bool:
        """Whether a compressed message may be unpacked, to whatever size, before it is judged."""

    def queues(self) -> Iterable[str]:
        """The queues that the worker takes messages from."""

    def is_alone(self, queue: str) -> bool:
        """Whether nobody else uses a queue."""

    def dropped(self, queue: str, problem: str) -> None:
        """Something was dropped that was no message."""


def guard(transport: Any, inspector: Inspector) -> None:
    """Guard a connection's transport, if it is one of Redis or AMQP; once, however often it is asked for.

    Args:
        transport: The transport of the connection that a worker consumes from.
        inspector: Judges what is read.
    """
    if isinstance(transport, pyamqp.Transport) and "create_channel" not in vars(transport):
        _guard_amqp(transport, inspector)
    if not isinstance(transport, kombu_redis.Transport) or "_deliver" in vars(transport):
        return
    for channel in transport.channels:
        _guard_channel(channel, inspector)
        _mend_keys(channel, inspector)
    create, deliver = transport.create_channel, transport._deliver

    def create_channel(connection: Any) -> Any:
        channel = create(connection)
        _guard_channel(channel, inspector)
        return channel

    def deliver_or_drop(message: Any, queue: str) -> None:
        """Remote control and events of other workers; what comes from a queue has been judged."""
        if not any(queue in channel.active_fanout_queues for channel in transport.channels):
            deliver(message, queue)
            return
        try:
            deliver(message, queue)
        except (*transport.connection_errors, *transport.channel_errors):
            raise
        except Exception as error:  # of any class: also bodies are decoded here, by whatever they name
            inspector.dropped(queue, f"{type(error).__name__}: {error}")

    transport.create_channel, transport._deliver = create_channel, deliver_or_drop
    transport.dropped = inspector.dropped  # our own transports drop by themselves what they cannot deliver


def _guard_amqp(transport: Any, inspector: Inspector) -> None:
    """Keep kombu from unpacking what is compressed while it makes an object of it."""
    create = transport.create_channel

    def create_channel(connection: Any) -> Any:
        channel = create(connection)
        convert = channel.message_to_python

        def message_to_python(raw: Any) -> Any:
            headers = raw.properties.get("application_headers") or {}
            queue = str((raw.delivery_info or {}).get("routing_key") or "")
            if headers.get("compression") is None or inspector.unpacks(queue, headers.get("task")):
                return convert(raw)
            compression = headers.pop("compression")
            message = convert(raw)
            message.headers["compression"] = compression
            return message

        channel.message_to_python = message_to_python
        return channel

    transport.create_channel = create_channel


def _guard_channel(channel: Any, inspector: Inspector) -> None:
    if "restore_by_tag" in vars(channel.qos):
        return
    channel.handlers = {**channel.handlers, "BRPOP": _guarded_read(channel, inspector)}
    channel._receive_one = _guarded_listening(channel._receive_one, inspector)
    if not isinstance(channel, Scriptless):
        make_scriptless(channel)
    qos = channel.qos
    qos.restore_by_tag = _guarded_restore(channel, qos.restore_by_tag, inspector)
    qos.restore_visible = _mended(channel, qos.restore_visible, inspector)
    qos.append = _mended(channel, qos.append, inspector)
    qos.ack = _mended(channel, qos.ack, inspector)


def _guarded_read(channel: Any, inspector: Inspector) -> Callable[[], Any]:
    """Reading the next message: one that is not admitted is as if there was none."""
    read = channel.handlers["BRPOP"]

    def read_admitted() -> Any:
        client = channel.client
        if "parse_response" not in vars(client):
            client.parse_response = _admitted(channel, client.parse_response, inspector)
        try:
            return read()
        except ResponseError as error:
            if not (_is_wrong_type(error) and _mend_keys(channel, inspector)):
                raise
            raise Empty from None

    return read_admitted


def _guarded_listening(read: Callable[[Any], Any], inspector: Inspector) -> Callable[[Any], Any]:
    """Reading remote control and events: one that cannot even be read is as if there was none.

    It goes round the reading of one, not of all that have arrived: else those behind it would wait, unread,
    for the next that comes.
    """

    def read_or_drop(client: Any) -> Any:
        try:
            return read(client)
        except (Empty, *UNREADABLE) as error:
            inspector.dropped("", f"it was published and cannot be read ({type(error).__name__})")
            return None

    return read_or_drop


def _admitted(channel: Any, parse: Callable[..., Any], inspector: Inspector) -> Callable[..., Any]:
    def parse_admitted(connection: Any, command_name: str, **options: Any) -> Any:
        reply = parse(connection, command_name, **options)
        if command_name == "BRPOP" and reply:
            key, raw = reply
            queue = bytes_to_str(key).rsplit(channel.sep, 1)[0]
            return reply if inspector.admits(queue, raw) else None
        return reply

    return parse_admitted


def _guarded_restore(channel: Any, restore: Callable[..., Any], inspector: Inspector) -> Callable[..., Any]:
    """Putting back a message that a lost worker had; one that cannot be read is forgotten."""

    def restore_or_drop(tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            restore(tag, client=client, leftmost=leftmost)
        except UNREADABLE as error:
            channel.qos._remove_from_indices(tag).execute()
            inspector.dropped("", f"a message of a lost worker cannot be read ({type(error).__name__})")

    return restore_or_drop


def _mended(channel: Any, act: Callable[..., Any], inspector: Inspector) -> Callable[..., Any]:
    """The same, tried again if one of kombu's keys was of a wrong type and has been removed."""

    def act_again(*args: Any, **options: Any) -> Any:
        try:
            return act(*args, **options)
        except ResponseError as error:
            if not (_is_wrong_type(error) and _mend_keys(channel, inspector)):
                raise
            return act(*args, **options)

    return act_again


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def _mend_keys(channel: Any, inspector: Inspector) -> bool:
    """Remove the keys of a wrong type that stand where kombu keeps its own; whether there were any."""
    kept = list(_kept_keys(channel, inspector))
    with channel.conn_or_acquire() as client:
        pipe = client.pipeline(transaction=False)
        for command, key, _ in kept:
            pipe.execute_command(*command[:1], key, *command[1:])
        replies = pipe.execute(raise_on_error=False)
        wrong = [
            (key, queue)
            for (_, key, queue), reply in zip(kept, replies, strict=True)
            if _is_wrong_type(reply)
        ]
        for key, queue in wrong:
            client.delete(key)
            inspector.dropped(queue, f"the key {key!r} was of a wrong type")
    return bool(wrong)


def _kept_keys(channel: Any, inspector: Inspector) -> Iterable[tuple[tuple[Any, ...], str, str]]:
    """The keys that a channel uses, each with a command that only its type takes, and with its queue."""
    yield ("HGET", ""), channel.unacked_key, ""
    # Removes nothing. Of the commands that only read it, kombu prefixes another one in each release.
    yield ("ZREM", ""), channel.unacked_index_key, ""
    for queue in inspector.queues():
        if inspector.is_alone(queue):
            yield ("SMEMBERS",), channel.keyprefix_queue % queue, queue
            for priority in channel.priority_steps:
                yield ("LLEN",), channel._q_for_pri(queue, priority), queue
