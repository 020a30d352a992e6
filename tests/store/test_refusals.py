"""What errors of Redis mean that refuse work, however redis-py hands them on."""

from __future__ import annotations

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ExecAbortError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from tasks_service.store.redis import refusal_of


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BusyLoadingError("Redis is loading the dataset in memory"), "is reading its data"),
        (ResponseError("LOADING Redis is loading the dataset in memory"), "is reading its data"),
        (ReadOnlyError("You can't write against a read only replica."), "is a replica"),
        (ExecAbortError("Transaction discarded because of: READONLY You can't write"), "is a replica"),
        (ExecAbortError("Transaction discarded because of: MISCONF Errors writing"), "write to its disk"),
        (AuthenticationError("invalid username-password pair"), "refuses the login"),
        (ResponseError("NOAUTH Authentication required."), "refuses the login"),
        (ResponseError("BUSY Redis is busy running a script."), "somebody's script"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "too few replicas"),
        (ResponseError("CLUSTERDOWN The cluster is down"), "of which a part is down"),
        (ResponseError("MASTERDOWN Link with MASTER is down"), "has lost its master"),
    ],
    ids=str,
)
def test_a_refusal_is_recognised_and_has_a_remedy(error: Exception, told: str) -> None:
    refusal = refusal_of(error)

    assert refusal is not None
    assert told in refusal.told
    assert refusal.remedy.endswith(".")


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("Connection refused"),
        ResponseError("WRONGTYPE Operation"),
        ResponseError("BUSYKEY x"),
    ],
    ids=str,
)
def test_other_errors_are_no_refusals(error: Exception) -> None:
    assert refusal_of(error) is None
