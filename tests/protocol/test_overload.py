"""More clients than a front end can serve: whoever is refused is told so, and has nothing recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tests.kit.hand_worker import Worker
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.serving import serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.store_adapter import counts
from tests.kit.wire import Reply, WireClient

CLIENTS = 60
PACKET_SECONDS = 0.03


@pytest.fixture
def proxy(redis_url: str) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(int(redis_url.rpartition(":")[2].partition("/")[0]))
    yield proxy
    proxy.close()


@pytest.fixture
def port(proxy: CuttingProxy, tools: ToolRegistry, tmp_path: Path) -> Iterator[int]:
    """A front end with two connections, and half a second for each request."""
    with serving(tools, settings(proxy.url, tmp_path, pool=2, store_deadline=0.5)) as port:
        yield port


def slowly(_: bytes) -> Verdict:
    time.sleep(PACKET_SECONDS)
    return Verdict.PASS


def test_overload_is_refused_by_its_name_before_anything_is_recorded(
    port: int, proxy: CuttingProxy, worker: Worker
) -> None:
    def create(_: int) -> Reply:
        with WireClient(port) as client:
            return client.call("greet", {"name": "Ada"})

    proxy.judge = slowly
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(create, range(CLIENTS)))

    refused = [reply for reply in replies if "error" in reply.json]
    # On a machine that is busy itself, an answer may take longer than anybody waits.
    unknown = [reply for reply in refused if reply.error["data"]["mayHaveBeenRecorded"]]
    unrecorded = [reply for reply in refused if reply not in unknown]
    overloaded = [reply for reply in unrecorded if "reason" in reply.error["data"]]
    accepted = CLIENTS - len(refused)
    assert accepted > 0
    assert overloaded
    for reply in overloaded:
        assert reply.status == 503, reply.json
        assert int(reply.headers["retry-after"]) >= 1
        assert "too much to do; nothing was recorded" in reply.error["message"]
        assert reply.error["data"]["reason"] == "overloaded"
    for reply in refused:
        assert reply in overloaded or "nothing was recorded" not in reply.error["message"]
    assert accepted <= counts(worker.store).total <= accepted + len(unknown)


def test_overload_in_sessions_is_a_503_too(port: int, proxy: CuttingProxy) -> None:
    with SessionClient([port]) as session, ThreadPoolExecutor(CLIENTS) as pool:
        session.initialize()
        proxy.judge = slowly
        message = {"jsonrpc": "2.0", "id": 1, "method": "tasks/list"}
        replies = list(pool.map(lambda _: session.post(message), range(CLIENTS)))

    assert {reply.status for reply in replies} == {200, 503}
    for reply in replies:
        assert reply.status == 200 or int(reply.headers["retry-after"]) >= 1


def test_a_call_whose_record_was_not_acknowledged_may_have_been_recorded_and_says_so(
    port: int, proxy: CuttingProxy, worker: Worker
) -> None:
    with WireClient(port) as client:
        proxy.cut_exec(Verdict.SILENT_AFTER)
        error = client.call("greet", {"name": "Ada"}).error

    assert error["data"]["mayHaveBeenRecorded"] is True
    assert "idempotency key" in error["message"]
    assert counts(worker.store).total == 1
