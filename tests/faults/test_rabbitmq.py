"""RabbitMQ killed, frozen and impatient, and workers killed under it: no task is lost or run for nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.task import TaskStatus
from tests.kit.audit import audit, told
from tests.kit.rabbitmq import RabbitServer, require_rabbitmq
from tests.kit.servers import RedisServer
from tests.kit.tls import Authority, TlsProxy
from tests.kit.waiting import wait_until
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of, worker_node

pytestmark = pytest.mark.faults

IMPATIENT = "[{rabbit, [{consumer_timeout, 3000}, {channel_tick_interval, 1000}]}]."
"""A consumer has three seconds to acknowledge a message, and is looked at each second."""


class Bench(NamedTuple):
    """A store, a broker, a client, and what starts workers."""

    store: RedisServer
    broker: RabbitServer
    client: Client
    start_worker: Callable[[str], CeleryTestWorker]


@contextmanager
def bench(advanced: str = "[].") -> Iterator[Bench]:
    """All of it; audited at the end."""
    require_rabbitmq()
    store, broker, nodes = RedisServer(), RabbitServer(advanced=advanced), []

    def start(name: str) -> CeleryTestWorker:
        node = worker_node(store.url, name=name, TASKS_BROKER_URL=broker.url)
        nodes.append(node)
        assert node.ready(), node.logs()
        return node

    try:
        with client_of(service, store.url, broker.url) as client:
            yield Bench(store, broker, client, start)
        for node in nodes:
            node.teardown()  # first: an audit reads one key after another, while nobody writes
        violations = audit(store.url)
        assert not violations, told(violations)
    finally:
        for node in nodes:
            node.teardown()
        broker.close()
        store.close()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_broker_that_is_killed_while_tasks_run_costs_none_of_them_an_attempt(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    with bench() as (_, broker, client, start):
        start("one")
        tasks = []
        for number in range(2):
            runs, go = str(tmp_path / f"runs{number}"), str(tmp_path / "go")
            tasks.append(client.call("run_until", runs=runs, told=go))
        for task in tasks:
            client.running(task)
        waiting = [client.call("add", x=n, y=n) for n in range(50)]
        broker.kill()
        broker.start()
        began = time.monotonic()
        (tmp_path / "go").touch()
        for task in (*tasks, *waiting):
            assert client.ended(task, timeout=180).task.status is TaskStatus.COMPLETED
        for number, task in enumerate(tasks):
            assert lines(tmp_path / f"runs{number}") == 1
            assert client.record(task).task.claims == 1
        measured(
            "RabbitMQ", f"killed under 2 tasks, 50 waiting: all done in {time.monotonic() - began:.1f} s"
        )


def test_a_killed_workers_task_runs_elsewhere(tmp_path: Path, measured: Callable[[str, str], None]) -> None:
    with bench() as (_, _, client, start):
        first = start("first")
        arguments = {"runs": str(tmp_path / "runs"), "told": str(tmp_path / "go")}
        task = client.call("run_until", **arguments)
        client.running(task)
        start("second")
        os.killpg(int(first.container.id), signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: lines(tmp_path / "runs") == 2)
        measured("RabbitMQ", f"a killed worker's task ran elsewhere after {time.monotonic() - killed:.1f} s")
        (tmp_path / "go").touch()
        assert client.ended(task).task.status is TaskStatus.COMPLETED


def test_a_frozen_broker_stops_neither_sweeps_nor_clients(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    with bench() as (_, broker, client, start):
        start("one")
        arguments = {"runs": str(tmp_path / "runs"), "told": str(tmp_path / "go")}
        running = client.call("run_until", **arguments)
        client.running(running)
        broker.send(signal.SIGSTOP)
        try:
            slowest, longest, until = 0.0, 0.0, time.monotonic() + 20
            while time.monotonic() < until:
                began = time.monotonic()
                task = client.call("add", x=1, y=2)
                slowest = max(slowest, time.monotonic() - began)
                longest = max(longest, client.store.last_sweep_ms() or 0)
                time.sleep(0.2)
        finally:
            broker.send(signal.SIGCONT)
        # A lease has to be found lost in time: ten seconds, and a sweep.
        assert longest < 5_000
        assert slowest < 1.0
        measured("RabbitMQ", f"frozen for 20 s: creates within {slowest:.3f} s, a sweep each {longest} ms")
        (tmp_path / "go").touch()
        assert client.ended(running).task.claims == 1
        assert client.ended(task, timeout=180).task.status is TaskStatus.COMPLETED


def test_a_tool_that_outlasts_the_consumer_timeout_runs_once_and_its_worker_goes_on(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    with bench(IMPATIENT) as (_, _, client, start):
        worker = start("one")
        arguments = {"runs": str(tmp_path / "runs"), "told": str(tmp_path / "go")}
        task = client.call("run_until", **arguments)
        client.running(task)
        wait_until(lambda: "delivery acknowledgement" in worker.logs(), worker.logs, seconds=90)
        other = client.call("add", x=1, y=2)
        assert client.ended(other, timeout=120).task.status is TaskStatus.COMPLETED
        (tmp_path / "go").touch()
        ended = client.ended(task).task
        assert (ended.status, ended.claims) == (TaskStatus.COMPLETED, 1)
        assert lines(tmp_path / "runs") == 1
        assert client.run("add", timeout=120, x=1, y=2).task.status is TaskStatus.COMPLETED
        measured("RabbitMQ", "consumer_timeout passed while a tool ran: it ran once, the worker went on")


def test_messages_go_over_tls_to_a_broker_that_can_be_trusted_and_to_no_other(tmp_path: Path) -> None:
    with bench() as (store, broker, _, _):
        ca = Authority(tmp_path)
        proxy = TlsProxy(broker.port, ca.issue())
        login = f"amqps://guest:guest@127.0.0.1:{proxy.port}//"
        trusting = f"{login}?ssl_ca_certs={ca.file}"
        worker = worker_node(store.url, name="amqps", TASKS_BROKER_URL=trusting)
        try:
            assert worker.ready(), worker.logs()
            with client_of(service, store.url, trusting) as client:
                assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED
            with client_of(service, store.url, login) as wary:
                assert wary.outbox.queue_length("tasks") is None
        finally:
            worker.teardown()
            proxy.close()
