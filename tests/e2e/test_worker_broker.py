"""A broker of its own, apart from the store: it may be away, and it may lose everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from pytest_celery import CeleryTestWorker

from tasks_service.broker.guard import guard
from tasks_service.broker.transport import KeptClientConnection
from tasks_service.domain.task import Phase, TaskStatus
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of, worker_node


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The sockets of two servers; in a short path, as the system wants them."""
    servers = []
    with TemporaryDirectory(prefix="s") as directory:
        paths = Path(directory) / "store", Path(directory) / "broker"
        for path in paths:
            servers.append(RedisServer("--unixsocket", str(path)))
        yield paths
        for server in servers:
            server.close()


@contextmanager
def apart() -> Iterator[tuple[RedisServer, RedisServer, Client, CeleryTestWorker]]:
    """A store, a broker, a client and a worker."""
    store, broker = RedisServer(), RedisServer()
    worker = worker_node(store.url, name="apart", TASKS_BROKER_URL=broker.url)
    try:
        assert worker.ready(), worker.logs()
        with client_of(service, store.url, broker.url) as client:
            yield store, broker, client, worker
    finally:
        worker.teardown()
        store.close()
        broker.close()


def test_messages_reach_workers_over_a_broker_that_is_not_the_store() -> None:
    with apart() as (_, _, client, _):
        assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED


@pytest.mark.parametrize(
    ("store_url", "broker_url"),
    [
        ("unix://{store}?db=1", ""),
        ("unix://{store}", "redis+socket://{broker}"),
        ("unix://{store}?db=2", "unix://{broker}?db=3"),
    ],
    ids=["one for both", "as Celery writes it", "as redis-py writes it"],
)
def test_store_and_broker_may_be_reached_over_unix_sockets(
    sockets: tuple[Path, Path], store_url: str, broker_url: str
) -> None:
    store, broker = sockets
    store_url = store_url.format(store=store)
    broker_url = broker_url.format(broker=broker) or store_url
    worker = worker_node(store_url, pool="solo", TASKS_BROKER_URL=broker_url)
    try:
        assert worker.ready(), worker.logs()
        with client_of(service, store_url, broker_url) as client:
            assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED
    finally:
        worker.teardown()


def test_a_task_that_was_created_while_the_broker_was_down_runs_when_it_is_back() -> None:
    with apart() as (_, broker, client, _):
        client.run("add", x=1, y=2)
        broker.kill()
        task = client.call("add", x=2, y=3)
        assert client.view(task).task.phase is Phase.PENDING
        broker.start()
        # A message is made again after 60 s at the latest, and the worker has to find the broker, too.
        assert client.ended(task, timeout=180).task.status is TaskStatus.COMPLETED


def test_a_broker_that_lost_every_message_costs_a_few_sweeps_and_no_task() -> None:
    with apart() as (_, broker, client, worker):
        tasks = [client.call("add", x=n, y=n) for n in range(5)]
        worker.kill("SIGSTOP")
        tasks += [client.call("add", x=n, y=n) for n in range(5)]
        with broker.client() as admin:
            wait_until(lambda: admin.dbsize() > 0)
            admin.flushall()
        worker.kill("SIGCONT")
        for task in tasks:
            assert client.ended(task).task.status is TaskStatus.COMPLETED


def test_a_channel_whose_connection_was_given_up_says_so_with_an_error_that_celery_survives(
    redis_url: str,
) -> None:
    connection = KeptClientConnection(redis_url)
    closed, collected = connection.channel(), connection.channel()
    closed.close()
    connection.transport.client = None  # as `collect` leaves it, when Redis is gone
    for channel in (closed, collected):
        with pytest.raises(connection.connection_errors), channel.conn_or_acquire():
            pass


SOUND = json.dumps(
    {
        "body": '"heard"',
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"delivery_tag": "x", "delivery_info": {"exchange": "orders", "routing_key": ""}},
    }
)
"""A message as kombu publishes it."""


class Judge:
    """Admits everything, and counts nothing: for connections of a shop's, which workers guard."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def admits(self, queue: str, raw: bytes) -> bool:
        return True

    def unpacks(self, queue: str, name: object) -> bool:
        return True

    def queues(self) -> list[str]:
        return []

    def is_alone(self, queue: str) -> bool:
        return False

    def dropped(self, queue: str, problem: str) -> None:
        self.problems.append(problem)


@pytest.mark.parametrize("is_ours", [True, False], ids=["our transport", "a guarded one of a shop"])
def test_what_is_published_behind_something_that_cannot_be_read_is_heard_at_once(
    redis_server: RedisServer, redis_url: str, is_ours: bool
) -> None:
    judge, heard = Judge(), []
    with (KeptClientConnection if is_ours else Connection)(redis_url) as connection:
        if not is_ours:
            guard(connection.transport, judge)
        exchange = Exchange("orders", type="fanout")
        queue = Queue("of one", exchange, auto_delete=True)
        hear = [lambda body, _: heard.append(body)]
        with Consumer(connection.channel(), [queue], callbacks=hear, no_ack=True):
            with redis_server.client() as admin:

                def listens() -> bool:
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.01)
                    return bool(admin.pubsub_numpat())

                wait_until(listens)
                with admin.pipeline() as at_once:
                    for raw in (*["not JSON"] * 3, "[" * 100_000, SOUND, "not JSON", "not JSON", SOUND):
                        at_once.publish("/0.orders", raw)
                    at_once.execute()
            with suppress(TimeoutError):
                while len(heard) < 2:
                    connection.drain_events(timeout=5)
    assert heard == ["heard"] * 2
    assert is_ours or len(judge.problems) == 6
