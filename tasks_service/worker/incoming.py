"""The bootstep of a worker's consumer that has each message judged before Celery runs it.

On Redis what a queue holds is judged before kombu makes a message of it (`broker.guard`). Other transports
hand out messages only, which are judged then. What still raises in Celery's own handler is dropped as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from itertools import count
from typing import Any

from celery import Celery, bootsteps, signals
from celery.worker.consumer.gossip import Gossip
from kombu.transport import redis as kombu_redis

from ..authoring.tool import ToolRegistry
from ..broker.app import MAINTENANCE_QUEUE
from ..broker.guard import guard
from ..broker.incoming import Sender, problem_of, problem_of_message
from ..broker.signature import MessageSigner
from .celery_tasks import ToolTask
from .engine import Engine
from .maintenance.schedule import CELERY_TASKS
from .queues import queues_of_shop

logger = logging.getLogger(__name__)

BUILT_IN_PREFIX = "celery."
"""What the names of the tasks begin with that Celery gives every app: groups, chords, chains and the like."""

UNSAFE_CONTENTS = frozenset(("pickle", "application/x-python-serialize"))
"""What runs code when it is read, as `accept_content` names it."""

_BEATS = frozenset(CELERY_TASKS.values())
_NUMBERS = count(1)

_HOSTILE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What Celery's handler raises over a message that is not what it expects."""


class MessageInspector:
    """Judges what the workers of an app read; implements `broker.guard.Inspector`.

    Args:
        app: Ours, or a shop's.
        tools: The tools.
        drop: Counts what is dropped: from which queue, and why.
        owns_app: Whether the app is ours, so that its queues are ours alone.
        signer: Makes what verifies signatures; None: none is asked for.
    """

    def __init__(
        self,
        app: Celery,
        tools: ToolRegistry,
        drop: Callable[[str, str], None],
        *,
        owns_app: bool,
        signer: Callable[[], MessageSigner | None] = lambda: None,
    ) -> None:
        self._app, self._tools, self._drop, self._owns_app = app, tools, drop, owns_app
        self._make_signer = signer

    @cached_property
    def _signer(self) -> MessageSigner | None:
        return self._make_signer()

    def sender_of(self, name: str) -> Sender:
        """Whose task a name is."""
        if name in _BEATS:
            return Sender.BEAT
        if name.startswith(BUILT_IN_PREFIX):
            return Sender.BUILT_IN
        task = self._app.tasks.get(name)
        if task is None:
            return Sender.UNKNOWN
        return Sender.TOOL if isinstance(task, ToolTask) else Sender.OTHER

    def queues(self) -> list[str]:
        """See `Inspector.queues`."""
        return list(self._app.amqp.queues.consume_from)

    def is_alone(self, queue: str) -> bool:
        """See `Inspector.is_alone`: on a shop's app, a queue of ours that its configuration does not name."""
        if self._owns_app:
            return True
        ours = {MAINTENANCE_QUEUE, *(tool.definition.queue for tool in self._tools.values())}
        return queue in ours and queue not in self._shop

    @cached_property
    def _shop(self) -> frozenset[str]:
        """Looked up once, when the first message is judged: the app has all of its tasks by then."""
        return queues_of_shop(self._app)

    def admits(self, queue: str, raw: bytes) -> bool:
        """See `Inspector.admits`."""
        problem = problem_of(
            raw, self.sender_of, alone=self.is_alone(queue), queue=queue, signer=self._signer
        )
        if problem is not None:
            self.dropped(queue, problem)
        return problem is None

    def unpacks(self, queue: str, name: Any) -> bool:
        """See `Inspector.unpacks`: what is ours, or nobody's, is never compressed."""
        sender = self.sender_of(name) if isinstance(name, str) else Sender.UNKNOWN
        return sender is Sender.OTHER or (
            sender not in (Sender.TOOL, Sender.BEAT) and not self.is_alone(queue)
        )

    def dropped(self, queue: str, problem: str) -> None:
        """See `Inspector.dropped`."""
        self._drop(queue, problem)

    def handler(self, handle: Callable[[Any], Any], consumer: Any) -> Callable[[Any], Any]:
        """Celery's handler of messages, with a judgement before it, and for whatever it cannot handle."""

        def queue_of(message: Any) -> str:
            return str((message.delivery_info or {}).get("routing_key") or "")

        def drop(message: Any, problem: str) -> None:
            self.dropped(queue_of(message), problem)
            message.reject_log_error(logger, consumer.connection_errors)
            signals.task_rejected.send(sender=consumer, message=message, exc=None)

        def handle_or_drop(message: Any) -> Any:
            if not isinstance(message.channel, kombu_redis.Channel):
                queue = queue_of(message)
                problem = problem_of_message(
                    message, self.sender_of, alone=self.is_alone(queue), queue=queue, signer=self._signer
                )
                if problem is not None:
                    return drop(message, problem)
            try:
                return handle(message)
            except _HOSTILE as error:
                if message.acknowledged or not self._is_ours(message):
                    raise
                return drop(message, f"Celery cannot handle it ({type(error).__name__}: {error})")

        return handle_or_drop

    def _is_ours(self, message: Any) -> bool:
        name = message.headers.get("task") if isinstance(message.headers, dict) else None
        return self._owns_app or (
            isinstance(name, str) and self.sender_of(name) in (Sender.TOOL, Sender.BEAT)
        )


def unsafe_contents(app: Celery) -> list[str]:
    """What an app accepts of messages that run code when they are read."""
    return sorted(UNSAFE_CONTENTS.intersection(app.conf.accept_content or ()))


def guard_messages(app: Celery, engine: Engine, tools: ToolRegistry, *, owns_app: bool) -> None:
    """Have the workers of an app judge what they read; nothing happens in other processes."""
    inspector = MessageInspector(
        app,
        tools,
        lambda queue, problem: engine.dropped.add(queue, problem),
        owns_app=owns_app,
        signer=lambda: engine.signer,
    )
    app.steps["consumer"].add(_step(inspector))


def _drop_what_is_no_event(consumer: Any, inspector: MessageInspector) -> None:
    """Have events of other workers dropped that cannot be read, with any broker: they would end this one."""
    gossip = consumer.gossip
    hear, get_consumers = gossip.on_message, gossip.get_consumers

    def drop(_: Any, error: Exception) -> None:
        inspector.dropped("", f"it is no event of a worker ({type(error).__name__})")

    def hear_or_drop(prepare: Any, message: Any) -> None:
        try:
            hear(prepare, message)
        except consumer.connection_errors + consumer.channel_errors:
            raise
        except Exception as error:
            drop(message, error)

    def get_dropping_consumers(channel: Any) -> Any:
        consumers = get_consumers(channel)
        for listener in consumers:
            listener.on_decode_error = drop
        return consumers

    gossip.on_message, gossip.get_consumers = hear_or_drop, get_dropping_consumers


def _step(inspector: MessageInspector) -> type[Any]:
    class GuardedMessages(bootsteps.Step):  # type: ignore[misc]
        """Guards each connection that the consumer makes, and the handler of its messages."""

        name = f"tasks-service-messages-{next(_NUMBERS)}"
        requires = (Gossip,)

        def __init__(self, consumer: Any, **options: Any) -> None:
            super().__init__(consumer, **options)
            _drop_what_is_no_event(consumer, inspector)
            connect, create_handler = consumer.connection_for_read, consumer.create_task_handler

            def connection_for_read(*args: Any, **options: Any) -> Any:
                connection = connect(*args, **options)
                guard(connection.transport, inspector)
                return connection

            def create_task_handler(*args: Any, **options: Any) -> Callable[[Any], Any]:
                return inspector.handler(create_handler(*args, **options), consumer)

            consumer.connection_for_read = connection_for_read
            consumer.create_task_handler = create_task_handler

    return GuardedMessages
