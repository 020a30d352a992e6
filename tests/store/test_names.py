"""Tasks by their names: what operators see leads to the record, and no key tells an id."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tasks_service.cli import commands
from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import Cancel, Claim
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import Phase, new_token
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import ALICE, creation
from tests.kit.servers import RedisServer


@pytest.fixture
def store(redis_url: str, sound_store: None) -> RedisTaskStore:
    return RedisTaskStore(redis_url)


def test_no_key_and_no_index_holds_an_id(store: RedisTaskStore, redis_server: RedisServer) -> None:
    task_id = store.create(creation(idempotency="k", request_digest="d")).task.task_id
    store.claim(task_id, Claim(lease_id=new_token(), worker="w"))
    with redis_server.client() as client:
        keys = list(client.scan_iter())
        assert not [key for key in keys if task_id in key]
        sets = [key for key in keys if client.type(key) == "zset"]
        assert not [key for key in sets if task_id in client.zrange(key, 0, -1)]
        assert not client.sismember(f"ts:{{00}}:live:{ALICE}", task_id)


def test_a_name_with_or_without_a_claim_leads_operators_and_workers_to_the_task(
    store: RedisTaskStore,
) -> None:
    task_id = store.create(creation()).task.task_id
    name = task_hash(task_id)
    assert list(store.task_names()) == [name]
    for reference in (name, f"{name}.1", task_id):
        assert store.inspect(reference).task.task_id == task_id
        assert store.index_problems(reference) == []
    claimed = store.claim(f"{name}.1", Claim(lease_id=new_token(), worker="w"))
    assert claimed.task.task_id == task_id


def test_a_name_leads_no_client_to_a_task(store: RedisTaskStore) -> None:
    name = task_hash(store.create(creation()).task.task_id)
    with pytest.raises(TaskNotFound):
        store.get(ALICE, name, hidden=True)
    with pytest.raises(TaskNotFound):
        store.apply(ALICE, name, Cancel(), hidden=True)


@pytest.mark.parametrize("behind", ["", ".7"])
def test_commands_take_the_name_that_logs_and_flower_show(
    store: RedisTaskStore, redis_url: str, behind: str
) -> None:
    task_id = store.create(creation()).task.task_id
    store.create(creation())
    name, run = task_hash(task_id) + behind, CliRunner(env={"TASKS_REDIS_URL": redis_url})

    listed = run.invoke(commands, ["list", "--json", name])
    shown = run.invoke(commands, ["inspect", "--json", name])
    cancelled = run.invoke(commands, ["cancel", name])

    assert [row["task_id"] for row in json.loads(listed.stdout)] == [task_id]
    assert json.loads(shown.stdout)["task"]["task_id"] == task_id
    assert cancelled.exit_code == 0, cancelled.output
    assert store.inspect(task_id).task.phase is Phase.CANCELLED
