"""Waiting for one task: read it, act on what it is, wait until it may have changed, and read it again.

What is done with each state is the business of whoever waits: a plain call only wants the end or a question,
a stream of 2025-11-25 also reports and asks meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from ...domain.errors import InvalidTransition, StoreUnavailable
from ...domain.events import CallerReturned
from ...domain.names import task_hash
from ...domain.task import Owner, Task, TaskStatus
from ...store.clients import AsyncClientStore, TaskView
from .change_feed import ChangeFeed
from .reports import Reporting

logger = logging.getLogger(__name__)

Look = Callable[[Task], Awaitable[float | None]]
"""Acts on a state of the task; the seconds until it must be looked at again, woken or not; None: enough."""


async def watch_task(
    store: AsyncClientStore,
    feed: ChangeFeed,
    owner: Owner,
    task_id: str,
    look: Look,
    *,
    reporting: Reporting | None,
    hidden: bool = True,
) -> TaskView:
    """Follow a task until it is enough; the caller limits the time.

    An outage of the store is waited for: it does not affect the execution. If another caller of the same
    execution has left, the task is told that somebody waits. All that the tool said before a state other than
    `working` has been handed on when that state is looked at.

    Args:
        store: Where the task is.
        feed: Says when it changes.
        owner: Whose it is.
        task_id: Which.
        look: Called with each state that is read.
        reporting: Takes what the tool says meanwhile.
        hidden: Whether it may be a task whose handle nobody has.

    Returns:
        The task as `look` saw it last.

    Raises:
        TaskNotFound: Unknown, foreign or expired.
    """
    # Registered before the first read, so that no change falls between.
    with feed.watch(task_hash(task_id)) as waiter, feed.subscribe_reports(task_id, reporting):
        while True:
            pause: float | None = feed.timings.retry
            try:
                view = await store.get(owner, task_id, hidden=hidden)
            except StoreUnavailable as error:
                logger.warning("Whoever waits for a task cannot read it for now: %s", error)
            else:
                await _stay(store, view.task)
                if view.task.status is not TaskStatus.WORKING:
                    await feed.catch_up(view.task)
                pause = await look(view.task)
            if pause is None:
                return view
            await waiter.changed(pause)


async def _stay(store: AsyncClientStore, task: Task) -> None:
    """Say that somebody waits, if another caller of the same execution has left."""
    if not task.return_by_ms or task.status.is_final:
        return
    try:
        await store.apply(task.owner, task.task_id, CallerReturned(), hidden=True)
    except InvalidTransition:
        return
    except StoreUnavailable as error:
        logger.warning("Whoever waits for a task cannot write to it for now: %s", error)
