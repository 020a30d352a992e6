"""What clients meet when Redis goes back to an earlier truth, takes no writes for a while, or stalls."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tasks_service.domain.events import CompleteWithResult
from tasks_service.domain.task import EntryKind, JsonText
from tasks_service.durable.questions import Form
from tests.kit.audit import audit, told
from tests.kit.forgetting import ForgetfulServer
from tests.kit.hand_worker import Worker, asked
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient, Stream, is_request
from tests.kit.store_adapter import counts
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until
from tests.kit.wire import WITHOUT_TASKS, WireClient

KEY = "io.github.tasks-service/idempotency-key"
ACCEPTED = {"action": "accept", "content": {"name": "Ada"}}
NAME = {"type": "object", "properties": {"name": {"type": "string"}}}


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


TOOLS = registry(greet)
ADA = {"name": "Ada"}


@pytest.fixture
def port(server: ForgetfulServer, tmp_path: Path) -> Iterator[int]:
    """A front end on it; what is in Redis at the end is sound."""
    with serving(TOOLS, settings(server.url, tmp_path, store_deadline=1.0)) as port:
        yield port
    assert not (found := audit(server.url)), told(found)


@pytest.fixture
def client(port: int) -> Iterator[WireClient]:
    with WireClient(port) as client:
        yield client


@pytest.fixture
def worker(server: ForgetfulServer) -> Iterator[Worker]:
    worker = Worker(server.url, TOOLS)
    yield worker
    worker.close()


def question(text: str) -> Any:
    return {"who": asked(Form(text, NAME))}


# --- an earlier truth --------------------------------------------------------------------------------------


def test_a_handle_whose_task_was_forgotten_is_not_found_and_its_key_makes_the_task_anew(
    server: ForgetfulServer, client: WireClient, worker: Worker
) -> None:
    position = server.position()
    forgotten = client.task("greet", ADA, meta={KEY: "mine"})
    server.forget_since(position)

    error = client.request("tasks/get", {"taskId": forgotten}).error
    anew = client.task("greet", ADA, meta={KEY: "mine"})
    worker.run(anew)

    assert (error["code"], error["message"]) == (-32602, "Task not found")
    assert anew != forgotten
    assert client.get(anew)["status"] == "completed"
    assert client.task("greet", ADA, meta={KEY: "mine"}) == anew


def test_a_question_whose_answer_was_forgotten_is_open_again_and_can_be_answered_again(
    server: ForgetfulServer, client: WireClient, worker: Worker
) -> None:
    task_id = client.task("greet", ADA)
    worker.ask(task_id, question("Your name?"))
    position = server.position()
    assert "result" in client.update(task_id, {"who": ACCEPTED}).json
    server.forget_since(position)

    assert client.get(task_id)["status"] == "input_required"
    assert "result" in client.update(task_id, {"who": ACCEPTED}).json

    assert client.get(task_id)["status"] == "working"
    journal = worker.store.inspect(task_id).journal
    assert [(entry.kind, entry.name) for entry in journal] == [(EntryKind.ANSWER, "who")]


def test_a_stream_tells_a_revision_again_that_was_given_out_again(
    server: ForgetfulServer, client: WireClient, worker: Worker
) -> None:
    task_id = client.task("greet", ADA)
    stream = _listening(client, task_id)
    position = server.position()
    worker.ask(task_id, question("The first?"))
    _tells(stream, "The first?")
    server.forget_since(position)

    worker.ask(task_id, question("The second?"))

    _tells(stream, "The second?")
    stream.close()


def _listening(client: WireClient, task_id: str) -> Stream:
    params: dict[str, Any] = {"notifications": {"taskIds": [task_id]}}
    body = json.dumps(client.message("subscriptions/listen", params)).encode()
    return Stream(client.port, "POST", body, client.headers("subscriptions/listen", params))


def _tells(stream: Stream, text: str) -> None:
    tells = is_request("notifications/tasks")
    stream.find(lambda message: tells(message) and text in str(message["params"].get("inputRequests")))


def test_a_call_whose_execution_was_forgotten_is_told_to_call_again(
    server: ForgetfulServer, port: int, worker: Worker
) -> None:
    position = server.position()
    with WireClient(port, capabilities=WITHOUT_TASKS) as plain, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(plain.call, "greet", ADA)
        wait_until(worker.pending, "the call is recorded")
        server.forget_since(position)

        error = reply.result(60).error

    assert error["code"] == -32603
    assert "has lost this call" in error["message"]
    assert error["data"]["retryAfterMs"] > 0


def test_a_call_in_a_session_whose_execution_was_forgotten_is_told_to_call_again(
    server: ForgetfulServer, port: int, worker: Worker
) -> None:
    with SessionClient([port]) as session:
        session.initialize()
        position = server.position()
        stream = session.open("tools/call", {"name": "greet", "arguments": ADA})
        wait_until(worker.pending, "the call is recorded")
        server.forget_since(position)

        answer = stream.find(lambda message: "error" in message)

    assert answer["error"]["code"] == -32603
    assert "has lost this call" in answer["error"]["message"]


# --- a Redis that takes no writes --------------------------------------------------------------------------


@contextmanager
def without_replicas(server: ForgetfulServer) -> Iterator[None]:
    """A master that is cut off from its replicas, and may be the old one."""
    with server.client() as redis:
        redis.config_set("min-replicas-to-write", 1)
        yield
        redis.config_set("min-replicas-to-write", 0)


@contextmanager
def as_a_replica(server: ForgetfulServer) -> Iterator[None]:
    """A master that was told that another one is."""
    with server.client() as redis:
        redis.replicaof("127.0.0.1", server.port)
        yield
        redis.replicaof("NO", "ONE")


@contextmanager
def loading(server: ForgetfulServer) -> Iterator[None]:
    """A server that has begun to read its file, and has much to read."""
    slowly = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    with server.client() as redis:
        # While it reads a base it answers, with an error; while it reads what was written since, seldom.
        redis.bgrewriteaof()
        wait_until(lambda: not redis.info("persistence")["aof_rewrite_in_progress"], "there is a base")
        server.kill()
        server.options, quick = (*server.options, *slowly), server.options
        starting = threading.Thread(target=server.start)
        starting.start()
        wait_until(lambda: _loads(redis), "it loads")
        yield
        assert _loads(redis), "it was too quick"
    starting.join(60)
    server.options = quick


def _loads(redis: Any) -> bool:
    with suppress(Exception):
        return bool(redis.info("persistence")["loading"])
    return False


@pytest.mark.parametrize("state", [without_replicas, as_a_replica, loading])
def test_what_redis_does_not_take_for_now_is_refused_to_be_tried_again_and_nothing_is_written(
    server: ForgetfulServer, client: WireClient, worker: Worker, state: Callable[[ForgetfulServer], Any]
) -> None:
    cancelled, answered = client.task("greet", ADA), client.task("greet", ADA)
    worker.ask(answered, question("Your name?"))
    for _ in range(60):
        client.task("greet", ADA)
    before = {task_id: worker.store.inspect(task_id) for task_id in ids_of(worker.store)}

    with state(server):
        refused = [
            client.call("greet", ADA, meta={KEY: "mine"}),
            client.update(answered, {"who": ACCEPTED}),
            client.request("tasks/cancel", {"taskId": cancelled}),
        ]

    for reply in refused:
        assert reply.error["code"] == -32603
        assert reply.error["message"].endswith("; try again later")
        assert reply.error["data"]["retryAfterMs"] > 0
        assert reply.error["data"]["mayHaveBeenRecorded"] is False
    assert {task_id: worker.store.inspect(task_id) for task_id in ids_of(worker.store)} == before
    created = client.task("greet", ADA, meta={KEY: "mine"})
    assert client.task("greet", ADA, meta={KEY: "mine"}) == created
    assert "result" in client.update(answered, {"who": ACCEPTED}).json


def test_an_outcome_that_a_master_without_replicas_refuses_is_written_once_when_it_has_some(
    server: ForgetfulServer, client: WireClient, worker: Worker
) -> None:
    task_id = client.task("greet", ADA)
    lease = worker.claim(task_id)[0].lease
    assert lease is not None
    done = CompleteWithResult(lease_id=lease.lease_id, result=JsonText('{"content":[]}'))
    with ThreadPoolExecutor(1) as pool:
        with without_replicas(server):
            committing = pool.submit(worker.store.commit, task_id, done)
            time.sleep(0.5)
            assert not committing.done()
            assert client.get(task_id)["status"] == "working"
        committing.result(60)
    assert client.get(task_id)["status"] == "completed"
    assert [line.target for line in worker.store.inspect(task_id).log] == ["pending", "running", "completed"]


def stall(server: ForgetfulServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(server.process.pid, signal.SIGCONT)


def cut_everybody_off(server: ForgetfulServer) -> None:
    with server.client() as redis:
        for _ in range(30):
            for kind in ("normal", "pubsub"):
                redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            time.sleep(0.02)


@pytest.mark.parametrize("harm", [stall, cut_everybody_off])
def test_a_redis_that_stands_still_or_cuts_everybody_off_doubles_nothing(
    server: ForgetfulServer, client: WireClient, worker: Worker, harm: Callable[[ForgetfulServer], None]
) -> None:
    over, made, statuses = threading.Event(), dict[str, set[str]](), set[int]()

    def call() -> None:
        """Again and again, each time with a new key, until it is taken."""
        with WireClient(client.port) as mine:
            while not over.is_set():
                key = f"{len(made)}"
                made[key] = set()
                while not made[key]:
                    with suppress(http.client.HTTPException, OSError):
                        reply = mine.call("greet", ADA, meta={KEY: key})
                        statuses.add(reply.status)
                        if "result" in reply.json:
                            made[key].add(reply.result["taskId"])

    thread = threading.Thread(target=call)
    worker.start()
    thread.start()
    harm(server)
    over.set()
    thread.join(60)

    assert 500 not in statuses
    stored = {record.task.idempotency: record for record in map(worker.store.inspect, ids_of(worker.store))}
    assert len(stored) == len(made) == len(list(ids_of(worker.store)))
    for key, task_ids in made.items():
        assert task_ids == {client.task("greet", ADA, meta={KEY: key})}
    wait_until(lambda: counts(worker.store).live == 0, "all have ended")
