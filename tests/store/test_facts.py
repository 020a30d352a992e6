"""What metrics say of a store: how many tasks are where, and which has waited longest for a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, closing
from typing import Any

import pytest

from tasks_service.domain.events import (
    Claim,
    CompleteWithResult,
    Question,
    Redispatch,
    RequestInput,
    Sleep,
)
from tasks_service.domain.limits import Limits
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import HOUR, MINUTE, JsonText, Owner, Task
from tasks_service.store.facts import StoreFacts
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tests.kit.factories import ALICE, BOB, RESULT, Clock, RecordingOutbox, creation

SHARDS = 4


def facts_of(url: str, clock: Clock) -> StoreFacts:
    """As a front end reads them."""

    async def read() -> StoreFacts:
        async with aclosing(AsyncRedisTaskStore(url, shards=SHARDS, clock=clock, deadline=60.0)) as store:
            return await store.facts()

    return asyncio.run(read())


@pytest.mark.parametrize("where", ["redis", "cluster-of-three"])
def test_each_task_is_counted_where_it_is_and_the_longest_wait_is_told(
    store_url: Callable[[str], str], where: str
) -> None:
    url, clock = store_url(where), Clock()
    limits = Limits(running_per_owner={"shared": 1})
    outbox = RecordingOutbox(in_store=False)
    with closing(
        RedisTaskStore(url, shards=SHARDS, limits=limits, outbox=outbox, clock=clock, deadline=60.0)
    ) as store:

        def create(owner: Owner, queue: str) -> Task:
            return store.create(creation(owner, queue=queue, task_id=new_task_id(owner, SHARDS))).task

        def run(owner: Owner, queue: str, *events: Any) -> None:
            task = create(owner, queue)
            store.claim(task.task_id, Claim(lease_id="l", worker="w"))
            for event in events:
                store.commit(task.task_id, event)

        question = Question(request=JsonText('{"kind":"form"}'))
        oldest = create(ALICE, "plain")
        clock.pass_ms(MINUTE)
        # Its message is newer now than those of tasks that came after it; it has waited longest all the same.
        store.apply_sweep(oldest.task_id, Redispatch())
        create(BOB, "plain")
        run(ALICE, "plain")
        run(ALICE, "plain", RequestInput(lease_id="l", inputs={"q": question}))
        run(BOB, "plain", Sleep(lease_id="l", delay_ms=HOUR))
        run(BOB, "plain", CompleteWithResult(lease_id="l", result=RESULT))
        run(BOB, "shared")
        create(BOB, "shared")
        clock.pass_ms(3_000)
        found = facts_of(url, clock)
    assert (found.running, found.sleeping, found.parked, found.waiting, found.ended) == (2, 1, 1, 1, 1)
    assert found.pending == {"plain": 2, "shared": 0}
    assert found.oldest_ms == {"plain": MINUTE + 3_000, "shared": 0}
