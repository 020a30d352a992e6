"""The transaction loop: WATCH, read, decide, MULTI, write, EXEC. Read this file first.

Theory of operation
===================

Redis has the tasks; Python has the rules. No rule is a script in Redis: each transition reads a task, lets
`domain.decide` judge, and writes what that says, under optimistic locking. Every transition goes through
`transact`, below, the only place where one sends WATCH and MULTI. (`permissions.py` sends them too, to ask
what its user may do; it writes nothing.)

A claim, as it goes over the wire: two packets, on one connection.

    1   UNWATCH                              an operation that was refused leaves its keys watched
        WATCH   ts:{00}:t:<task>             a write of anybody else to the record now voids our EXEC
        TIME                                 the clock that `decide` judges by
        HGETALL ts:{00}:t:<task>             the record, with arguments and journal
        LRANGE  ts:{00}:l:<task> 0 -1        the transition log, with the tokens of the last events

        `decide` refuses the claim, which ends it here, or says what it changes

    2   MULTI
        ZADD    ts:{00}:overtaken ...        which messages this queue's workers have come to
        HSET    ts:{00}:t:<task> ...         the record: running, with a lease
        ZADD    ts:{00}:leases ...           the indexes that the task enters, leaves, or moves in
        ZREM    ts:{00}:pending:<queue> ...
        RPUSH   ts:{00}:l:<task> ...         a line of the log, with this event's token
        PUBLISH ts:changes ...               wakes whoever waits for the task
        EXEC                                 all of it, or nil if the record was written since packet 1

Each event that is applied leaves a line in the task's log, with the event's token. From this follows what to
do about every outcome:

- EXEC answers with results: the event was applied, once.
- EXEC answers nil: somebody else was first. Pause for a moment and begin again, with fresh reads.
- No answer: the connection was lost, and nobody knows whether EXEC ran. Begin again; if it ran, `decide`
  finds the token in the log and answers what was decided then, so nothing is applied twice. For this reason
  connections have no retries of their own: a client library cannot look for a token.
- The judgement refuses: the error is raised. It is never retried.

Packet 2 `follows` packet 1: it goes over the connection that watches, or nowhere. A connection that fails in
the middle of a packet is closed, so that nobody reads its late replies.

All of this is written as programs: generators that yield a `RoundTrip` (commands for one packet) or a
`Backoff`, and are sent the replies. They do no I/O, so there is one loop for the blocking and the asyncio
driver, and a test can drive it by hand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from redis.exceptions import (
    AskError,
    ExecAbortError,
    NoPermissionError,
    OutOfMemoryError,
    ResponseError,
    TryAgainError,
)

from ...addresses.redis import Node
from ...domain.errors import (
    Contention,
    CorruptRecord,
    StoreForbidden,
    StoreFull,
    StoreRefuses,
    StoreUnavailable,
)
from ...failpoints import failpoint
from ...metrics import children, series
from ...metrics.series import RedisError
from .backoff import full_jitter
from .layout import Command
from .refusals import Refusal, cause_of, refusal_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOVING = (AskError, TryAgainError)
"""Answers of a cluster whose slots move. MOVED is redis-py's subclass of ASK."""


_TRUTH = ("HSET", "HDEL", "RPUSH")
"""Commands that write records and logs; all others write what can be made anew of them."""


class RoundTrip(NamedTuple):
    """Commands that go out in one packet and are answered in order; an error is answered, not raised.

    Attributes:
        commands: What is sent.
        node: Where to; None: wherever their keys are.
        follows: It needs what was watched by the round trip before it, so it goes over the same connection;
            if that is gone, it is lost without being sent.
    """

    commands: Sequence[Command]
    node: Node | None = None
    follows: bool = False


class Failure(NamedTuple):
    """Why a try has failed.

    Attributes:
        reason: For operators.
        refusal: What it means, if the server has answered and refused.
    """

    reason: str
    refusal: Refusal | None = None

    def error(self, *, token: str | None = None, may_have_applied: bool = False) -> StoreUnavailable:
        """The error that says so."""
        if self.refusal is None:
            return StoreUnavailable(self.reason, token=token, may_have_applied=may_have_applied)
        return StoreRefuses(
            self.reason,
            told=self.refusal.told,
            remedy=self.refusal.remedy,
            token=token,
            may_have_applied=may_have_applied,
        )


class Backoff(NamedTuple):
    """Give the connection back and wait. A driver may throw the failure's error instead.

    Attributes:
        seconds: How long.
        failure: The server is not well, or not the right one: close the connection, and look again where to
            go. None: only a race was lost.
    """

    seconds: float
    failure: Failure | None = None

    @property
    def leave(self) -> bool:
        """Whether to close the connection."""
        return self.failure is not None


Reply = Any
Program = Generator[RoundTrip | Backoff, list[Reply], T]


class LostConnection(Exception):
    """Thrown into a program by its driver: no answer came, and nobody knows whether the commands ran.

    Attributes:
        failure: Why.
    """

    def __init__(self, reason: str, refusal: Refusal | None = None) -> None:
        super().__init__(reason)
        self.failure = Failure(reason, refusal)


def ahead(
    program: Program[T], commands: Sequence[Command], hear: Callable[[list[Reply]], None]
) -> Program[T]:
    """The same program, whose first round trip has more commands, in front of its own.

    Args:
        program: Begins with a round trip to where they are answered.
        commands: What is asked or counted on the way.
        hear: Takes their replies before the program gets its own; what it raises ends the program there.
            Where the connection is lost with them, they are sent again with what the program sends next: so
            what they count may be counted twice, and is never not counted.
    """
    try:
        step, is_heard = next(program), False
        while True:
            is_asked = not is_heard and isinstance(step, RoundTrip)
            if isinstance(step, RoundTrip) and is_asked:
                step = step._replace(commands=[*commands, *step.commands])
            try:
                replies = yield step
            except LostConnection as error:
                step = program.throw(error)
                continue
            if is_asked:
                is_heard = True
                hear(replies[: len(commands)])
                replies = replies[len(commands) :]
            step = program.send(replies)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # its type is not told what a generator returns
    finally:
        program.close()


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
    ends, attempt = time.monotonic() + deadline, 0
    while True:
        try:
            replies = yield RoundTrip(commands, node)
            if (failure := _failure(replies)) is None:
                return replies
        except LostConnection as error:
            failure = error.failure
        if time.monotonic() >= ends:
            raise failure.error()
        yield Backoff(full_jitter(attempt), failure)
        attempt += 1


class Write(NamedTuple, Generic[T]):
    """What a decision wants written, and what the caller gets when it has been.

    Attributes:
        commands: In an order in which any of them may be the last that runs, if `non_transactional`.
        outcome: For the caller.
        non_transactional: They only free memory, and may run one by one and again. At its limit Redis takes
            them so, and refuses every transaction, whatever is in it.
        outcome_from: If given, what the caller gets is made by it, from what EXEC answered.
        counted: Counts what has happened, once that is known.
    """

    commands: Sequence[Command]
    outcome: T
    non_transactional: bool = False
    outcome_from: Callable[[list[Reply]], T] | None = None
    counted: Callable[[], None] | None = None


class Transition(Protocol[T]):
    """One transition, as the loop runs it. `watch` and `reads` are asked anew for each try.

    Attributes:
        task_id: For errors.
        name: For failpoints: which event it is.
        token: The event's write token, for the error that reports an unknown outcome.
    """

    task_id: str
    name: str
    token: str

    def watch(self) -> Sequence[str]:
        """The keys whose change voids the transaction."""

    def reads(self) -> Sequence[Command]:
        """What the judgement needs, read after WATCH in the same packet."""

    def judge(self, replies: list[Reply]) -> Write[T] | None:
        """What to write, judged by the replies to `reads`; raises what is refused.

        Called again, with fresh replies, when a race was lost or an outcome is unknown; so it must look for
        its token. None: these were not all the keys that matter; `watch` and `reads` name them from now on.
        """


def transact(transition: Transition[T], deadline: float) -> Program[T]:
    """Run one transition to its end.

    Args:
        transition: What is watched, read, judged and written.
        deadline: Seconds to try.

    Returns:
        The `outcome` of the write that was applied, or found to have been applied.

    Raises:
        StoreUnavailable: No answer in time; the same event may be tried again.
        StoreFull: Redis is at its memory limit.
        StoreForbidden: The user may not do it.
        Contention: Other writers won every race.
        CorruptRecord: A key that was read has a type that it must not have.
    """
    ends = time.monotonic() + deadline
    is_unanswered = False
    for attempt in count():
        try:
            replies = yield RoundTrip([("UNWATCH",), ("WATCH", *transition.watch()), *transition.reads()])
            if (failure := _failure(replies)) is None:
                _no_surprises(transition.task_id, replies)
                if (write := transition.judge(replies[2:])) is None:
                    continue
                if not write.commands:
                    _count(write)
                    return write.outcome
                failpoint(transition.name, "before")
                is_unanswered = True
                replies = yield RoundTrip([("MULTI",), *write.commands, ("EXEC",)], follows=True)
                if write.non_transactional and _is_full(replies):
                    replies = yield RoundTrip(write.commands)
                failpoint(transition.name, "after")
                is_unanswered = False
                if (failure := _failure(replies)) is None and replies[-1] is None:
                    series.CONFLICTS.add()
                elif failure is None:
                    _count(write)
                    answers = _answers(transition.task_id, write.commands, replies)
                    if answers is None or write.outcome_from is None:
                        return write.outcome
                    return write.outcome_from(answers)
        except LostConnection as error:
            failure = error.failure
        if time.monotonic() >= ends:
            break
        yield Backoff(full_jitter(attempt), failure)
    if failure is None:
        raise Contention("too many writers on one task", token=transition.token)
    raise failure.error(token=transition.token, may_have_applied=is_unanswered)


def _count(write: Write[Any]) -> None:
    if write.counted is not None:
        write.counted()
        children.flush()


def _failure(replies: Sequence[Reply]) -> Failure | None:
    """Why these replies mean "not now"; None if they do not.

    Raises:
        StoreFull, StoreForbidden: Trying on is in vain.
    """
    if _is_full(replies):
        series.REDIS_ERRORS.add(RedisError.FULL)
        raise StoreFull
    for reply in replies:
        if is_forbidden(reply):
            logger.error("Redis: %s. Give the user what docker/users.acl has.", reply)
            series.REDIS_ERRORS.add(RedisError.FORBIDDEN)
            raise StoreForbidden
        if isinstance(reply, Exception):
            if isinstance(reply, _MOVING) or cause_of(reply).startswith("TRYAGAIN"):
                return Failure(f"another node has it: {reply}")
            if (refusal := refusal_of(reply)) is not None:
                series.REDIS_ERRORS.add(RedisError.REFUSED)
                return Failure(str(reply), refusal)
    return None


def is_forbidden(reply: Reply) -> bool:
    """Whether the user may not run a command, or not on its key; for EXEC Redis says so in another way."""
    return isinstance(reply, NoPermissionError) or (
        isinstance(reply, ExecAbortError) and cause_of(reply).startswith("NOPERM")
    )


def _is_full(replies: Sequence[Reply]) -> bool:
    return any(
        isinstance(reply, OutOfMemoryError)
        or (isinstance(reply, ExecAbortError) and cause_of(reply).startswith("OOM"))
        for reply in replies
    )


def _no_surprises(task_id: str, replies: Sequence[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise CorruptRecord(task_id, str(reply))


def _answers(task_id: str, commands: Sequence[Command], replies: Sequence[Reply]) -> list[Reply] | None:
    """What the commands of a transaction were answered; None if some of them failed.

    Redis goes on when a command of a transaction fails, as one does on an index or a queue whose key is of a
    wrong type. The event has happened by then: the record says so, and the record is the truth. What is
    missing beside it is put right by a repair, or, a message, by a sweep.
    """
    if not isinstance(replies[-1], list):  # nothing ran, or all of it one by one
        _no_surprises(task_id, replies)
        return None
    pairs = zip(commands, replies[-1], strict=True)
    failed = [(command, answer) for command, answer in pairs if isinstance(answer, ResponseError)]
    for command, answer in failed:
        if command[0] in _TRUTH:
            raise CorruptRecord(task_id, str(answer))
        key = command[1]
        logger.error("%s is damaged, and lacks a task now: run tasks-service repair (%s)", key, answer)
    return None if failed else replies[-1]


def milliseconds(reply: Sequence[str]) -> int:
    """The answer of TIME, in milliseconds."""
    seconds, microseconds = reply
    return int(seconds) * 1000 + int(microseconds) // 1000
