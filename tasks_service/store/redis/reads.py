"""What clients and operators read; nothing here writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ...domain.decide import effective
from ...domain.errors import CorruptRecord, TaskNotFound
from ...domain.indexes import Due
from ...domain.names import is_task_of, task_hash
from ...domain.task import NO_TEXT, JsonText, Owner, Task, TaskRecord
from ..clients import Page, TaskView
from . import codec
from .layout import Command, Shard, problems, score_of, sorted_index_entries
from .programs import StorePrograms
from .transaction import Program, Reply, once

logger = logging.getLogger(__name__)

_SAME_MOMENT = 64
"""How many tasks of one owner, created in the same millisecond, a page skips before it reads more."""

_STATE = len(codec.STATE_FIELDS)


class Reads(StorePrograms):
    """Builds the programs that read."""

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> Program[TaskView]:
        """See `ClientStore.get`: one round trip."""
        yield from self.refuse_foreign(owner, task_id)
        shard = self.layout.shard_of(task_id)
        reads: list[Command] = [("TIME",), ("HMGET", shard.task(task_id), *codec.VIEW_FIELDS)]
        time, values = yield from once(reads, self.deadline)
        _no_error(task_id, values)
        now_ms = self.time_of(time)
        task = codec.decode(self.envelope, task_id, values[:_STATE], now_ms)
        now = None if task is None else effective(task, now_ms)
        # A name leads to the record as well, and the hash is no proof of the id.
        if now is None or now.task_id != task_id or now.owner != owner or not (now.visible or hidden):
            raise TaskNotFound(task_id)
        result = values[_STATE]
        if result:
            result = codec.open_field(self.envelope.of(owner, task_hash(task_id)), "result", result)
        return TaskView(task=now, result=result or None)

    def refuse_foreign(self, owner: Owner, task_id: str) -> Program[None]:
        """Refuse a task of somebody else as one that does not exist, before anything of it is read.

        Who asks must not learn from the time of the answer that there is a task, or how large it is. An id
        says whose it is; one that an earlier release has drawn does not, so the owner's index is asked, in
        which neither a task of others nor one that does not exist can be found.

        Raises:
            TaskNotFound: It cannot be the owner's.
        """
        shard, is_owners = self.layout.shard_of_owner(owner), is_task_of(task_id, owner)
        if is_owners:
            return
        if is_owners is False or self.layout.shard_of(task_id) is not shard:
            raise TaskNotFound(task_id)
        reads: list[Command] = [("ZSCORE", shard.owner(owner), task_hash(task_id))]
        (listed,) = yield from once(reads, self.deadline)
        if listed is None:
            raise TaskNotFound(task_id)

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Program[Page]:
        """See `ClientStore.page`: the owner's index, then the records, in a round trip each."""
        shard = self.layout.shard_of_owner(owner)
        key = shard.owner(owner)
        tasks: list[Task] = []
        position = after
        while True:
            names, position = yield from self._members(key, position, limit)
            if names:
                tasks += yield from self._visible(shard, owner, names)
            if position is None or len(tasks) >= limit:
                break
        if len(tasks) > limit:
            tasks = tasks[:limit]
            position = _position(tasks[-1])
        return Page(tasks=tuple(tasks), last=position)

    def _members(self, key: str, after: str | None, limit: int) -> Program[tuple[list[str], str | None]]:
        if after is None:
            reads: list[Command] = [("ZREVRANGE", key, 0, limit, "WITHSCORES")]
            (flat,) = yield from once(reads, self.deadline)
            pairs = _scored(key, flat)
        else:
            pairs = yield from self._members_after(key, after, limit)
        names = [member for member, _ in pairs[:limit]]
        more = len(pairs) > limit
        return names, f"{pairs[limit - 1][1]}:{pairs[limit - 1][0]}" if more else None

    def _members_after(self, key: str, after: str, limit: int) -> Program[list[tuple[str, int]]]:
        """The members after a position, one more than `limit` if there are so many.

        Those of the position's own millisecond come first, whether before or after it; so when they fill what
        was read, more is read.
        """
        score, _, member = after.partition(":")
        count = limit + _SAME_MOMENT
        while True:
            reads: list[Command] = [("ZREVRANGEBYSCORE", key, score, "-inf", "WITHSCORES", "LIMIT", 0, count)]
            (flat,) = yield from once(reads, self.deadline)
            found = _scored(key, flat)
            pairs = [(m, s) for m, s in found if s < int(score) or m < member][: limit + 1]
            if len(pairs) > limit or len(flat) < 2 * count:
                return pairs
            count *= 2

    def _visible(self, shard: Shard, owner: Owner, names: Sequence[str]) -> Program[list[Task]]:
        reads: list[Command] = [("TIME",)]
        reads += [("HMGET", shard.task(name), *codec.STATE_FIELDS) for name in names]
        time, *records = yield from once(reads, self.deadline)
        now_ms = self.time_of(time)
        found = (self._readable(name, values) for name, values in zip(names, records, strict=True))
        current = (effective(task, now_ms) for task in found if task is not None)
        return [task for task in current if task is not None and task.owner == owner and task.visible]

    def _readable(self, name: str, values: Reply) -> Task | None:
        """A record of many; None, and a word in the log, if it cannot be read: the others still can."""
        try:
            return codec.decode(self.envelope, name, values)
        except CorruptRecord as error:
            logger.warning("A task is left out of its owner's list: %s", error)
            return None

    def inspect(self, reference: str) -> Program[TaskRecord]:
        """See `MaintenanceStore.inspect`."""
        shard = self.layout.shard_of(reference)
        reads: list[Command] = [("HGETALL", shard.task(reference)), ("LRANGE", shard.log(reference), 0, -1)]
        flat, lines = yield from once(reads, self.deadline)
        _no_error(reference, flat)
        record: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
        task = codec.decode(self.envelope, reference, [record.get(name) for name in codec.STATE_FIELDS])
        if task is None:
            raise TaskNotFound(reference)
        seal = self.envelope.of(task.owner, task_hash(reference))
        arguments, result = (
            None if text is None else JsonText(codec.open_field(seal, name, text))
            for name, text in ((name, record.get(name)) for name in ("arguments", "result"))
        )
        return TaskRecord(
            task=task,
            arguments=arguments or NO_TEXT,
            caller=codec.decode_caller(seal, record.get("caller")),
            result=result,
            exception=codec.decode_exception(seal, record.get("exception")),
            journal=codec.decode_journal(seal, task.journal_length, record),
            log=codec.decode_log(reference, lines),
        )

    def tasks(self, names: Sequence[str]) -> Program[list[Task]]:
        """See `MaintenanceStore.tasks`: one round trip."""
        if not names:
            return []
        reads: list[Command] = [
            ("HMGET", self.layout.shard_of(name).task(name), *codec.STATE_FIELDS) for name in names
        ]
        rows = yield from once(reads, self.deadline)
        found = []
        for name, values in zip(names, rows, strict=True):
            try:
                _no_error(name, values)
                task = codec.decode(self.envelope, name, values, without_keys=True)
            except CorruptRecord as error:
                logger.debug("A task is passed over: %s", error)
                continue
            if task is not None:
                found.append(task)
        return found

    def scan(self, key: str, cursor: str) -> Program[tuple[str, list[str]]]:
        """One step of walking through an index: the next cursor ("0" at the end) and some names."""
        reads: list[Command] = [("ZSCAN", key, cursor, "COUNT", 500)]
        (reply,) = yield from once(reads, self.deadline)
        if isinstance(reply, Exception):
            logger.warning("%s cannot be read: %s. Run tasks-service repair.", key, reply)
            return "0", []
        following, flat = reply
        return following, flat[::2]

    def index_problems(self, reference: str) -> Program[list[str]]:
        """See `MaintenanceStore.index_problems`."""
        record = yield from self.inspect(reference)
        task, shard, name = record.task, self.layout.shard_of(reference), task_hash(reference)
        indexes = [shard.index(index.value) for index in Due]
        indexes += [
            shard.pending(task.queue),
            shard.slots(task.concurrency_key),
            shard.waiting(task.concurrency_key),
        ]
        keys = sorted({*sorted_index_entries(shard, task), *indexes})
        reads: list[Command] = [("ZSCORE", key, name) for key in keys]
        reads.append(("SISMEMBER", shard.live(task.owner), name))
        *scores, is_live = yield from once(reads, self.deadline)
        found = {key: score_of(score) for key, score in zip(keys, scores, strict=True)}
        broken = [f"{key}: {reply}" for key, reply in zip(keys, scores, strict=True) if _is_error(reply)]
        return broken + problems(shard, task, found, not _is_error(is_live) and bool(is_live))


def _is_error(reply: Reply) -> bool:
    return isinstance(reply, Exception)


def _scored(key: str, flat: Reply) -> list[tuple[str, int]]:
    """Members with their scores; what has no score that we give is left out."""
    if isinstance(flat, Exception):
        raise CorruptRecord(key, str(flat))
    pairs = ((member, score_of(score)) for member, score in zip(flat[::2], flat[1::2], strict=True))
    return [(member, score) for member, score in pairs if score is not None]


def _position(task: Task) -> str:
    return f"{task.created_ms}:{task_hash(task.task_id)}"


def _no_error(task_id: str, reply: Reply) -> None:
    if isinstance(reply, Exception):
        raise CorruptRecord(task_id, str(reply))
