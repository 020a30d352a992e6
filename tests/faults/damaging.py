"""Every way in which one thing of a store can be damaged, and all that is done with a store afterwards.

Each key is replaced by one of every other type, each field of a record and of whatever else holds JSON by
every kind of JSON value, and each index is given what it cannot mean. A damage is known by what it does,
whatever the ids of the tasks are, so that processes can share them among each other.
"""

from __future__ import annotations

import itertools
import json
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from click.testing import CliRunner

from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.cli import commands
from tasks_service.domain.errors import TasksServiceError
from tasks_service.domain.events import Cancel
from tasks_service.domain.limits import Limits
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import MINUTE
from tasks_service.store.redis import RedisTaskStore
from tasks_service.store.registry import AnnouncedTools, WorkerAnnouncement
from tasks_service.worker.maintenance.beat_tasks import BeatWork
from tasks_service.worker.maintenance.thread import Sweeper
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, creation
from tests.kit.hostile import ABSENT, paths, replaced

from . import damaged_app
from .test_repair import Store

APP = "tests.faults.damaged_app:service"
LIMITS = Limits(running_per_owner={"gpu": 1})
ROLES = ("pending", "running", "parked", "completed", "failed", "cancelled", "seated", "waiting")
"""The tasks of a store; see `test_repair.Store`."""

LOGS = ("ts:{00}:l:completed", "ts:{00}:l:waiting")
"""A log whose lines are damaged field by field; those of others are alike."""

REPAIRS = 3
"""How often an operator may have to say `repair` until nothing is wrong."""

TYPES: dict[str, tuple[Any, ...]] = {
    "string": ("SET", "no such thing"),
    "list": ("RPUSH", b"\xff", "x"),
    "set": ("SADD", b"\xff", "x"),
    "zset": ("ZADD", 1, b"\xff", 2, "x"),
    "hash": ("HSET", b"\xff", b"\xff"),
    "stream": ("XADD", "*", "x", "x"),
}
"""What makes a key of each type, without the key."""

MEMBERS = (b"\xff", b"", b"x", b"no:such:thing", b"00" + b"f" * 18, b"\xed\xa0\x80", b"\x00", b"x" * 70_000)
SCORES = (1, 1.5, -1, float("inf"), float("-inf"), 2**60)
TEXTS = (
    b"\xff",
    b"",
    b"not JSON",
    b"null",
    b"5",
    b"[]",
    b"{}",
    b'"x"',
    b"[" * 100_000,
    b'{"x":1}',
    b"\xed\xa0\x80",
)
VALUES = (ABSENT, None, True, -1, 2**70, 1.5, float("nan"), "", "x", "\ud800", [], [1], {}, {"x": {}})


Command = tuple[Any, ...]


class Damage(NamedTuple):
    """One thing that is wrong.

    Attributes:
        kind: What is damaged, and how: those of one kind differ in values only.
        what: The damage, for people.
        commands: What brings it about in Redis.
    """

    kind: str
    what: str
    commands: tuple[Command, ...]


class Snapshot:
    """A store as it was, to be damaged again and again."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        ends = {key: max(admin.pexpiretime(key), 0) for key in admin.scan_iter()}
        self._dumps = {key: (admin.dump(key), end_ms) for key, end_ms in ends.items()}

    def restore(self) -> None:
        with self._admin.pipeline(transaction=False) as pipe:
            pipe.flushall()
            for key, (dump, end_ms) in self._dumps.items():
                pipe.restore(key, end_ms, dump, absttl=bool(end_ms))
            pipe.execute()


class Subject:
    """A store with a task in each phase and a worker that is announced, and all that is done with a store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.admin = redis.Redis.from_url(url)
        made = Store(url)
        self.ids = [getattr(made, role).task_id for role in ROLES]
        self._roles = {task_hash(task_id): role for role, task_id in zip(ROLES, self.ids, strict=True)}
        damaged_app.service = service = damaged_app.service_on(url)
        self._tools = AnnouncedTools.of(tool.definition for tool in service.tools.values())
        self._worker = WorkerAnnouncement(
            service=service.name, node="celery@a", tools=self._tools.digest, queues=frozenset({"q", "gpu"})
        )
        made.store.registry.announce(self._worker, self._tools)
        made.store.count_dropped("q", 1)
        made.store.close()
        self.dispatcher = Dispatcher(service.celery, redis_url=url, broker_url=url)
        self.store = RedisTaskStore(url, limits=LIMITS, outbox=self.dispatcher)
        # Leases have run out by its clock, and timers are due.
        self.later = RedisTaskStore(
            url, limits=LIMITS, outbox=self.dispatcher, clock=lambda server_ms: server_ms + MINUTE
        )
        self.sweep()
        self._sound = Snapshot(self.admin)

    def close(self) -> None:
        self.store.close()
        self.later.close()
        self.dispatcher.close()
        self.admin.close()

    # --- what can be damaged ------------------------------------------------------------------------------

    def damages(self) -> list[Damage]:
        """Each of them once, in an order that is the same for every store."""
        self._sound.restore()
        named = {self._named(key): key for key in self.admin.scan_iter("ts:*") if b":mq:" not in key}
        return [damage for name in sorted(named) for damage in self._of_key(name, named[name])]

    def _named(self, text: bytes) -> str:
        """A text with the roles of tasks instead of their names, and without what is drawn at random."""
        named = re.sub(r"[0-9a-f]{20}", lambda found: self._roles.get(found[0], found[0]), _shown(text))
        return re.sub(r"[0-9a-f]{32}", "digest", named)

    def _of_key(self, name: str, key: bytes) -> Iterator[Damage]:
        kind = self.admin.type(key).decode()
        life_ms = self.admin.pttl(key)
        for other, (command, *values) in TYPES.items():
            if other != kind:
                commands: tuple[Command, ...] = (("DEL", key), (command, key, *values))
                if life_ms > 0:
                    commands += (("PEXPIRE", key, life_ms),)
                yield Damage(f"{name} type", f"{name} is a {other}", commands)
        match kind:
            case "string":
                yield from self._of_text(name, self.admin.get(key), ("SET", key), "KEEPTTL")
            case "set":
                for member in MEMBERS:
                    yield Damage(f"{name} member", f"{name} has {_shown(member)}", (("SADD", key, member),))
            case "zset":
                for member, score in itertools.product((*MEMBERS, self.admin.zrange(key, 0, 0)[0]), SCORES):
                    what = f"{name} has {self._named(member)} at {score}"
                    yield Damage(f"{name} member", what, (("ZADD", key, score, member),))
            case "list":
                for index in (0, -1):
                    line = self.admin.lindex(key, index)
                    yield from self._of_text(f"{name}[{index}]", line, ("LSET", key, index))
            case "hash":
                yield Damage(
                    f"{name} unknown", f"{name} has an unknown field", (("HSET", key, b"\xff", b"\xff"),)
                )
                for field, value in sorted(self.admin.hgetall(key).items()):
                    place = f"{name}.{self._named(field)}"
                    yield Damage(f"{place} absent", f"{place} is absent", (("HDEL", key, field),))
                    yield from self._of_text(place, value, ("HSET", key, field))

    def _of_text(self, place: str, value: bytes, put: Command, *options: str) -> Iterator[Damage]:
        """Other texts in a place; where it holds JSON, that with each of its fields damaged in every way."""
        for text in TEXTS:
            if place.endswith(".v") and text.isdigit():
                continue  # a record of a newer release is nobody's to mend
            yield Damage(f"{place} text", f"{place} = {_shown(text)}", ((*put, text, *options),))
        if ":l:" in place and not place.startswith(LOGS):
            return
        try:
            known = json.loads(value)
        except ValueError:
            return
        for path in paths(known):
            for other in VALUES:
                where = ".".join(map(str, path))
                what = f"{place}: {where} is {'absent' if other is ABSENT else repr(other)[:20]}"
                text = json.dumps(replaced(known, path, other)).encode()
                yield Damage(f"{place} {where}", what, ((*put, text, *options),))

    # --- what is done with it -----------------------------------------------------------------------------

    def trial(self, damage: Damage) -> str:
        """Do everything with a store that is damaged so; what went wrong, or an empty text."""
        self._sound.restore()
        for command in damage.commands:
            self.admin.execute_command(*command)
        try:
            self.ask(as_json=len(damage.what) % 2 == 0)
            self.sweep()
            for _ in range(REPAIRS):
                if not self.operate("repair", "--quarantine").startswith(("fixed", "found")):
                    break
            self.sweep()
            found = [*self._violations(damage), *self._unannounced()]
        except Exception:
            found = [traceback.format_exc(-6)]
        return "\n".join([f"after: {damage.what}", *found]) if found else ""

    def _violations(self, damage: Damage) -> Iterator[str]:
        """What an audit finds, but for what only a person can decide: which of two words is right."""
        # An entry, a count or an id that is another one, and might be right.
        misses_word = ":t:" in damage.kind and damage.what.endswith("is absent")
        for found in audit(self.url, limits=LIMITS, beside=[r"ts:mq:.*"]):
            of_log = found.invariant == "I2" and (":l:" in damage.kind or "the log" in found.what)
            of_counts = (misses_word and found.invariant == "I8") or "bytes, it says" in found.what
            of_key = found.invariant == "I11" and ":idem:" in damage.kind
            if not (of_log or of_counts or of_key):
                yield told([found])

    def _unannounced(self) -> Iterator[str]:
        """What readers do not learn of a worker that says once more that it runs, or else is restarted."""
        registry = self.store.registry
        for say in (registry.refresh, registry.announce):
            if say(self._worker, self._tools) and self._is_announced():
                return
        yield "the worker is not announced"

    def _is_announced(self) -> bool:
        registry = self.store.registry
        view = registry.read(self._worker.service)
        known = view.sets.get(self._worker.tools)
        return (
            self._worker.service in registry.services()
            and [worker.node for worker in view.workers] == [self._worker.node]
            and known is not None
            and known.tools == self._tools.tools
        )

    def sweep(self) -> None:
        """Both ways of sweeping; whatever they raise fails the test."""
        Sweeper(self.later, self.dispatcher, interval=0.001).sweep()
        beat = BeatWork(self.later, self.dispatcher, interval_ms=1, lease_ms=1)
        for work in (beat.expire, beat.reap, beat.resend, beat.audit):
            work()
        self.store.registry.forget_lost()

    def ask(self, *, as_json: bool) -> None:
        """What clients and operators ask, answered, or refused with an error of ours."""
        pending, parked = self.ids[0], self.ids[2]
        shown = ("--json",) if as_json else ()
        self.operate("list", *shown)
        self.operate("inspect", parked, *shown)
        self.operate("workers", *shown)
        self.operate("doctor", *shown, "--app", APP)
        self.operate("cancel", task_hash(parked))
        store = self.store
        for act in (
            lambda: store.page(ALICE, limit=3),
            lambda: store.create(creation()),
            lambda: store.create(creation(idempotency="k", request_digest="d")),
            lambda: store.apply(ALICE, pending, Cancel()),
            store.check,
            *(lambda task_id=task_id: store.get(ALICE, task_id) for task_id in self.ids),  # type: ignore[misc]
            *(lambda task_id=task_id: store.inspect(task_id) for task_id in self.ids),  # type: ignore[misc]
        ):
            with suppress(TasksServiceError):
                act()

    def operate(self, *arguments: str) -> str:
        """Run a command; what it printed on stdout."""
        done = CliRunner(env={"TASKS_REDIS_URL": self.url}).invoke(commands, arguments)
        error = done.exception
        if not (error is None or isinstance(error, SystemExit | TasksServiceError)):
            raise AssertionError(f"{arguments} met {error!r}") from error
        return done.stdout


def _shown(text: bytes) -> str:
    return text.decode(errors="backslashreplace")[:40]
