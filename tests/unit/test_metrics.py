"""What is counted, how children hand it on, and who may read it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest
from pydantic import ValidationError

from tasks_service.domain.decide import Applied, Replayed, decide
from tasks_service.domain.errors import ConfigurationError
from tasks_service.domain.events import Claim, CompleteWithResult, Create, Event, Reap, Release, Retry
from tasks_service.domain.task import JsonText, LogEntry, Owner, Policy, Task
from tasks_service.metrics import series
from tasks_service.metrics.address import Address
from tasks_service.metrics.children import ChildCounts
from tasks_service.metrics.counting import MOST, OTHER, Counter, Role, turn_off, turn_on
from tasks_service.metrics.process import ProcessMetrics
from tasks_service.metrics.series import SERIES, LeaseLoss, Outcome
from tasks_service.metrics.task_events import count_event, count_replayed
from tasks_service.settings import Settings
from tasks_service.unsafe_settings import metrics_address
from tests.kit.metrics import counted_from_zero, metrics_port, scrape
from tests.kit.waiting import wait_until

KEY = "a-key-for-prometheus-7d1"
OF_TOOL = ("acme", "render")


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    """Count, from zero."""
    with counted_from_zero():
        yield


class Life:
    """A task that events happen to, at times of the test's choice."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.log: list[LogEntry] = []

    def meets(self, event: Event, at_ms: int) -> Applied:
        before = self.task
        applied = decide(before, event, at_ms, log=self.log)
        assert isinstance(applied, Applied), applied
        count_event(event, before, applied, sends=False)
        self.task, self.log = applied.task, [*self.log, *applied.log]
        return applied


def create() -> Create:
    return Create(
        task_id="00" + "a" * 24,
        owner=Owner("o"),
        tool="render",
        queue="q",
        service="acme",
        arguments=JsonText("{}"),
        policy=Policy(max_attempts=3),
    )


def claim() -> Claim:
    return Claim(lease_id="l", worker="w")


def done() -> CompleteWithResult:
    return CompleteWithResult(lease_id="l", result=JsonText("{}"))


def durations(histogram: series.Histogram) -> tuple[float, float]:
    """How many there are, and their sum."""
    numbers = histogram.cells().get(OF_TOOL, [0.0, 0.0])
    return sum(numbers[:-1]), numbers[-1]


def test_a_task_is_counted_with_the_times_that_it_waited_ran_and_took() -> None:
    life = Life()
    life.meets(create(), 10_000)
    life.meets(claim(), 12_000)
    life.meets(done(), 15_000)
    assert series.CREATED.value(*OF_TOOL) == 1
    assert series.FINISHED.value(*OF_TOOL, Outcome.COMPLETED) == 1
    assert durations(series.WAITING) == (1, 2)
    assert durations(series.RUNNING) == (1, 3)
    assert durations(series.DURATION) == (1, 5)


def test_waiting_for_the_next_attempt_begins_when_it_is_due() -> None:
    life = Life()
    life.meets(create(), 0)
    life.meets(claim(), 0)
    life.meets(Retry(lease_id="l", delay_ms=60_000, otherwise=done()), 1_000)
    life.meets(claim(), 63_000)
    assert series.RETRIES.value(*OF_TOOL) == 1
    assert durations(series.WAITING) == (2, 2)


def test_a_lost_worker_is_counted_by_how_that_was_found() -> None:
    life = Life()
    life.meets(create(), 0)
    life.meets(claim(), 0)
    life.meets(Release(lease_id="l", lost=True), 10)
    life.meets(claim(), 20)
    life.meets(Reap(), 60_000)
    life.meets(claim(), 60_010)
    life.meets(Release(lease_id="l"), 60_020)
    lost = {loss: series.LEASES_LOST.value(*OF_TOOL, loss) for loss in LeaseLoss}
    assert lost == {LeaseLoss.CHILD: 1, LeaseLoss.EXPIRED: 1}


def test_what_an_earlier_try_has_applied_without_an_answer_is_counted_once_it_is_known() -> None:
    life, event = Life(), done()
    life.meets(create(), 0)
    life.meets(claim(), 2_000)
    applied = decide(life.task, event, 5_000, log=life.log)
    assert isinstance(applied, Applied)
    log = [*life.log, *applied.log]
    replayed = decide(applied.task, event, 6_000, log=log)
    assert isinstance(replayed, Replayed)
    count_replayed(event, replayed, log)
    assert series.FINISHED.value(*OF_TOOL, Outcome.COMPLETED) == 1
    assert durations(series.RUNNING) == (1, 3)
    assert durations(series.DURATION) == (1, 5)


def test_nothing_is_counted_while_nobody_serves_it() -> None:
    turn_off()
    series.CONFLICTS.add()
    Life().meets(create(), 0)
    turn_on()
    assert series.CONFLICTS.value() == 0
    assert series.CREATED.cells() == {}


def test_what_comes_after_the_most_tools_is_counted_as_other() -> None:
    for number in range(MOST["tool"] + 5):
        series.CREATED.add("acme", f"tool-{number}")
    series.RETRIES.add("acme", "tool-0")
    series.RETRIES.add("acme", "one more")
    assert len(series.CREATED.cells()) == MOST["tool"] + 1
    assert series.CREATED.value("acme", OTHER) == 5
    assert series.RETRIES.cells() == {("acme", "tool-0"): [1.0], ("acme", OTHER): [1.0]}


def test_every_series_is_named_as_prometheus_has_it_and_has_labels_with_few_values() -> None:
    allowed = {"service", "tool", "queue", "outcome", "reason", "kind", "phase", "role"}
    for one in SERIES:
        assert one.name.startswith("tasks_service_")
        assert not one.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert set(one.labels) <= allowed
        assert one.help_text.endswith(".")
        if isinstance(one, series.Histogram):
            assert one.name.endswith("_seconds")


def in_child(counts: ChildCounts, tries: int) -> None:
    """Fork, count in the child, and wait for its end."""
    child = os.fork()
    if child == 0:
        try:
            for _ in range(tries):
                series.CREATED.add(*OF_TOOL)
                series.RUNNING.observe(2, *OF_TOOL)
                counts.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_children_count_is_added_up_in_their_parent_and_not_counted_twice() -> None:
    counts = ChildCounts()
    counts.start()
    series.CREATED.add(*OF_TOOL)
    for _ in range(2):
        in_child(counts, 50)
    wait_until(lambda: series.CREATED.value(*OF_TOOL) == 101)
    assert durations(series.RUNNING) == (100, 200)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_waits_for_no_parent_that_does_not_read_and_keeps_its_counts_meanwhile() -> None:
    counts = ChildCounts()
    told, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for _ in range(5_000):  # more than a pipe holds
                series.CREATED.add(*OF_TOOL)
                counts.flush()
            os.write(answer, str(int(series.CREATED.value(*OF_TOOL))).encode())
            while series.CREATED.value(*OF_TOOL):
                counts.flush()
        finally:
            os._exit(0)
    kept = int(os.read(told, 20))
    assert 0 < kept < 5_000
    counts.start()
    wait_until(lambda: series.CREATED.value(*OF_TOOL) == 5_000)
    os.waitpid(child, 0)


@contextmanager
def served(key: str | None = None, role: Role = Role.FRONT_END) -> Iterator[int]:
    port = metrics_port()
    metrics = ProcessMetrics(Address("127.0.0.1", port, key), role)
    metrics.start()
    try:
        yield port
    finally:
        metrics.stop()


def status(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_without_a_key_only_names_of_this_machine_are_answered() -> None:
    with served() as port:
        assert status(port, Host=f"localhost:{port}") == 200
        assert status(port, Host="[::1]") == 200
        assert status(port, Host="rebound.example") == 421
        assert status(port, Host="127.0.0.1.example") == 421
        assert status(port, "/") == 404
        assert status(port, method="POST") == 405


def test_with_a_key_whoever_sends_it_is_answered() -> None:
    with served(KEY) as port:
        assert status(port, Host="metrics.example", Authorization=f"Bearer {KEY}") == 200
        for sent in ("", "Bearer", f"Basic {KEY}", f"Bearer {KEY[:-1]}", "Bearer \xe9"):
            assert status(port, Authorization=sent) == 401


def test_a_role_serves_its_own_series_with_those_of_the_process() -> None:
    series.CREATED.add(*OF_TOOL)
    with served() as port:
        read = scrape(port)
    assert read.value("tasks_service_tasks_created_total", service="acme", tool="render") == 1
    assert read.value("tasks_service_requests_refused_total", reason="quota") == 0
    assert read.value("process_resident_memory_bytes")
    assert not {name for name in read.names() if "maintenance_runs" in name or "beat" in name}


def test_a_port_that_another_process_has_is_taken_once_it_is_free() -> None:
    port = metrics_port()
    taken = socket.create_server(("127.0.0.1", port))
    metrics = ProcessMetrics(Address("127.0.0.1", port), Role.FRONT_END)
    metrics.start()
    taken.close()
    try:
        wait_until(lambda: _answers(port))
    finally:
        metrics.stop()


def test_metrics_that_were_never_started_are_stopped_at_once_and_give_their_port_back() -> None:
    address = Address("127.0.0.1", metrics_port())
    ProcessMetrics(address, Role.WORKER).stop()
    with socket.create_server((address.host, address.port + 1)):
        pass


def _answers(port: int) -> bool:
    try:
        return status(port) == 200
    except OSError:
        return False


def test_metrics_for_other_machines_need_a_key() -> None:
    settings = {"metrics_port": 9464, "metrics_host": "0.0.0.0"}
    with pytest.raises(ConfigurationError, match=r"TASKS_METRICS_KEY is empty.*openssl rand"):
        metrics_address(Settings(_env_file=None, **settings))
    assert metrics_address(Settings(_env_file=None, metrics_key=KEY, **settings)) == ("0.0.0.0", 9464, KEY)
    assert metrics_address(Settings(_env_file=None)) is None


@pytest.mark.parametrize("key", ["short", "abcdefghijklmnopqrstuvwxyz", "a key with spaces in it"])
def test_a_key_for_metrics_that_could_be_guessed_or_sent_by_nobody_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="TASKS_METRICS_KEY") as refusal:
        Settings(_env_file=None, metrics_key=key)
    assert key not in str(refusal.value)


def test_an_address_that_is_not_of_this_machine_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"TASKS_METRICS_HOST .*Name an address of this machine"):
        ProcessMetrics(Address("192.0.2.1", 9464, KEY), Role.WORKER)


def test_without_the_extra_a_service_works_and_imports_nothing_for_metrics_which_name_it() -> None:
    code = (
        "import sys\nsys.modules['prometheus_client'] = None\n"
        "from tasks_service import TaskService\nTaskService('acme').celery\n"
        "assert 'wsgiref' not in sys.modules\n"
        "import tasks_service.metrics.process as metrics\n"
        "metrics.ProcessMetrics(metrics.Address('127.0.0.1', 9464), metrics.Role.WORKER)\n"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "ConfigurationError" in ended.stderr
    assert "pip install 'tasks-service[metrics]'" in ended.stderr


def test_a_counter_knows_its_labels() -> None:
    counter = Counter("tasks_service_tests", "Of tests.", ("queue",))
    counter.add("a")
    counter.add("a", number=2)
    assert counter.cells() == {("a",): [3.0]}
