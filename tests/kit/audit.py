"""One function that looks at a store from outside and says where it breaks a promise.

It reads Redis with a client of its own and works out by itself where each task must be indexed, so that a
mistake in the store's layout cannot hide behind the same mistake here. The letters are those of the
invariants that this project holds:

    I1   no acknowledged task is lost             I8   attempts are bounded
    I2   only legal edges, revisions without gap  I9   an owner's quota counts exactly the live tasks
    I3   one final state, with what belongs to it I10  indexes and records agree, no key is an orphan
    I4   acknowledged once, refused never         I11  an idempotency key leads to its task
    I5   reads never go back                      I12  an answer counts once, a question key never again
    I7   no write without the current lease       I15  every key has a lifetime or an owner

I6 (liveness), I13, I14 and I16 are promises about processes and answers; no look at a store can show them.

Run it when nobody writes: it reads key by key, and a task that moves meanwhile looks torn.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from math import isfinite
from typing import Any, NamedTuple

import redis
from redis.cluster import ClusterNode

from tasks_service.addresses.redis import Kind, parse_address
from tasks_service.domain.decide import TRANSITIONS, effective
from tasks_service.domain.errors import CorruptRecord, TaskNotFound
from tasks_service.domain.events import RepairRecord
from tasks_service.domain.indexes import awaits_first_message
from tasks_service.domain.limits import DEFAULT_LIMITS, Limits, size
from tasks_service.domain.task import EntryKind, LogEntry, Phase, Slot, Task, TaskRecord, TaskStatus
from tasks_service.store.redis import RedisTaskStore
from tasks_service.store.redis.layout import BACKSTOP_MS
from tasks_service.store.redis.repair import DRIFT_MS

from .history import ClientLog, check_history

INDEXES = (
    "expired",
    "overdue",
    "leases",
    "timers",
    "suspects",
    "overtaken",
    "queues",
    "concurrency_keys",
    "beat",
    "dropped",
    "secrets",
)
"""Shard-wide keys: one of each, without a lifetime, because they hold what lives and nothing else."""

KINDS: Mapping[str, str] = {
    "record": r"{tag}:t:(?P<task>[0-9a-f]{20})",
    "log": r"{tag}:l:(?P<task>[0-9a-f]{20})",
    "owner": r"{tag}:owner:(?P<owner>.+)",
    "live": r"{tag}:live:(?P<owner>.+)",
    "blocks": r"{tag}:blocks:(?P<owner>.+)",
    "rate": r"{tag}:rate:.+",
    "idempotency": r"{tag}:idem:(?P<owner>.+):(?P<hash>[^:]+)",
    "quarantine": r"{tag}:quarantine:(?P<what>.+)",
    "pending": r"{tag}:pending:(?P<queue>.+)",
    "slots": r"{tag}:slots:(?P<owner>[^:]+):(?P<queue>.+)",
    "waiting": r"{tag}:waiting:(?P<owner>[^:]+):(?P<queue>.+)",
    "turns": r"{tag}:turns:(?P<queue>.+)",
    "index": r"{tag}:(?P<name>" + "|".join(INDEXES) + ")",
    "lock": r"{prefix}:lock:(?P<name>.+)",
    "swept": r"{prefix}:swept",
    "shards": r"{prefix}:shards",
    "registry": r"{prefix}:registry:\{00\}:(services|(alive|workers|sets|mark|tools):.+)",
    "session": r"{prefix}:(session|floor|interview):.+",
}
"""Every kind of key that a store may have."""

WITHOUT_LIFETIME = frozenset({"pending", "turns", "index", "swept", "shards"})
"""The kinds that never expire: two words about the whole store, and shard-wide indexes, whose members are
audited one by one."""

EDGES = {
    (source, target)
    for source, row in TRANSITIONS.items()
    for event, targets in row.items()
    for target in targets
    if event is not RepairRecord
}
"""Where an event may lead; what a repair does says so in its actor."""


class Violation(NamedTuple):
    """A promise that the store breaks, and the name of the task whose it is."""

    invariant: str
    task: str
    what: str


@dataclass
class _Seen:
    """All keys of a store, sorted by kind."""

    keys: dict[str, dict[str, re.Match[str]]] = field(default_factory=lambda: defaultdict(dict))
    unknown: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, int]] = field(default_factory=dict)
    live: dict[str, set[str]] = field(default_factory=dict)
    waited_under: set[str] = field(default_factory=set)
    records: dict[str, TaskRecord] = field(default_factory=dict)


def audit(
    url: str,
    client_log: ClientLog | None = None,
    *,
    prefix: str = "ts",
    limits: Limits = DEFAULT_LIMITS,
    beside: Sequence[str] = (),
) -> list[Violation]:
    """Check every invariant that a store alone, or with what its clients saw, can show.

    Args:
        url: Where Redis is.
        client_log: What clients asked for and were answered.
        prefix: The store's.
        limits: The store's.
        beside: Patterns of keys that others keep in the same database: a broker's queues.

    Returns:
        What is wrong; empty when all is well.
    """
    # A record is found by the shard that its id names, however many of them there really are.
    store = RedisTaskStore(url, prefix=prefix, shards=256, limits=limits)
    try:
        with client_of(url) as client:
            seen = _look(client, prefix, beside)
            found = [*_keys(client, seen), *_read(store, seen)]
            for name, record in seen.records.items():
                found += _record(name, record, limits)
                found += _fields(client, seen, name, record)
            found += [*_indexes(seen), *_quota(seen, limits), *_blocks(client, seen), *_slots(seen)]
            found += _idempotency(client, seen, _latest_ms(client, seen, prefix))
            records = {record.task.task_id: record for record in seen.records.values()}
    finally:
        store.close()
    if client_log is not None:
        found += [Violation(*problem) for problem in check_history(client_log, records, limits)]
    return found


@contextmanager
def client_of(url: str) -> Iterator[Any]:
    """A plain client of whatever a store's URL means."""
    address = parse_address(url)
    if address.kind is Kind.SINGLE:
        client: Any = redis.Redis.from_url(url, decode_responses=True, encoding_errors="surrogateescape")
    elif address.kind is Kind.CLUSTER:
        nodes = [ClusterNode(node.host, node.port) for node in address.nodes]
        client = redis.RedisCluster(startup_nodes=nodes, decode_responses=True)
    else:
        hosts = [(node.host, node.port) for node in address.nodes]
        client = redis.Sentinel(hosts, decode_responses=True).master_for(address.service)
    try:
        yield client
    finally:
        client.close()


def keys_without_end(url: str, *, prefix: str = "ts") -> list[Violation]:
    """Only I15, and also while others write: which of a store's keys have neither a lifetime nor an owner.

    Empty as well if the server does not answer, or takes no command of ours: there is nothing to look at.
    """
    foreign = (rf"(?!{re.escape(prefix)}:).*", rf"{re.escape(prefix)}:mq:.*")
    try:
        with redis.Redis.from_url(url, decode_responses=True, socket_timeout=5, retry=None) as client:
            found = list(_keys(client, _look(client, prefix, foreign)))
    except redis.RedisError:
        return []
    return [violation for violation in found if violation.invariant == "I15"]


# --- keys -------------------------------------------------------------------------------------------------


def _look(client: Any, prefix: str, beside: Sequence[str]) -> _Seen:
    tag = re.escape(prefix) + r":\{[0-9a-f]{2}\}"
    patterns = [
        (kind, re.compile(text.replace("{tag}", tag).replace("{prefix}", re.escape(prefix))))
        for kind, text in KINDS.items()
    ]
    others = [re.compile(text) for text in beside]
    seen = _Seen()
    for key in client.scan_iter(count=1000):
        for kind, pattern in patterns:
            if match := pattern.fullmatch(key):
                seen.keys[kind][key] = match
                break
        else:
            if not any(other.fullmatch(key) for other in others):
                seen.unknown.append(key)
    for kind in ("owner", "pending", "slots", "waiting", "turns", "index"):
        for key in seen.keys[kind]:
            if client.type(key) == "zset":
                scores = client.zscan_iter(key)
                seen.scores[key] = {member: int(score) if isfinite(score) else -1 for member, score in scores}
    for key, match in seen.keys["live"].items():
        seen.live[match["owner"]] = set(client.smembers(key)) if client.type(key) == "set" else set()
    for key, match in seen.keys["index"].items():
        if match["name"] == "concurrency_keys":
            seen.waited_under |= {
                f"{key.removesuffix('concurrency_keys')}waiting:{name}" for name in client.smembers(key)
            }
    return seen


def _keys(client: Any, seen: _Seen) -> Iterator[Violation]:
    for key in seen.unknown:
        yield Violation("I15", "", f"{key}: of no known kind")
    for kind, keys in seen.keys.items():
        for key in keys:
            if kind not in WITHOUT_LIFETIME and client.pttl(key) == -1:
                yield Violation("I15", "", f"{key}: it has no lifetime")
    records = {match["task"] for match in seen.keys["record"].values()}
    for key, match in seen.keys["log"].items():
        if match["task"] not in records:
            yield Violation("I10", match["task"], f"{key}: the log of no task")
    for key, members in seen.scores.items():
        if not key.endswith(":overtaken") and key not in seen.keys["turns"]:
            for member in members.keys() - records:
                yield Violation("I10", member, f"{key}: names a task that is not there")
    for owner, members in seen.live.items():
        for member in members - records:
            yield Violation("I9", member, f"the quota of {owner} counts a task that is not there")


# --- records ----------------------------------------------------------------------------------------------


def _read(store: RedisTaskStore, seen: _Seen) -> Iterator[Violation]:
    for match in seen.keys["record"].values():
        try:
            seen.records[match["task"]] = store.inspect(match["task"])
        except TaskNotFound:
            yield Violation("I10", match["task"], "a key, and no record in it")
        except (CorruptRecord, ValueError) as error:
            yield Violation("I3", match["task"], f"it cannot be read: {error}")


def _record(name: str, record: TaskRecord, limits: Limits) -> Iterator[Violation]:
    task = record.task
    if _name(task.task_id) != name:
        yield Violation("I10", name, f"its key is not that of {_name(task.task_id)}")
    for what, is_so, must_be in (
        ("a result", record.result is not None, task.status is TaskStatus.COMPLETED),
        ("an error", task.failure is not None, task.status is TaskStatus.FAILED),
        ("open questions", bool(task.inputs), task.status is TaskStatus.INPUT_REQUIRED),
    ):
        if is_so != must_be:
            yield Violation("I3", name, f"{task.status}, and it {'has' if is_so else 'lacks'} {what}")
    if task.lease is not None and task.status is not TaskStatus.WORKING:
        yield Violation("I3", name, f"{task.status}, and it is leased")
    for what in _log(task, record.log, limits):
        yield Violation("I2", name, what)
    if task.attempts > task.policy.max_attempts or task.claims < task.attempts:
        yield Violation("I8", name, f"tries {task.attempts} of {task.policy.max_attempts}, run {task.claims}")
    claims = sum(line.target is Phase.RUNNING for line in record.log)
    if record.log and record.log[0].revision == 0 and claims != task.claims:
        yield Violation("I8", name, f"claimed {claims} times, run says {task.claims}")
    yield from _journal(name, record)


def _log(task: Task, log: Sequence[LogEntry], limits: Limits) -> Iterator[str]:
    if not log:
        yield "it has no log"
        return
    revisions = [line.revision for line in log]
    if revisions != list(range(revisions[0], revisions[0] + len(log))) or revisions[-1] != task.revision:
        yield f"revision {task.revision}, the log has {revisions}"
    begun_anew = log[0].actor == RepairRecord.actor
    if revisions[0] != 0 and len(log) < limits.log_entries and not begun_anew:
        yield f"the log begins at {revisions[0]}"
    if log[-1].target is not task.phase:
        yield f"{task.phase}, the log ends in {log[-1].target}"
    for line in log:
        legal = (line.source, line.target) in EDGES or line.actor == RepairRecord.actor
        if not legal or (line.source is None) != (line.revision == 0):
            yield f"no event leads from {line.source} to {line.target} at {line.revision}"
    for before, after in pairwise(log):
        if before.target is not after.source:
            yield f"{after.revision} leaves {after.source}, where {before.target} was"
    if twice := [token for token, times in Counter(line.token for line in log).items() if times > 1]:
        yield f"the tokens {twice} are there twice"


def _journal(name: str, record: TaskRecord) -> Iterator[Violation]:
    task = record.task
    if (actual := sum(size(entry.value) for entry in record.journal)) != task.journal_bytes:
        yield Violation("I3", name, f"its journal has {actual} bytes, it says {task.journal_bytes}")
    if len(set(task.used_keys)) != len(task.used_keys) or not set(task.inputs) <= set(task.used_keys):
        yield Violation("I12", name, f"question keys {task.used_keys}, open {list(task.inputs)}")
    answered = Counter(entry.name for entry in record.journal if entry.kind is EntryKind.ANSWER)
    for key in task.used_keys:
        if answered[key] > 1 or (answered[key] and key in task.inputs):
            yield Violation("I12", name, f"{key!r} was answered {answered[key]} times")


def _fields(client: Any, seen: _Seen, name: str, record: TaskRecord) -> Iterator[Violation]:
    """What only the raw keys show: lifetimes, and journal entries that belong to nobody."""
    for kind in ("record", "log"):
        for key in (key for key, match in seen.keys[kind].items() if match["task"] == name):
            ends_ms = client.pexpiretime(key)
            if abs(ends_ms - _last_ms(record.task) - BACKSTOP_MS) > DRIFT_MS:
                yield Violation("I15", name, f"{key} ends at {ends_ms}, the task at {_last_ms(record.task)}")
            if kind == "record":
                entries = {name for name in client.hkeys(key) if name.startswith("j:")}
                if extra := entries - {f"j:{number}" for number in range(record.task.journal_length)}:
                    yield Violation("I3", name, f"journal entries {extra} beyond its end")


def _last_ms(task: Task) -> int:
    """When a task is certainly no more: at its expiry, or, while it lives, at the end of its longest life."""
    return task.expires_ms if task.status.is_final else task.created_ms + task.policy.max_lifetime_ms


# --- indexes ----------------------------------------------------------------------------------------------


def _name(task_id: str) -> str:
    """What keys and indexes call a task."""
    return task_id[:2] + blake2b(task_id.encode(), digest_size=9).hexdigest()


def _places(tag: str, task: Task) -> Iterator[tuple[str, int]]:
    """Where a task must be indexed, and how; written down apart from the store's own layout."""
    yield f"{tag}:owner:{task.owner}", task.created_ms
    if task.status.is_final:
        yield f"{tag}:expired", task.expires_ms
    if task.phase in (Phase.PENDING, Phase.RUNNING, Phase.PARKED):
        yield f"{tag}:overdue", min(task.deadline_ms, task.return_by_ms or task.deadline_ms)
    if task.phase is Phase.RUNNING and task.lease is not None:
        yield f"{tag}:leases", task.lease.until_ms
    if task.slot is Slot.HELD and task.phase in (Phase.PENDING, Phase.RUNNING):
        yield (
            f"{tag}:slots:{task.owner}:{task.queue}",
            min(task.deadline_ms, task.return_by_ms or task.deadline_ms),
        )
    if task.phase is Phase.PENDING:
        if task.slot is Slot.WAITING:
            yield f"{tag}:waiting:{task.owner}:{task.queue}", task.created_ms
        elif awaits_first_message(task):
            yield f"{tag}:timers", task.due_ms
        else:
            yield f"{tag}:pending:{task.queue}", task.dispatched_ms


def _indexes(seen: _Seen) -> Iterator[Violation]:
    expected: dict[str, dict[str, int]] = defaultdict(dict)
    tags = {match["task"]: key.rpartition(":t:")[0] for key, match in seen.keys["record"].items()}
    for name, record in seen.records.items():
        for key, score in _places(tags[name], record.task):
            expected[key][name] = score
    for key in expected.keys() | seen.scores.keys():
        if key.endswith((":suspects", ":overtaken")):
            continue  # a suspect may have left pending just before it was suspected: harmless, and bounded
        has, wants = seen.scores.get(key, {}), expected[key]
        for name in (has.keys() | wants.keys()) & seen.records.keys():
            if has.get(name) != wants.get(name):
                what = f"{key}: expected {wants.get(name)}, found {has.get(name)}"
                yield Violation("I10", name, what)


def _quota(seen: _Seen, limits: Limits) -> Iterator[Violation]:
    live: dict[str, set[str]] = defaultdict(set)
    for name, record in seen.records.items():
        if not record.task.status.is_final:
            live[record.task.owner].add(name)
    for owner in live.keys() | seen.live.keys():
        counted = seen.live.get(owner, set()) & seen.records.keys()
        for name in counted ^ live[owner]:
            how = "counts it, and it is final" if name in counted else "does not count it"
            yield Violation("I9", name, f"the quota of {owner} {how}")
        if len(live[owner]) > limits.live_per_owner:
            yield Violation("I9", "", f"{owner} has {len(live[owner])} of {limits.live_per_owner} live tasks")


def _blocks(client: Any, seen: _Seen) -> Iterator[Violation]:
    """Each owner's blocks are those of the records."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for name, record in seen.records.items():
        blocks = range(record.task.stored_bytes // 4096)
        wanted[record.task.owner] |= {f"{name}:{number}" for number in blocks}
    found = {match["owner"]: client.smembers(key) for key, match in seen.keys["blocks"].items()}
    for owner in wanted.keys() | found.keys():
        for block in found.get(owner, set()) ^ wanted[owner]:
            how = "counts" if block not in wanted[owner] else "does not count"
            yield Violation("I9", block.partition(":")[0], f"the quota of {owner} {how} the block {block}")


def _slots(seen: _Seen) -> Iterator[Violation]:
    """A task that waits is under a key that sweeps look at, and only a task that may have a slot has one.

    An owner whose tasks wait for a turn is among those of the queue that do.
    """
    for key in seen.keys["waiting"].keys() - seen.waited_under:
        yield Violation("I10", "", f"{key}: no sweep looks there")
    turns = {match["queue"]: seen.scores.get(key, {}) for key, match in seen.keys["turns"].items()}
    for name, record in seen.records.items():
        slot, phase = record.task.slot, record.task.phase
        allowed = {Slot.WAITING: (Phase.PENDING,), Slot.HELD: (Phase.PENDING, Phase.RUNNING)}
        if slot is not None and phase not in allowed[slot]:
            yield Violation("I3", name, f"{phase}, and its slot is {slot}")
        waits_for_turn = record.task.takes_turns and slot is Slot.WAITING
        if waits_for_turn and record.task.owner not in turns.get(record.task.queue, {}):
            yield Violation("I10", name, f"it waits for a turn, and {record.task.owner} is nobody who does")


def _idempotency(client: Any, seen: _Seen, latest_ms: int) -> Iterator[Violation]:
    remembered = {}
    for key, match in seen.keys["idempotency"].items():
        if (text := client.get(key)) is None:
            continue  # its lifetime has run out since it was listed
        try:
            named = _name(json.loads(text)["task"])
        except (ValueError, TypeError, LookupError):
            yield Violation("I11", "", f"{key}: cannot be read")
            continue
        ends_ms = client.pexpiretime(key)
        remembered[match["owner"], match["hash"]] = named
        record = seen.records.get(named)
        if record is not None and record.task.idempotency != match["hash"]:
            yield Violation("I11", named, f"{key}: leads to a task of another key")
        elif record is not None and abs(ends_ms - _key_ends_ms(record.task)) > DRIFT_MS:
            yield Violation("I11", named, f"{key}: ends at {ends_ms}, not at {_key_ends_ms(record.task)}")
        elif record is None and ends_ms > latest_ms:
            yield Violation("I11", named, f"{key}: leads to no task")
    for name, record in seen.records.items():
        now = effective(record.task, latest_ms + 1_000)
        if record.task.idempotency and now is not None:
            found = remembered.get((record.task.owner, record.task.idempotency))
            if found != name:
                yield Violation("I11", name, f"its key leads to {found or 'no task'}")


def _key_ends_ms(task: Task) -> int:
    """An idempotency key lives exactly as long as its task."""
    return task.expires_ms if task.status.is_final else _last_ms(task) + BACKSTOP_MS


def _latest_ms(client: Any, seen: _Seen, prefix: str) -> int:
    """The latest moment that the store knows of; tests move its clock ahead of the server's."""
    seconds, microseconds = client.time()
    swept = json.loads(client.get(f"{prefix}:swept") or '{"at": 0}')["at"]
    written = (record.log[-1].at_ms for record in seen.records.values() if record.log)
    return max(seconds * 1000 + microseconds // 1000, swept, *written, 0)


def told(violations: Iterable[Violation]) -> str:
    """Violations as an assertion shows them."""
    return "\n".join(f"{found.invariant} {found.task} {found.what}" for found in violations)
