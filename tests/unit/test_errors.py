"""Errors carry what a caller needs, and say what to do."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_service.domain.errors import (
    AttemptEnded,
    AttemptLost,
    AttemptTimedOut,
    InvalidArguments,
    InvalidTransition,
    LeaseLost,
    LimitExceeded,
    ProtocolError,
    QuotaExceeded,
    StoreRefuses,
    StoreUnavailable,
    TaskCancelled,
    TaskNotFound,
    TasksServiceError,
    WorkerStopping,
)


@pytest.mark.parametrize("ending", [TaskCancelled, AttemptLost, AttemptTimedOut, WorkerStopping])
def test_an_authors_except_clause_does_not_swallow_the_end_of_an_attempt(ending: type[AttemptEnded]) -> None:
    def body() -> None:
        try:
            raise ending
        except Exception:
            pytest.fail("the tool went on")

    with pytest.raises(ending):
        body()


def test_a_refused_transition_says_what_was_met_and_what_was_tried() -> None:
    error = InvalidTransition("id", "completed", "Cancel", "not possible while completed")
    assert (error.task_id, error.current, error.attempted) == ("id", "completed", "Cancel")
    assert str(error) == "Cancel refused: the task is completed (not possible while completed)"


def test_a_lost_lease_is_a_refused_transition_and_a_quota_is_a_limit() -> None:
    assert issubclass(LeaseLost, InvalidTransition)
    assert issubclass(QuotaExceeded, LimitExceeded)


def test_a_task_that_is_not_found_is_not_named_in_the_message() -> None:
    assert str(TaskNotFound("foreign")) == str(TaskNotFound("unknown")) == "Task not found"


def test_bad_arguments_name_every_field() -> None:
    problems = (("rows.0", "expected a number"), ("", "expected an object"))
    error = InvalidArguments("render", problems)
    assert error.problems == problems
    assert str(error) == "Invalid arguments for render: rows.0: expected a number; expected an object"


def test_an_outage_says_when_to_come_back_and_which_write_is_in_doubt() -> None:
    error = StoreUnavailable("no answer in 1.8 s", token="abc")
    assert (error.token, error.retry_after_ms) == ("abc", 1_000)
    assert isinstance(error, TasksServiceError)


@pytest.mark.parametrize(
    "code", [1.5, "x", "4001", None, True, -32002, -32042, -32001, -32000, -32768, -32601, 2**70, -(2**53)]
)
def test_a_code_that_is_not_an_authors_to_use_is_refused_where_the_error_is_made(code: Any) -> None:
    with pytest.raises(ValueError, match="expected an integer outside of -32768 to -32000"):
        ProtocolError(code, "No.")


@pytest.mark.parametrize("code", [0, 1, 4001, -1, -31999, -32769, 2**53 - 1, -32602, -32603])
def test_any_other_code_is_an_authors_to_use(code: int) -> None:
    assert ProtocolError(code, "No.").code == code


def test_the_sentence_of_an_authors_error_may_be_what_str_makes_of_anything() -> None:
    assert ProtocolError(4001, ValueError("no scene")).message == "no scene"  # type: ignore[arg-type]
    assert ProtocolError(4001, "half \ud800 a pair").message == "half ? a pair"


def test_operators_are_told_what_to_do_about_a_store_that_refuses() -> None:
    refused = StoreRefuses("no such user.", told="refuses the login", remedy="Correct the password.")
    assert refused.for_operators == "The task store is unavailable: no such user. Correct the password."
    assert StoreUnavailable("no answer").for_operators == "The task store is unavailable: no answer"
