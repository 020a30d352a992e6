"""Nobody needs a script in Redis: also a worker on an app with kombu's own transport does without."""

from __future__ import annotations

import json
import time
from pathlib import Path

from celery import Celery

from tasks_service.broker.message import celery_id
from tasks_service.broker.scriptless import make_scriptless
from tasks_service.domain.task import TaskStatus
from tests.e2e.roles import GuardedRedis, Process
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.workers import client_of

from .scripted_shop import service

WORKER = [
    *("celery", "-A", "tests.security.scripted_shop", "worker", "--pool", "threads", "--concurrency", "2"),
    *("-Q", "tasks,acme", "--without-mingle", "--hostname", "worker@shop", "--loglevel", "INFO"),
]


def test_a_worker_on_an_app_of_a_shop_restores_messages_without_a_script(tmp_path: Path) -> None:
    server = GuardedRedis(tmp_path)
    with server.client() as admin:
        admin.acl_log_reset()
        admin.config_resetstat()
    worker = Process(server.url_of("worker"), "worker", WORKER)
    try:
        with client_of(service, server.url_of("worker")) as client, server.client() as admin:
            task = client.call("draw", path=str(tmp_path / "drawn"))
            (raw,) = admin.lrange("ts:mq:tasks", 0, -1)
            admin.delete("ts:mq:tasks")
            # As if another worker had it, and was lost.
            tag = json.loads(raw)["properties"]["delivery_tag"]
            admin.hset("ts:mq:unacked", tag, json.dumps([json.loads(raw), "", "tasks"]))
            admin.zadd("ts:mq:unacked_index", {tag: time.time() - 60})
            assert worker.ready(), worker.logs()
            assert client.ended(task).task.status is TaskStatus.COMPLETED
            assert celery_id(task) in worker.logs(), "it was that very message"
            wait_until(lambda: not admin.hlen("ts:mq:unacked"), worker.logs)
            ran = {name for name in admin.info("commandstats") if "eval" in name or "script" in name}
        assert ran == set()
        assert server.denied() == []
    finally:
        worker.teardown()
        server.close()


def test_bindings_are_kept_while_somebody_refreshes_them_and_forgotten_then(
    redis_server: RedisServer,
) -> None:
    app = Celery("any", broker=redis_server.url, set_as_current=False)
    with app.connection_for_write() as connection, redis_server.client() as admin:
        channel = connection.default_channel
        if not hasattr(channel, "sweep_bindings"):
            return  # kombu before 5.7 keeps bindings for ever, and runs no script for them
        make_scriptless(channel)
        for name, expires in (("fleeting", 10.0), ("lasting", None)):
            channel.exchange_declare(exchange=name, type="direct")
            arguments = {} if expires is None else {"x-expires": 10_000}
            channel.queue_declare(queue=f"q {name}", arguments=arguments)
            channel.queue_bind(queue=f"q {name}", exchange=name, routing_key="r")
        assert admin.smembers("_kombu.binding.fleeting")
        assert channel.sweep_bindings() == 0

        admin.zadd("_kombu.binding_deadlines", {"fleeting": 1, "lasting": 1})
        assert channel.sweep_bindings() == 2

        assert not admin.exists("_kombu.binding.fleeting")
        assert admin.exists("_kombu.binding.lasting"), "a queue belongs to it for good"
        assert not admin.exists("_kombu.binding_deadlines")
        for key in admin.keys("_kombu.*"):
            admin.delete(key)
