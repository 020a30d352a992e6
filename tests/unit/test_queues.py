"""What `up` and `stdio` take of a Celery app that has other tasks: what is the tools', and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler
from celery.schedules import schedule
from click.testing import CliRunner
from kombu import Queue

from tasks_service import BEAT_SCHEDULE, ConfigurationError, Settings, TaskService
from tasks_service.cli.own_processes import own_processes
from tasks_service.cli.up import up
from tasks_service.worker.maintenance.scheduler import MaintenanceScheduler
from tasks_service.worker.queues import queues_of_shop, taken_queues


def shop(**settings: Any) -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(settings)

    @app.task(name="shop.queues.index", shared=False)
    def index() -> None: ...

    @app.task(name="shop.queues.mail", shared=False)
    def mail() -> None: ...

    return app


def service_of(app: Celery) -> TaskService:
    service = TaskService("Shop", celery=app, settings=Settings(redis_url=None))
    service.tool(name="draw")(lambda: None)
    service.tool(name="film", queue="gpu")(lambda: None)
    return service


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({}, {"celery"}),
        ({"task_default_queue": "acme"}, {"acme"}),
        ({"task_queues": [Queue("a"), Queue("b")], "task_default_queue": "a"}, {"a", "b"}),
        ({"task_routes": {"shop.queues.*": {"queue": "indexing"}}}, {"celery", "indexing"}),
        ({"task_routes": [{"shop.queues.mail": "mails"}]}, {"celery", "mails"}),
        ({"task_routes": ({"shop.queues.index": "x"}, {"*.mail": "y"})}, {"celery", "x", "y"}),
        ({"task_routes": [lambda name, *_, **__: {"queue": name[-4:]}]}, {"celery", "mail", "ndex"}),
        ({"task_annotations": {"shop.queues.mail": {"queue": "annotated"}}}, {"celery", "annotated"}),
    ],
)  # fmt: skip
def test_the_queues_of_a_shop_are_found_in_whatever_way_it_names_them(
    settings: dict[str, Any], theirs: set[str]
) -> None:
    app = shop(**settings)
    service_of(app)
    assert queues_of_shop(app) >= theirs
    assert not queues_of_shop(app) & {"tasks", "gpu", "maintenance"}


def test_the_tools_own_queues_are_taken_and_those_of_the_shop_wait() -> None:
    app = shop(task_routes={"shop.queues.index": {"queue": "indexing"}})
    service = service_of(app)
    service.expose("shop.queues.index")
    service.expose("shop.queues.mail")
    service.tool(name="greedy", queue="celery")(lambda: None)

    taken = taken_queues(app, service.tools, owns_app=False)

    assert taken.queues == ("tasks", "gpu", "maintenance")
    assert taken.waiting == {"indexing": ("index",), "celery": ("greedy", "mail")}


def test_a_queue_of_its_own_brings_an_exposed_task_to_the_tools_worker() -> None:
    app = shop()
    service = service_of(app)
    service.expose("shop.queues.index", queue="tools")
    taken = taken_queues(app, service.tools, owns_app=False)
    assert (taken.queues, taken.waiting) == (("tasks", "gpu", "tools", "maintenance"), {})


def test_a_queue_of_the_shop_is_not_taken_because_it_is_called_as_one_of_ours() -> None:
    app = shop(task_queues=[Queue("tasks"), Queue("maintenance")], task_default_queue="tasks")
    taken = taken_queues(app, service_of(app).tools, owns_app=False)
    assert taken.queues == ("gpu",)
    assert taken.waiting == {"tasks": ("draw",)}
    assert not taken.takes_maintenance


def test_what_an_operator_names_is_taken_instead() -> None:
    app = shop()
    taken = taken_queues(app, service_of(app).tools, owns_app=False, wanted=("celery", "tasks"))
    assert (taken.queues, taken.waiting) == (("celery", "tasks"), {"gpu": ("film",)})


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    loaded = ModuleType("acme_of_queues")
    monkeypatch.setitem(sys.modules, "acme_of_queues", loaded)
    yield loaded


def commands(module: ModuleType, app: Celery, *queues: str) -> tuple[dict[str, str], list[str]]:
    module.__dict__.update(app=app, service=service_of(app))
    specs, sentences = own_processes("acme_of_queues", queues)
    return {spec.name: spec.command for spec in specs}, sentences


def test_the_worker_and_beat_of_a_shop_are_beside_its_own(module: ModuleType) -> None:
    listed, sentences = commands(module, shop())
    assert "--queues tasks,gpu,maintenance --hostname tasks-service@%h" in listed["worker"]
    assert "MaintenanceScheduler" in listed["beat"]
    assert sentences == []


def test_the_tools_that_wait_are_named_with_the_worker_that_they_wait_for(module: ModuleType) -> None:
    listed, (sentence,) = commands(module, shop(task_default_queue="tasks"))
    assert "--queues gpu,maintenance" in listed["worker"]
    assert "draw: calls wait" in sentence
    assert "`celery -A acme_of_queues worker -Q tasks`" in sentence
    assert "--queues gpu,maintenance,tasks" in sentence


def test_without_the_maintenance_queue_there_is_no_beat(module: ModuleType) -> None:
    listed, _ = commands(module, shop(), "tasks", "gpu")
    assert set(listed) == {"web", "worker", "flower"}


def test_an_app_of_the_services_own_is_taken_as_a_whole(module: ModuleType) -> None:
    service = TaskService("Own", settings=Settings(redis_url=None))
    module.__dict__.update(app=service.celery, service=service)
    specs, sentences = own_processes("acme_of_queues", ())
    worker, beat = (next(spec.command for spec in specs if spec.name == name) for name in ("worker", "beat"))
    assert "--queues" not in worker and "--hostname" not in worker
    assert "celery.beat:Scheduler" in beat
    assert sentences == []


def test_an_app_that_creates_no_queues_must_declare_them(module: ModuleType) -> None:
    declared = {"task_create_missing_queues": False, "task_queues": [Queue("celery"), Queue("tasks")]}
    with pytest.raises(ConfigurationError, match=r"Queue\('gpu'\), Queue\('maintenance'\)"):
        commands(module, shop(**declared), "tasks", "gpu", "maintenance")


def test_queues_are_not_for_a_procfile_of_ones_own(tmp_path: Any) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("web: true\n")
    ended = CliRunner().invoke(up, ["--app", "x", "--procfile", str(procfile), "--queues", "a"])
    assert isinstance(ended.exception, ConfigurationError)
    assert "--procfile" in str(ended.exception)


def test_beat_beside_a_shops_own_sends_nothing_of_the_shops(tmp_path: Any) -> None:
    app = shop(
        beat_schedule={"nightly": {"task": "shop.queues.mail", "schedule": 1.0}},
        result_backend=f"file://{tmp_path}",
        beat_scheduler="django_celery_beat.schedulers:DatabaseScheduler",
    )
    app.on_after_finalize.connect(
        lambda sender, **_: sender.add_periodic_task(schedule(1.0), sender.tasks["shop.queues.index"].s()),
        weak=False,
    )
    app.finalize()
    assert set(Scheduler(app).schedule) > {"nightly"}
    assert set(MaintenanceScheduler(app).schedule) == set(BEAT_SCHEDULE)
