"""What the audit, and the look that follows every test, find."""

from __future__ import annotations

import pytest

from tasks_service.domain.names import task_hash
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import keys_without_end
from tests.kit.factories import creation
from tests.kit.servers import RedisServer


@pytest.mark.damages
def test_a_key_that_nobody_owns_or_that_never_ends_is_found_and_those_of_others_are_not(
    redis_server: RedisServer, redis_url: str
) -> None:
    store = RedisTaskStore(redis_url)
    task = store.create(creation()).task
    store.close()
    with redis_server.client() as client:
        client.set("celery", "a broker's own")
        client.set("ts:mq:tasks", "our broker's")
        assert keys_without_end(redis_url) == []
        client.set("ts:surprise", "of no known kind", ex=60)
        key = f"ts:{{00}}:t:{task_hash(task.task_id)}"
        client.persist(key)
        found = {violation.what for violation in keys_without_end(redis_url)}
    assert found == {
        f"{key}: it has no lifetime",
        "ts:surprise: of no known kind",
    }


def test_a_server_that_does_not_answer_has_no_keys_to_complain_about() -> None:
    assert keys_without_end("redis://127.0.0.1:1/0") == []
