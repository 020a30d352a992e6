"""Existing Celery tasks run as tools as Celery runs them: the same, once by its tracer, once as a tool."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery, Task, current_task, shared_task
from celery.app.trace import build_tracer
from celery.contrib.abortable import AbortableTask
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject

from tasks_service import ConfigurationError, RetryPolicy, Settings, TaskService, ToolError, current_context
from tasks_service.domain.errors import AttemptLost
from tasks_service.domain.task import FailureKind, TaskStatus
from tasks_service.testing import Crash, Shutdown, ToolRun
from tasks_service.worker.maintenance.schedule import CELERY_TASKS, REAP

CALLS: list[tuple[Any, ...]] = []


class Noted(Task):  # type: ignore[misc]
    """A shop's base class: notes each hook, and keeps a connection on its instance."""

    connection: object | None = None

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        CALLS.append(("before_start", list(args), dict(kwargs), self.request.retries))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        CALLS.append(("on_success", retval, task_id == self.request.id, dict(kwargs)))

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        said = "wrong" in str(einfo.traceback)
        CALLS.append(("on_failure", repr(exc).replace(task_id, "ID"), einfo.type.__name__, said))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        CALLS.append(("on_retry", repr(exc), type(einfo.exception).__name__))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        CALLS.append(("after_return", status, repr(retval).replace(task_id, "ID"), einfo))


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    CALLS.clear()
    yield
    CALLS.clear()


class Shop(Celery):  # type: ignore[misc]
    """An app whose tasks are not made on the apps of other tests too."""

    def task(self, *args: Any, **options: Any) -> Any:
        return super().task(*args, **{"shared": False, **options})


@pytest.fixture
def shop() -> Iterator[Celery]:
    app = Shop("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


def service_of(shop: Celery) -> TaskService:
    return TaskService("Shop", celery=shop, settings=Settings(redis_url=None))


def run(shop: Celery, task: Any, arguments: dict[str, Any] | None = None, **options: Any) -> ToolRun:
    service = service_of(shop)
    service.expose(task, **options)
    return ToolRun(service, next(iter(service.tools)), arguments or {})


def by_celery(shop: Celery, task: Any, kwargs: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What Celery's tracer calls, for as many runs as the task asks for."""
    shop.finalize()
    sent: list[Any] = []
    original = shop.send_task
    shop.send_task = lambda *a, **options: sent.append(options)
    try:
        for retries in range(10):
            delivered = {"id": "id-1", "args": [], "kwargs": kwargs, "retries": retries}
            delivered |= {"called_directly": False, "delivery_info": {"routing_key": "x"}}
            build_tracer(task.name, shop.tasks[task.name], app=shop)("id-1", [], kwargs, delivered)
            if len(sent) <= retries:
                break
    finally:
        shop.send_task = original
    calls = list(CALLS)
    CALLS.clear()
    return calls


def _returns(self: Any, size: int) -> int:
    return size * 2


def _fails(self: Any, size: int) -> int:
    raise ValueError("wrong")


def _retries_once(self: Any, size: int) -> int:
    if self.request.retries == 0:
        raise self.retry(exc=ValueError("wrong"), countdown=1)
    return size


def _retries_too_often(self: Any, size: int) -> int:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        raise self.retry(exc=error, countdown=1, max_retries=2) from error


def _retries_without_a_cause(self: Any, size: int) -> int:
    raise self.retry(countdown=1)


def _ignores(self: Any, size: int) -> int:
    raise Ignore


def _rejects(self: Any, size: int) -> int:
    raise Reject("no")


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (_returns, {}),
        (_fails, {}),
        (_fails, {"throws": (ValueError,)}),
        (_retries_once, {}),
        (_retries_too_often, {}),
        (_retries_without_a_cause, {"max_retries": 1}),
        (_ignores, {}),
        (_rejects, {}),
        (_fails, {"autoretry_for": (ValueError,), "max_retries": 4, "retry_backoff": True}),
        (_fails, {"autoretry_for": (Exception,), "dont_autoretry_for": (ValueError,)}),
        (_fails, {"autoretry_for": (Exception,), "retry_kwargs": {"max_retries": 1, "countdown": 5}}),
    ],
)
def test_hooks_are_called_as_celery_calls_them(
    shop: Celery, body: Callable[..., Any], options: dict[str, Any]
) -> None:
    task = shop.task(name="shop.resize", bind=True, base=Noted, **options)(body)
    expected = by_celery(shop, task, {"size": 4})

    run(shop, task, {"size": 4})

    assert expected == CALLS


class Resize(Noted):
    """A task that is a class, as shops wrote them before there was a decorator, and may still do."""

    name = "shop.resize"
    unit = "px"

    def run(self, size: int, *, twice: bool = False) -> str:
        """Say what the picture would have."""
        if size < 0:
            raise ValueError("wrong")
        return f"{size * (2 if twice else 1)} {self.unit}, {self.request.retries} retries"


@pytest.mark.parametrize("size", [4, -1])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_task_that_is_a_class_is_exposed_as_its_registered_instance(
    shop: Celery, size: int, by_name: bool
) -> None:
    task = shop.register_task(Resize())
    expected = by_celery(shop, task, {"size": size, "twice": True})

    ran = run(shop, "shop.resize" if by_name else task, {"size": size, "twice": True})

    assert expected == CALLS
    assert ran.is_error is (size < 0)
    if size > 0:
        assert ran.result == "8 px, 0 retries"


def test_a_task_that_is_a_class_is_described_by_its_run(shop: Celery) -> None:
    service = service_of(shop)
    service.expose(shop.register_task(Resize()))
    definition = service.tools["resize"].definition
    assert definition.description == "Say what the picture would have."
    assert list(definition.input_schema["properties"]) == ["size", "twice"]
    assert Resize().unit == "px"


def test_a_hook_that_raises_changes_nothing_of_the_outcome(
    shop: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(Noted):
        def on_success(self, *args: Any) -> None:
            raise RuntimeError("hook")

    @shop.task(name="shop.resize", base=Raising)
    def resize() -> str:
        return "done"

    assert run(shop, resize).result == "done"
    assert [call[0] for call in CALLS] == ["before_start", "after_return"]
    assert "on_success raised" in caplog.text


def test_a_task_that_its_own_before_start_refuses_fails(shop: Celery) -> None:
    class Refusing(Noted):
        def before_start(self, *args: Any) -> None:
            raise ValueError("wrong")

    @shop.task(name="shop.resize", base=Refusing)
    def resize() -> str:
        raise AssertionError

    assert run(shop, resize).is_error
    assert [call[0] for call in CALLS] == ["on_failure", "after_return"]


def test_an_error_for_the_model_is_a_failure_for_the_hooks(shop: Celery) -> None:
    @shop.task(name="shop.resize", base=Noted)
    def resize() -> str:
        raise ToolError("there is no such picture")

    ran = run(shop, resize)

    assert (ran.is_error, ran.error) == (True, "there is no such picture")
    assert [call[0] for call in CALLS] == ["before_start", "on_failure", "after_return"]


def test_a_result_that_cannot_be_recorded_is_a_failure_for_the_hooks(shop: Celery) -> None:
    @shop.task(name="shop.resize", base=Noted)
    def resize() -> Any:
        return {"number": float("nan")}

    assert run(shop, resize).status is TaskStatus.FAILED
    assert [call[0] for call in CALLS] == ["before_start", "on_failure", "after_return"]


def test_a_task_that_waits_or_was_cancelled_has_ended_for_no_hook(shop: Celery) -> None:
    @shop.task(name="shop.refund", base=Noted)
    def refund() -> str:
        answer = current_context().elicit("Sure?", {"type": "object", "properties": {}})
        return type(answer).__name__

    service = service_of(shop)
    service.expose("shop.refund")
    ran = ToolRun(service, "refund", replay=False)
    assert [call[0] for call in CALLS] == ["before_start"]

    ran.decline(next(iter(ran.questions)))

    assert [call[0] for call in CALLS] == ["before_start", "before_start", "on_success", "after_return"]

    CALLS.clear()
    ToolRun(service, "refund", replay=False).cancel()
    assert [call[0] for call in CALLS] == ["before_start"]


def test_an_attempt_that_is_handed_back_or_lost_has_ended_for_no_hook(shop: Celery) -> None:
    @shop.task(name="shop.bake", base=Noted)
    def bake() -> str:
        ctx = current_context()
        return str(ctx.step("knead", lambda: "dough")) + str(ctx.step("heat", lambda: ""))

    service = service_of(shop)
    service.expose("shop.bake")

    for interruption in (Shutdown(after="knead"), Crash(after="knead")):
        CALLS.clear()
        ran = ToolRun(service, "bake", None, interruption, replay=False)
        assert (ran.result, ran.attempts) == ("dough", 2)
        assert [call[0] for call in CALLS] == ["before_start", "before_start", "on_success", "after_return"]
        assert {call[3] for call in CALLS if call[0] == "before_start"} == {0}


def test_hooks_are_called_although_the_lease_is_found_ended_right_after_the_commit(shop: Celery) -> None:
    """As by the lease keeper, whose renewal may be refused before it is told that the attempt is over."""

    @shop.task(name="shop.resize", bind=True, base=Noted)
    def resize(self: Any) -> str:
        attempt = self.request.attempt
        commit = attempt.commit

        def commit_and_be_refused(event: Any) -> Any:
            committed = commit(event)
            attempt.request_stop(AttemptLost)
            return committed

        attempt.commit = commit_and_be_refused
        if self.request.retries == 0:
            raise self.retry(countdown=1)
        return "done"

    assert run(shop, resize).result == "done"
    assert [call[0] for call in CALLS] == [
        "before_start",
        "on_retry",
        "before_start",
        "on_success",
        "after_return",
    ]


def test_the_shops_own_instance_runs_and_keeps_what_it_has_opened(shop: Celery) -> None:
    @shop.task(name="shop.resize", bind=True, base=Noted)
    def resize(self: Any) -> bool:
        fresh = self.connection is None
        self.connection = self.connection or object()
        return fresh

    service = service_of(shop)
    service.expose(resize)

    assert [ToolRun(service, "resize").result for _ in range(2)] == [True, False]
    assert shop.tasks["shop.resize"].connection is not None
    assert resize() is False  # called by the shop's own code


def test_the_request_says_what_celerys_says(shop: Celery) -> None:
    seen: list[dict[str, Any]] = []

    @shop.task(name="shop.resize", bind=True)
    def resize(self: Any, size: int) -> str:
        request = self.request
        names = (
            "args",
            "kwargs",
            "retries",
            "called_directly",
            "is_eager",
            "task",
            "callbacks",
            "chain",
            "group",
        )
        facts = {name: getattr(request, name, None) for name in names}
        own = request.id == request.correlation_id == request.root_id == current_task.request.id
        seen.append({**facts, "own id": own, "current": current_task.name, "headers": request.headers})
        if request.retries < 2:
            raise self.retry(countdown=1)
        return str(request.id)

    ran = run(shop, resize, {"size": 4})

    assert [facts.pop("retries") for facts in seen] == [0, 1, 2]
    assert (
        seen
        == [
            {
                "args": [],
                "kwargs": {"size": 4},
                "called_directly": False,
                "is_eager": False,
                "task": "shop.resize",
                "callbacks": None,
                "chain": None,
                "group": None,
                "own id": True,
                "current": "shop.resize",
                "headers": None,
            }
        ]
        * 3
    )
    assert ran.result


def test_a_class_that_calls_super_and_a_call_from_within_have_the_runs_request(shop: Celery) -> None:
    class Opening(Task):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    @shop.task(name="shop.resize", bind=True, base=Opening)
    def resize(self: Any, deep: bool) -> list[bool]:
        if not deep and self.request.retries == 0:
            raise self.retry(countdown=1)
        return [self.request.called_directly, *(self(deep=False) if deep else ())]

    assert run(shop, resize, {"deep": True}).result == [False, False]


def test_retries_are_the_tasks_own_and_not_the_tools_attempts(shop: Celery) -> None:
    @shop.task(name="shop.resize", bind=True, max_retries=6, default_retry_delay=60)
    def resize(self: Any) -> str:
        raise self.retry()

    ran = run(shop, resize, max_attempts=2)

    assert (ran.is_error, ran.attempts) == (True, 7)


def test_a_policy_of_the_tool_takes_the_place_of_the_tasks_own_retries(shop: Celery) -> None:
    @shop.task(name="shop.resize", bind=True, max_retries=6)
    def resize(self: Any) -> str:
        raise self.retry(exc=ConnectionError("no line"))

    ran = run(shop, resize, retry=RetryPolicy(first_delay=timedelta(seconds=1)), max_attempts=2)

    assert (ran.is_error, ran.attempts) == (True, 2)


@pytest.mark.parametrize(
    "body",
    [
        lambda self: self.replace(None),
        lambda self: self.retry(args=(1,)),
        lambda self: self.retry(kwargs={"size": 1}),
        lambda self: self.retry(throw=False),
        lambda self: _ignores(self, 1),
    ],
)
def test_what_a_durable_task_cannot_do_fails_it_at_once_and_says_so(
    shop: Celery, body: Callable[..., Any]
) -> None:
    def resize(self: Any) -> Any:
        return body(self)

    ran = run(shop, shop.task(name="shop.resize", bind=True, autoretry_for=(Exception,))(resize))

    assert (ran.status, ran.attempts) == (TaskStatus.FAILED, 1)
    assert ran.failure is not None
    assert ran.failure.kind is FailureKind.AUTHOR
    assert "'shop.resize'" in ran.failure.message


def test_a_subclass_that_calls_super_has_its_progress_noted_too(shop: Celery) -> None:
    class Loud(Task):  # type: ignore[misc]
        def update_state(self, *args: Any, **options: Any) -> None:
            CALLS.append(("update_state", options["meta"]["current"]))
            super().update_state(*args, **options)

    @shop.task(name="shop.resize", base=Loud)
    def resize() -> str:
        current_task.update_state(state="DRAWING", meta={"current": 3, "total": 4})
        return "done"

    ran = run(shop, resize)

    assert CALLS == [("update_state", 3)]
    assert ran.progress is not None
    assert (ran.progress.current, ran.progress.total, ran.progress.message) == (3, 4, "DRAWING")


def test_the_shops_own_calls_of_an_exposed_task_stay_celerys(shop: Celery) -> None:
    shop.conf.update(task_always_eager=True, task_store_eager_result=True)

    @shop.task(name="shop.resize", bind=True, base=Noted, max_retries=1)
    def resize(self: Any) -> str:
        self.update_state(state="DRAWING", meta={"current": 3})
        if self.request.retries == 0 and self.request.is_eager:
            raise self.retry(countdown=0)
        return "done"

    run(shop, resize)  # from here on the object has our methods
    CALLS.clear()

    assert resize.delay().get() == "done"
    assert [call[0] for call in CALLS][-2:] == ["on_success", "after_return"]
    assert shop.backend.get_task_meta("mine")["status"] == "PENDING"
    shop.tasks["shop.resize"].update_state("mine", "DRAWING", {})
    assert shop.backend.get_task_meta("mine")["status"] == "DRAWING"


def test_an_abortable_task_sees_that_its_client_has_not_cancelled_it(shop: Celery) -> None:
    @shop.task(name="shop.resize", bind=True, base=AbortableTask)
    def resize(self: Any) -> bool:
        return bool(self.is_aborted())

    assert run(shop, resize).result is False


def test_expected_exceptions_are_logged_without_alarm(shop: Celery, caplog: pytest.LogCaptureFixture) -> None:
    task = shop.task(name="shop.resize", bind=True, throws=(ValueError,))(_fails)
    with caplog.at_level(logging.INFO):
        run(shop, task, {"size": 1})
    assert [record.levelname for record in caplog.records if "resize failed" in record.message] == ["INFO"]


def test_the_limits_of_the_task_are_the_tools(shop: Celery) -> None:
    @shop.task(name="shop.resize", soft_time_limit=20, time_limit=30, rate_limit="6/m", expires=90)
    def resize() -> None: ...

    service = service_of(shop)
    service.expose(resize)
    policy, tool = service.tools["resize"].definition.policy, shop.tasks["resize"]

    assert (policy.timeout_ms, policy.queue_timeout_ms) == (30_000, 90_000)
    assert (tool.soft_time_limit, tool.time_limit, tool.rate_limit) == (20, 45, "6/m")


def test_settings_of_the_shop_for_all_its_tasks_are_not_the_tools(shop: Celery) -> None:
    shop.conf.update(
        task_default_rate_limit="1/h",
        task_time_limit=1,
        task_soft_time_limit=1,
        task_acks_late=False,
        task_annotations={"*": {"rate_limit": "1/h", "acks_late": False, "on_failure": print}},
    )
    service = service_of(shop)

    @service.tool
    def fresh() -> None: ...

    assert shop.tasks[CELERY_TASKS[REAP]].rate_limit == 0
    tool = shop.tasks["fresh"]
    assert (tool.rate_limit, tool.time_limit, tool.acks_late) == (0, 86_415, True)
    assert tool.on_failure.__func__ is Task.on_failure


def test_annotations_of_an_exposed_task_are_in_force(shop: Celery) -> None:
    shop.conf.task_annotations = {"shop.resize": {"rate_limit": "9/m", "time_limit": 40}}

    @shop.task(name="shop.resize")
    def resize() -> None: ...

    service = service_of(shop)
    service.expose(resize)

    assert service.tools["resize"].definition.policy.timeout_ms == 40_000
    assert shop.tasks["resize"].rate_limit == "9/m"


# --- finding them -------------------------------------------------------------------------------------------


def test_a_task_is_found_by_its_object_before_celery_has_made_it(shop: Celery) -> None:
    configured: list[str] = []

    @shop.task(name="shop.resize", lazy=True)
    def resize() -> str:
        return "done"

    service = service_of(shop)
    service.expose(resize)
    shop.on_after_finalize.connect(lambda **_: configured.append("yes"), weak=False)

    assert not shop.finalized
    assert ToolRun(service, "resize").result == "done"
    shop.finalize()
    assert configured == ["yes"]


def test_a_shared_task_is_found_on_the_services_own_app(shop: Celery) -> None:
    @shared_task(name="shop.shared")
    def resize() -> str:
        return "done"

    assert run(shop, resize).result == "done"
    assert run(Shop("other", broker="memory://", set_as_current=False), "shop.shared").result == "done"


def test_a_task_is_found_in_a_module_that_only_workers_would_import(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures_of_shop.py").write_text(
        "from celery import shared_task\n\n@shared_task(name='shop.crop')\ndef crop(): return 'done'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = Celery("shop", broker="memory://", include=["pictures_of_shop"], set_as_current=False)
    assert run(app, "shop.crop").result == "done"


def test_a_module_that_cannot_be_imported_is_named_when_a_task_is_not_found() -> None:
    app = Celery("shop", broker="memory://", include=["there_is_no_such_module"], set_as_current=False)
    with pytest.raises(ConfigurationError, match=r"no Celery task 'shop\.cut'.*there_is_no_such_module"):
        service_of(app).expose("shop.cut")


def test_a_task_of_another_app_is_refused(shop: Celery) -> None:
    other = Shop("other", broker="memory://", set_as_current=False)
    task = other.task(name="shop.resize")(_returns)
    shop.task(name="shop.resize")(_returns)
    with pytest.raises(ConfigurationError, match="another Celery app"):
        service_of(shop).expose(task)


@pytest.mark.parametrize("given", [len, 3, None])
def test_what_is_no_celery_task_is_refused_with_the_way_out(shop: Celery, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"@service\.tool"):
        service_of(shop).expose(given)


@pytest.mark.parametrize("attribute", ["Strategy", "Request"])
def test_a_task_whose_messages_are_taken_in_another_way_is_refused(shop: Celery, attribute: str) -> None:
    base = type("Batches", (Task,), {attribute: "shop.batches:Batches", "abstract": True})

    @shop.task(name="shop.resize", base=base)
    def resize() -> None: ...

    with pytest.raises(ConfigurationError, match=rf"{attribute} of its own.*@service\.tool"):
        service_of(shop).expose(resize)


def test_max_retries_that_are_used_up_are_the_tasks_own_error(shop: Celery) -> None:
    task = shop.task(name="shop.resize", bind=True, base=Noted, max_retries=0)(_retries_without_a_cause)
    assert run(shop, task, {"size": 1}).is_error
    assert MaxRetriesExceededError.__name__ in CALLS[1][1]
