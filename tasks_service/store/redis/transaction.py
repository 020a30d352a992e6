"""The one transaction loop: WATCH, read, decide, MULTI, write, EXEC, in two round trips.

The loop is a generator. It yields an `RoundTrip` (commands to send in one packet, on one connection) or a
`Pause`, and is sent the replies; who drives it, a blocking or an asyncio connection, it cannot tell. So
retries, deadlines and the settlement of unknown outcomes exist once.

What makes it safe:

- A reply that is lost after EXEC leaves the outcome unknown, and a client library that retries by itself
  would apply the write twice; so connections have no retries of their own, and every event carries a token.
  After any failure the record is read again and the token looked up in the transition log, in the same
  packet, before anything is decided anew.
- A refused event is raised, never retried: only a lost race (EXEC answered nil) or a lost connection leads
  back to the top.
- A connection that failed in the middle is closed by the driver, so that no later caller reads its replies.
- The second packet `follows`: it goes over the connection that watches, or nowhere. None is opened for it.
- The first packet begins with UNWATCH, because an operation that was refused leaves its keys watched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from ...addresses.redis import Node
from ...domain.errors import Contention, CorruptRecord, StoreForbidden, StoreFull, StoreUnavailable
from ...failpoints import failpoint
from .backoff import full_jitter
from .layout import Command

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PASSING = (AskError, BusyLoadingError, ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
"""Answers of a Redis that will be well again, or is another by now: loading, failing over, electing, moving.
MOVED is redis-py's subclass of ASK."""

_PASSING_WORDS = ("NOREPLICAS", "LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MISCONF")


class RoundTrip(NamedTuple):
    """Commands that go out in one packet and are answered in order; an error is answered, not raised.

    Attributes:
        commands: What is sent.
        node: Where to; None: wherever their keys are.
        follows: It needs what was watched by the exchange before it, so it goes over the same connection; if
            that is gone, it is lost without being sent.
    """

    commands: Sequence[Command]
    node: Node | None = None
    follows: bool = False


class Backoff(NamedTuple):
    """Give the connection back and wait.

    Attributes:
        seconds: How long.
        leave: The server is not well, or not the right one: close the connection, and look again where to go.
    """

    seconds: float
    leave: bool = False


Reply = Any
Program = Generator[RoundTrip | Backoff, list[Reply], T]


class LostConnection(Exception):
    """Thrown into a program by its driver: no answer came, and nobody knows whether the commands ran."""


def once(commands: Sequence[Command], deadline: float, node: Node | None = None) -> Program[list[Reply]]:
    """Read, without a transaction; repeated over lost connections until the deadline.

    Args:
        commands: Reads, or writes that may be repeated.
        deadline: Seconds to try.
        node: Where; None: wherever their keys are.

    Raises:
        StoreUnavailable: No answer in time.
        StoreForbidden: The user may not do it.
    """
    ends, failure = time.monotonic() + deadline, ""
    for attempt in range(1_000_000):
        try:
            replies = yield RoundTrip(commands, node)
            if not (failure := _failure(replies)):
                return replies
        except LostConnection as error:
            failure = str(error)
        if time.monotonic() >= ends:
            break
        yield Backoff(full_jitter(attempt), leave=True)
    raise StoreUnavailable(failure)


class Write(NamedTuple):
    """What a decision wants written, and what the caller gets when it has been.

    Attributes:
        commands: In an order in which any of them may be the last that runs, if `non_transactional`.
        outcome: For the caller.
        non_transactional: They only free memory, and may run one by one and again. At its limit Redis takes
            them so, and refuses every transaction, whatever is in it.
        outcome_from: If given, what the caller gets is made by it, from what EXEC answered.
    """

    commands: Sequence[Command]
    outcome: Any
    non_transactional: bool = False
    outcome_from: Callable[[list[Reply]], Any] | None = None


def transact(
    task_id: str,
    watch: Callable[[], Sequence[str]],
    reads: Sequence[Command],
    decide: Callable[[list[Reply]], Write | None],
    *,
    event: str,
    token: str,
    deadline: float,
) -> Program[Any]:
    """Run one transition to its end.

    Args:
        task_id: For errors.
        watch: The keys whose change voids the transaction, asked anew for each try.
        reads: What the decision needs, read after WATCH in the same packet.
        decide: From the replies to `reads` to what to write; raises what is refused. Called again, with
            fresh replies, when a race was lost or an outcome is unknown; so it must look for its token.
            None: it needs other keys watched; `watch` is asked again.
        event: What is transacted, for failpoints.
        token: The event's write token, for the error that reports an unknown outcome.
        deadline: Seconds to try.

    Returns:
        The `outcome` of the write that was applied, or found to have been applied.

    Raises:
        StoreUnavailable: No answer in time; the same event may be tried again.
        StoreFull: Redis is at its memory limit.
        StoreForbidden: The user may not do it.
        Contention: Other writers won every race.
        CorruptRecord: A key has a type that it must not have.
    """
    ends = time.monotonic() + deadline
    lost_race, failure = False, ""
    for attempt in range(1_000_000):
        try:
            replies = yield RoundTrip([("UNWATCH",), ("WATCH", *watch()), *reads])
            failure = _failure(replies)
            if not failure:
                _no_surprises(task_id, replies)
                if (write := decide(replies[2:])) is None:
                    continue
                if not write.commands:
                    return write.outcome
                failpoint(event, "before")
                replies = yield RoundTrip([("MULTI",), *write.commands, ("EXEC",)], follows=True)
                if write.non_transactional and _is_full(replies):
                    replies = yield RoundTrip(write.commands)
                failpoint(event, "after")
                failure = _failure(replies)
                lost_race = not failure and replies[-1] is None
                if not failure and not lost_race:
                    answers = replies[-1] if isinstance(replies[-1], list) else replies
                    _no_surprises(task_id, answers)
                    return write.outcome if write.outcome_from is None else write.outcome_from(answers)
        except LostConnection as error:
            lost_race, failure = False, str(error)
        if time.monotonic() >= ends:
            break
        yield Backoff(full_jitter(attempt), leave=bool(failure))
    if lost_race:
        raise Contention("too many writers on one task", token=token)
    raise StoreUnavailable(failure, token=token)


def _failure(replies: Sequence[Reply]) -> str:
    """Why these replies mean "not now", or nothing. A lack of memory or of rights ends the trying at once."""
    if _is_full(replies):
        raise StoreFull
    for reply in replies:
        if is_forbidden(reply):
            logger.error("Redis: %s. Give the user what docker/users.acl has.", reply)
            raise StoreForbidden
        if isinstance(reply, ResponseError) and _is_passing(reply):
            return f"another node has it: {reply}" if isinstance(reply, AskError) else str(reply)
    return ""


def _is_passing(error: ResponseError) -> bool:
    return isinstance(error, _PASSING) or _cause(error).startswith(_PASSING_WORDS)


def is_forbidden(reply: Reply) -> bool:
    """Whether the user may not run a command, or not on its key; for EXEC Redis says so in another way."""
    return isinstance(reply, NoPermissionError) or (
        isinstance(reply, ExecAbortError) and _cause(reply).startswith("NOPERM")
    )


def _is_full(replies: Sequence[Reply]) -> bool:
    return any(
        isinstance(reply, OutOfMemoryError)
        or (isinstance(reply, ExecAbortError) and _cause(reply).startswith("OOM"))
        for reply in replies
    )


def _cause(error: ResponseError) -> str:
    """What an error says first; of an EXEC that was refused as a whole, what it was refused for."""
    text = str(error)
    return text.partition("because of: ")[2] if isinstance(error, ExecAbortError) else text


def _no_surprises(task_id: str, replies: Sequence[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise CorruptRecord(task_id, str(reply))


def milliseconds(reply: Sequence[str]) -> int:
    """The answer of TIME, in milliseconds."""
    seconds, microseconds = reply
    return int(seconds) * 1000 + int(microseconds) // 1000
