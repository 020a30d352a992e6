"""The guide "Starting tools from Python" as it is written: its examples are one module, in their order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import django
import pytest
import sqlalchemy
from django.conf import settings as django_settings
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tasks_service import TaskService, TaskWasCancelled
from tasks_service.domain.errors import TasksServiceError
from tasks_service.domain.task import Phase, Task, new_token
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.engine import Engine
from tests.kit.pages import ROOT, run_as_one_module
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until

GUIDE = ROOT / "docs/guide-submitting.md"


class EngineInThreads:
    """The engine of a worker in threads of this process, which take what is pending."""

    def __init__(self, service: TaskService, threads: int) -> None:
        self.service = service
        self.executor = Engine(service.celery, service.settings, service.name).executor
        self.store = RedisTaskStore(str(service.settings.redis_url))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self.store.close()

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            for name in self.store.pending("tasks", until_ms=self.store.now_ms(), limit=10):
                try:
                    tool = self.service.tools[self.store.inspect(name).task.tool]
                except TasksServiceError:
                    continue
                self.executor.run(tool, name, lease_id=new_token(), worker="here", dispatched_ms=0)


@pytest.fixture(scope="module")
def shop(module_redis: RedisServer) -> Iterator[Any]:
    """The module that the examples are together."""
    if not django_settings.configured:
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        django_settings.configure(DATABASES={"default": database}, LOGGING_CONFIG=None)
        django.setup()
    from django.db import connection, models

    class Order(models.Model):
        scene = models.TextField()

        class Meta:
            app_label = "shop"

    with connection.schema_editor() as editor:
        editor.create_model(Order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASKS_REDIS_URL", module_redis.url)
        module = run_as_one_module(GUIDE, "acme.service", Order=Order, bind=lambda _: time.sleep(0.01))
    yield SimpleNamespace(**module)
    for moment, hook in (("after_commit", "submit_waiting"), ("after_rollback", "forget_waiting")):
        sqlalchemy.event.remove(Session, moment, module[hook])


@pytest.fixture(scope="module")
def worker(shop: Any) -> Iterator[EngineInThreads]:
    """Two threads that run tools."""
    worker = EngineInThreads(shop.service, threads=2)
    yield worker
    worker.close()


@pytest.fixture
def tasks(module_redis: RedisServer) -> Iterator[Any]:
    """Tells the tasks that there are, of a tool."""
    store = RedisTaskStore(module_redis.url)

    def of(tool: str = "render") -> list[Task]:
        found = [store.inspect(name).task for name in store.task_names()]
        return [task for task in found if task.tool == tool]

    yield of
    store.close()


def test_a_tool_cancels_its_child_when_it_is_cancelled(shop: Any, tasks: Any) -> None:
    alone = EngineInThreads(shop.service, threads=1)  # so that the cover waits for the end of the proof
    try:
        proof = shop.service.submit("proof", scenes=["hall"] * 10_000)
        # Not before: a cancellation that comes while the cover is being submitted leaves no handle to cancel.
        wait_until(lambda: any(task.progress for task in tasks("proof")), "it binds")
        (cover,) = tasks()
        assert proof.cancel()
        with pytest.raises(TaskWasCancelled, match="The proof was cancelled"):
            shop.service.handle(cover.task_id).result(60)
    finally:
        alone.close()


@pytest.mark.usefixtures("worker")
def test_a_view_starts_a_tool_and_another_gets_its_result_by_the_id(shop: Any) -> None:
    task_id = shop.start("hall")
    assert shop.pictures(task_id) == [f"https://pictures.example/hall/{frame}.png" for frame in (0, 1)]


@pytest.mark.usefixtures("worker")
def test_a_coroutine_starts_several_and_waits_for_them(shop: Any) -> None:
    assert [len(pictures) for pictures in asyncio.run(shop.album(["hall", "kitchen"]))] == [24, 24]


def test_django_submits_after_the_commit_and_not_after_a_rollback(shop: Any, tasks: Any) -> None:
    from django.db import transaction

    before = len(tasks())
    with transaction.atomic():
        shop.place_order("hall")
        assert len(tasks()) == before
    assert len(tasks()) == before + 1

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        shop.place_order("kitchen")
        raise ZeroDivisionError
    assert len(tasks()) == before + 1
    assert shop.Order.objects.count() == 1


def test_sqlalchemy_submits_after_the_commit_and_not_after_a_rollback(shop: Any, tasks: Any) -> None:
    class Base(DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = "row"
        id: Mapped[int] = mapped_column(primary_key=True)

    engine = sqlalchemy.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    before = len(tasks())
    with Session(engine) as session:
        session.add(Row(id=1))
        shop.submit_after_commit(session, "render", scene="hall")
        with session.begin_nested():
            session.add(Row(id=2))
        assert len(tasks()) == before, "a savepoint is no commit"
        session.commit()
        assert len(tasks()) == before + 1
        session.add(Row(id=3))
        shop.submit_after_commit(session, "render", scene="kitchen")
        session.rollback()
        session.add(Row(id=4))
        session.commit()
    assert len(tasks()) == before + 1


@pytest.mark.usefixtures("worker")
def test_a_tool_waits_for_those_that_it_has_started(shop: Any, tasks: Any) -> None:
    handle = shop.service.submit("book", scenes=["hall", "kitchen", "attic"])
    assert handle.result(60) == 6
    ((book),) = [task for task in tasks("book") if task.task_id == handle.task_id]
    assert book.phase is Phase.COMPLETED


@pytest.mark.usefixtures("worker")
def test_a_proof_that_is_not_cancelled_has_its_cover(shop: Any) -> None:
    assert shop.service.submit("proof", scenes=["hall"]).result(60) == 1
