"""Which refusals of a front end, and which failures of Redis, are counted as what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST
from redis.exceptions import BusyLoadingError, NoPermissionError, OutOfMemoryError

from tasks_service.domain.errors import (
    LimitExceeded,
    Overloaded,
    QuotaExceeded,
    StoreFull,
    StoreUnavailable,
    TaskNotFound,
    TasksServiceError,
    UnknownTool,
)
from tasks_service.domain.rates import Counted, Rate, RateExceeded
from tasks_service.frontend.core.requests import CallCancelled, CallTooLong, FunctionFailed
from tasks_service.frontend.core.stopping import FrontEndStops
from tasks_service.frontend.core.wire_common import refusal, stopped, version_refused
from tasks_service.frontend.transport.refusals import count_error, count_rejected
from tasks_service.frontend.transport.rejection import Rejection
from tasks_service.metrics import series
from tasks_service.metrics.series import RedisError, Refused
from tasks_service.store.redis.layout import Command
from tasks_service.store.redis.transaction import Backoff, LostConnection, Reply, RoundTrip, Write, transact
from tests.kit.metrics import counted_from_zero


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    """Count, from zero."""
    with counted_from_zero():
        yield


def refused() -> list[str]:
    return [reason for (reason,), (number,) in series.REFUSED.cells().items() if number]


ERRORS: list[tuple[TasksServiceError, list[Refused]]] = [
    (QuotaExceeded("live tasks", maximum=1, actual=1, unit="tasks", setting="S"), [Refused.QUOTA]),
    (RateExceeded(Counted.CALLS, Rate(1, 1000, "S"), actual=2, retry_after_ms=1), [Refused.RATE]),
    (Overloaded(), [Refused.OVERLOAD]),
    (StoreUnavailable("no answer"), [Refused.STORE]),
    (StoreFull(), [Refused.STORE]),
    (FrontEndStops(may_have_recorded=False), [Refused.STOPPING]),
    (TaskNotFound("t"), [Refused.INVALID]),
    (UnknownTool("t"), [Refused.INVALID]),
    (LimitExceeded("arguments", maximum=1, actual=2, unit="bytes"), [Refused.INVALID]),
    (CallCancelled(None), []),
    (CallTooLong(1.0), []),
    (FunctionFailed("It"), []),
]


@pytest.mark.parametrize(("error", "counted"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_of_a_method_is_counted_if_it_is_a_refusal_and_by_its_reason(
    error: TasksServiceError, counted: list[Refused]
) -> None:
    told = refusal(error).error
    count_error(told.code, told.data)
    assert refused() == counted


@pytest.mark.parametrize(
    ("rejection", "counted"),
    [
        (Rejection(401, INVALID_REQUEST, "no key"), Refused.UNAUTHORISED),
        (Rejection(403, INVALID_REQUEST, "lacks a scope"), Refused.FORBIDDEN),
        (Rejection(421, INVALID_REQUEST, "another host"), Refused.FORBIDDEN),
        (Rejection(429, INTERNAL_ERROR, "too many guesses"), Refused.RATE),
        (Rejection(413, INVALID_REQUEST, "too large"), Refused.INVALID),
        (version_refused("1999"), Refused.INVALID),
        (stopped(FrontEndStops(may_have_recorded=False)), Refused.STOPPING),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
def test_a_request_that_no_method_has_seen_is_counted_by_its_reason(
    rejection: Rejection, counted: Refused
) -> None:
    count_rejected(rejection.status, rejection.code, rejection.data)
    assert refused() == [counted]


class Transition:
    """One that always writes, and counts."""

    task_id, name, token = "t", "Renew", "token"

    def __init__(self) -> None:
        self.times = 0

    def watch(self) -> Sequence[str]:
        return ["key"]

    def reads(self) -> Sequence[Command]:
        return [("GET", "key")]

    def judge(self, replies: list[Reply]) -> Write[str]:
        return Write([("SET", "key", "1")], "done", counted=self.count)

    def count(self) -> None:
        self.times += 1


def test_a_lost_race_is_a_conflict_and_what_was_written_in_the_end_is_counted_once() -> None:
    transition = Transition()
    program = transact(transition, 60.0)
    assert isinstance(next(program), RoundTrip)
    program.send(["OK", "OK", "1"])
    assert isinstance(program.send(["OK", "QUEUED", None]), Backoff)
    program.send([])
    program.send(["OK", "OK", "1"])
    with pytest.raises(StopIteration):
        program.send(["OK", "QUEUED", ["OK"]])
    assert series.CONFLICTS.value() == 1
    assert transition.times == 1


def test_a_reply_that_was_lost_is_no_conflict_and_counts_nothing_before_the_outcome_is_known() -> None:
    transition = Transition()
    program = transact(transition, 60.0)
    next(program)
    program.send(["OK", "OK", "1"])
    program.throw(LostConnection("reset"))
    assert transition.times == 0
    assert series.CONFLICTS.value() == 0
    program.close()


@pytest.mark.parametrize(
    ("reply", "counted"),
    [
        (OutOfMemoryError("OOM command not allowed"), RedisError.FULL),
        (NoPermissionError("NOPERM no permission"), RedisError.FORBIDDEN),
        (BusyLoadingError("LOADING Redis is loading"), RedisError.REFUSED),
    ],
)
def test_what_redis_refuses_is_counted_by_how(reply: Exception, counted: RedisError) -> None:
    program = transact(Transition(), 60.0)
    next(program)
    with suppress(TasksServiceError):
        program.send(["OK", reply, "1"])
    found = [reason for (reason,), (number,) in series.REDIS_ERRORS.cells().items() if number]
    assert found == [counted]
    program.close()
