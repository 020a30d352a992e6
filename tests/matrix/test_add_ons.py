"""What shops put beside Celery: Sentry's integration, and schedulers that keep beat's schedule elsewhere.

Deselected by default: it installs environments. `make test-matrix` runs it.
"""

from __future__ import annotations

import gzip
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until

from .environments import Environment, Installed, build_wheel, install
from .processes import Beat, Driver, Worker, copy_shops, environment_of, running

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]

FRONT = Environment("newest", "3.13", extras="[server]")
SENTRY = Environment("sentry", "3.12", ("celery==5.7.0", "sentry-sdk[celery]==2.75.0"))
REDBEAT = Environment("redbeat", "3.12", ("celery==5.7.0", "celery-redbeat==2.4.2"))
DJANGO = Environment("django-celery-beat", "3.12", ("celery==5.7.0", "django-celery-beat==2.9.0"))

MAINTENANCE = ("expire_finished_tasks", "reap_stale_tasks", "resend_lost_messages", "audit_records")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


class Collector:
    """Takes what Sentry's SDK sends, as its server does.

    Attributes:
        items: The kind and the content of each item of an envelope.
    """

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["content-length"]))
                is_packed = self.headers["content-encoding"] == "gzip"
                collector.take(gzip.decompress(sent) if is_packed else sent)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://key@127.0.0.1:{self._server.server_port}/1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, envelope: bytes) -> None:
        lines = iter(envelope.splitlines()[1:])
        for head, content in zip(lines, lines, strict=False):
            self.items.append((json.loads(head)["type"], json.loads(content)))

    def of(self, kind: str) -> list[Any]:
        return [content for found, content in list(self.items) if found == kind]

    def events(self) -> list[tuple[str, str, str | None]]:
        """Each error: the class and text of what was raised, or what was logged, and in which transaction."""
        return [
            (one["type"], one["value"], event.get("transaction"))
            for event in self.of("event")
            for one in event.get("exception", {}).get("values", [])[-1:]
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_sentry_is_told_of_an_exposed_task_as_by_celery_and_once(
    wheel: Path, tmp_path: Path, redis: RedisServer, collector: Collector
) -> None:
    front, shop = install(FRONT, wheel), install(SENTRY, wheel)
    with running(
        front, shop, redis.url, tmp_path, codeless=True, module="sentry_shop", SHOP_DSN=collector.dsn
    ) as (front_end, worker):
        driver = Driver(front_end.url)
        assert driver.call("resize", width=3) == {"area": 6}
        assert driver.call("roast", weight=2).startswith("error: ")
        assert driver.call("fry").startswith("error: ")

        def told() -> bool:
            # The SDK's own thread sends, in order: when the last has come, so have those before it.
            return any("in the pan" in json.dumps(event) for event in collector.of("event"))

        wait_until(told, lambda: f"{collector.items}\n{worker.logs()}")
        wait_until(
            lambda: {"resize", "roast"} <= {one.get("transaction") for one in collector.of("transaction")},
            lambda: f"{collector.items}\n{worker.logs()}",
        )
        roasted = [event for event in collector.events() if event[1] == "at 2 kg"]
        assert roasted == [("OvenOnFire", "at 2 kg", "roast")]


@contextmanager
def beating(
    installed: Installed, home: Path, redis: RedisServer, module: str, scheduler: str, **settings: str
) -> Iterator[tuple[Worker, Beat]]:
    """A worker and a beat of a shop."""
    env = {**environment_of(redis.url), **settings}
    for place in ("worker", "beat"):
        (home / place).mkdir()
    worker = Worker(installed, home / "worker", env, module=module)
    try:
        beat = Beat(installed, home / "beat", env, module, scheduler)
        try:
            yield worker, beat
            assert beat.runs, beat.logs()
        finally:
            beat.close()
    finally:
        worker.close()


def asked_for_all(worker: Worker, beat: Beat) -> None:
    """Wait until the worker has done, because beat asked for it, all maintenance and the shop's own task."""
    wanted = [*(f"Task tasks_service.{name}[" for name in MAINTENANCE), "Task shop.nightly["]

    def done() -> bool:
        lines = [line for line in worker.logs().splitlines() if "succeeded in" in line]
        return all(any(one in line for line in lines) for one in wanted)

    wait_until(done, lambda: f"{worker.logs()}\n{beat.logs()}")


def test_redbeat_takes_the_schedule_over_with_the_shops_own(
    wheel: Path, tmp_path: Path, redis: RedisServer
) -> None:
    shop = install(REDBEAT, wheel)
    with beating(shop, tmp_path, redis, "scheduled_shop", "redbeat.RedBeatScheduler") as (worker, beat):
        asked_for_all(worker, beat)
    with redis.client() as admin:
        assert {"redbeat:reap-stale-tasks", "redbeat:nightly"} <= set(admin.scan_iter("redbeat:*"))


def test_the_database_of_django_celery_beat_takes_the_schedule_over_with_the_shops_own(
    wheel: Path, tmp_path: Path, redis: RedisServer
) -> None:
    shop = install(DJANGO, wheel)
    database = {"SHOP_DATABASE": str(tmp_path / "shop.sqlite3")}
    (tmp_path / "migrating").mkdir()
    copy_shops(tmp_path / "migrating")
    subprocess.run(
        [shop.python, "-m", "django_shop"],
        cwd=tmp_path / "migrating",
        env={**environment_of(redis.url), **database},
        check=True,
        timeout=120,
    )
    scheduler = "django_celery_beat.schedulers:DatabaseScheduler"
    with beating(shop, tmp_path, redis, "django_shop", scheduler, **database) as (worker, beat):
        asked_for_all(worker, beat)
