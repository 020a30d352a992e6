"""Bugs that are planted in a copy of the package, to prove that the checks would see them.

Each is one small change of the kind that a person makes. A change that no longer finds its place in the code
is an error, so the list cannot rot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .linearizability import FOUND

ROOT = Path(__file__).parents[2]
PACKAGE = Path("tasks_service")
DECIDE = "domain/decide.py"
TRANSACTION = "store/redis/transaction.py"
TRANSITIONS = "store/redis/transitions.py"
RECORDS = "store/redis/records.py"
INDEXES = "domain/indexes.py"
SLOTS = "store/redis/slots.py"
LAYOUT = "store/redis/layout.py"
DRIVERS = "store/redis/drivers.py"
SERVERS = "store/redis/servers.py"


@dataclass(frozen=True)
class Mutant:
    """A bug: in `file`, `old` becomes `new`, wherever it stands.

    Attributes:
        by: The only check that is there for such a bug; empty: each is tried.
    """

    file: str
    old: str
    new: str
    by: str = ""


MUTANTS: dict[str, Mutant] = {
    "no WATCH": Mutant(TRANSACTION, '("WATCH", *transition.watch())', '("PING",)'),
    "a lost race counts as won": Mutant(
        TRANSACTION,
        "if (failure := _failure(replies)) is None and replies[-1] is None:",
        "if (failure := _failure(replies)) is None and False:",
    ),
    "no token lookup": Mutant(DECIDE, "        if entry.token == token:", "        if False:"),
    "only the last token is looked up": Mutant(DECIDE, "in reversed(log):", "in reversed(log[-1:]):"),
    "no lease check": Mutant(
        DECIDE, "task.lease is None or task.lease.lease_id != event.lease_id", "task.lease is None"
    ),
    "a lease is taken before its end": Mutant(
        DECIDE, "moment.now_ms < task.lease.until_ms:", "moment.now_ms < task.lease.until_ms - 1:"
    ),
    "a write in two transactions": Mutant(
        TRANSACTION,
        'replies = yield RoundTrip([("MULTI",), *write.commands, ("EXEC",)], follows=True)',
        'replies = yield RoundTrip([("MULTI",), *write.commands[1:], ("EXEC",)], follows=True)\n'
        "                if isinstance(replies[-1], list):\n"
        '                    first = yield RoundTrip([("MULTI",), write.commands[0], ("EXEC",)])\n'
        "                    replies = [*first[:-1], [*first[-1], *replies[-1]]]",
    ),
    "an EXEC opens a connection of its own": Mutant(
        DRIVERS,
        "if connection is None or not self._is_open(connection):",
        "if connection is None:",
        by="cluster",
    ),
    "a server that refuses is not left": Mutant(
        TRANSACTION, "return self.failure is not None", "return False", by="behaviour"
    ),
    "commands for two nodes all go to one": Mutant(
        SERVERS, "self._owner(first if slot is None else slot)", "self._owner(first)", by="cluster"
    ),
    "no expiry check": Mutant(
        DECIDE, "now_ms >= task.expires_ms and not keep_expired", "now_ms < 0 and not keep_expired"
    ),
    "an index keeps its old score": Mutant(LAYOUT, "if old.get(key) != score:", "if key not in old:"),
    "an index entry is never removed": Mutant(LAYOUT, "old.keys() - new.keys()", "set(old) - set(old)"),
    "the quota is not freed": Mutant(
        LAYOUT, "if was_live and not is_live:", "if was_live and after is None:"
    ),
    "attempts without end": Mutant(DECIDE, "policy.max_attempts", "policy.max_attempts + 99"),
    "the message is lost": Mutant(
        RECORDS, "        if sends and applied.task is not None:", "        if False:"
    ),
    "question keys are forgotten": Mutant(
        DECIDE, "used_keys=(*task.used_keys, *inputs)", "used_keys=tuple(inputs)"
    ),
    "whoever leaves is waited for without end": Mutant(
        DECIDE, "min(task.deadline_ms, task.return_by_ms) if task.return_by_ms", "task.deadline_ms if True"
    ),
    "whoever comes back is thought away": Mutant(
        DECIDE, "return Applied(task=replace(task, return_by_ms=0))", "return Applied(task=task)"
    ),
    "a key goes with the first of its tasks": Mutant(
        RECORDS,
        '    commands.append(("UNLINK", shard.task',
        '    commands.append(("DEL", shard.idempotency(task.owner, task.idempotency)))\n'
        '    commands.append(("UNLINK", shard.task',
    ),
    "records never end": Mutant(
        LAYOUT,
        "if before is not None and _ends(shard, before) == _ends(shard, after):",
        "if before is None or _ends(shard, before) == _ends(shard, after):",
    ),
    "a slot is never granted": Mutant(TRANSITIONS, "free = line.free", "free = 0", by="concurrency limits"),
    "a slot is granted without a message": Mutant(
        INDEXES,
        "isinstance(event, Redispatch | GrantSlot)",
        "isinstance(event, Redispatch)",
        by="concurrency limits",
    ),
    "a slot is not freed": Mutant(
        DECIDE,
        'changes.setdefault("slot", None)',
        'changes.setdefault("slot", task.slot)',
        by="concurrency limits",
    ),
    "a task that was interrupted loses its slot": Mutant(
        DECIDE, "attempts=tries, slot=task.slot)", "attempts=tries)", by="concurrency limits"
    ),
    "slots are not watched": Mutant(
        SLOTS, "return [self._shard.slots(self._key)]", "return []", by="concurrency limits"
    ),
    "no slot is ever seen to be taken": Mutant(
        SLOTS, "if latest and not isinstance", "if () and not isinstance", by="slots"
    ),
    "one owner alone has one worker": Mutant(
        DECIDE, "counts.messages_ahead < MESSAGES_AHEAD", "counts.messages_ahead < 0", by="turns"
    ),
    "whoever takes a message calls nobody": Mutant(
        INDEXES, "return left_queue or _frees_slot", "return _frees_slot", by="turns"
    ),
    "the owner who has the most is next": Mutant(SLOTS, "return min(lines,", "return max(lines,", by="turns"),
    "a message that seems lost is waited for": Mutant(
        SLOTS, "{task_hash(task_id), *suspects}", "{task_hash(task_id)}", by="turns"
    ),
}

BEHAVIOUR = ("tests/store/test_transaction.py", "tests/store/test_behaviour.py", "tests/store/test_redis.py")
ONE_SERVER = "not memory and not sentinel and not cluster"
CHECKS: Sequence[tuple[str, int, tuple[str, ...]]] = (
    ("linearizability", FOUND, ("-m", "tests.faults.linearizability", "4000")),
    ("behaviour", 1, ("-m", "pytest", "-q", "-x", "-k", ONE_SERVER, *BEHAVIOUR)),
    ("concurrency limits", 1, ("-m", "pytest", "-q", "-x", "-k", ONE_SERVER, "tests/store/test_slots.py")),
    ("turns", 1, ("-m", "pytest", "-q", "-x", "-k", ONE_SERVER, "tests/store/test_turns.py")),
    ("slots", FOUND, ("-m", "tests.faults.linearizability", "4000", "1")),
    ("lock step", 1, ("-m", "pytest", "-q", "-x", "tests/store/test_lock_step.py")),
    ("cluster", 1, ("-m", "pytest", "-q", "-x", "tests/store/test_cluster.py")),
)
"""Tried in this order until one of them sees the bug: name, the exit code that says so, what Python runs."""


def copied(target: Path) -> Path:
    """A copy of what the checks need."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("tasks_service", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def plant(mutant: Mutant, copy: Path) -> None:
    """Change the copy; raises if the code is not as the mutant knows it."""
    path = copy / PACKAGE / mutant.file
    text = path.read_text(encoding="utf-8")
    if mutant.old not in text:
        raise LookupError(f"{mutant.file} has no {mutant.old!r} any more; the mutant must follow the code.")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def run_check(arguments: Sequence[str], copy: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run one check on the copy; the working directory comes first on the path of Python.

    Sizes and seeds of the campaign around it are not the check's.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("TASKS_TEST_")}
    environment = {**own, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def catchers(copy: Path, seconds: float, by: str = "") -> Iterator[tuple[str, str]]:
    """The first check that fails on the copy, with the end of what it said; nothing if none does.

    Args:
        copy: Of the package and its tests.
        seconds: For each check.
        by: Only this check; empty: all of them.
    """
    for name, seen, arguments in (check for check in CHECKS if by in ("", check[0])):
        done = run_check(arguments, copy, seconds)
        if done.returncode == seen:
            yield name, done.stdout[-600:]
            return
        if done.returncode != 0:
            raise RuntimeError(f"{name} could not be run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
