"""`tasks-service doctor`: find what is wrong with a service, and say how to fix it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice

import click
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError
from rich.console import Console

from ..addresses.encryption import is_open
from ..broker.app import MAINTENANCE_QUEUE
from ..broker.signature import message_signer, with_messages
from ..crypto.keys import Fingerprints, existing_keys
from ..domain.errors import StoreForbidden, StoreFull, StoreRefuses, StoreUnavailable
from ..domain.task import DAY, SECOND
from ..local.ports import http_status, http_url
from ..local.stack import DEFAULT_FLOWER_PORT, FLOWER_PORT
from ..service import TaskService
from ..settings import Settings
from ..store.findings import Finding, Severity
from ..store.redis import CREATES_UNTIL, RedisTaskStore, Role, refusal_of, refused_work
from ..worker.incoming import unsafe_contents
from ..worker.maintenance.schedule import CELERY_TASKS, LATE_MS, left_to_workers
from .application import (
    app_option,
    find_celery_path,
    json_option,
    load_connected_service,
    open_store,
    redis_url_of,
    settings_of,
)
from .default_user import restart_losses
from .tool_findings import AnsweringWorker, ToolExamination, waiting_findings

#: Seconds that workers have to answer, and the broker to accept a connection.
ANSWER_SECONDS, CONNECT_SECONDS = 2.0, 5
#: Clocks further apart than this make the times that people read misleading.
CLOCK_SKEW_SECONDS = 1.0
#: How many records are looked at for keys that are still needed.
MOST_RECORDS = 10_000
#: A sweep that is this many intervals late is missing.
LATE_SWEEPS = 5
#: For how long dropped messages are worth a word.
DROPPED_LATELY_MS = DAY
#: How long a task must have waited to be looked at, and how many of a queue are.
LONG_WAIT_MS, MOST_PENDING = 2 * SECOND, 10_000
#: The prefix of the name with which beat answers.
BEAT_NAME = "celerybeat@"
#: Recommended settings of a Celery app, and what happens without them; apps that we create have them.
ADVISED_SETTINGS: Mapping[str, tuple[object, str]] = {
    "worker_cancel_long_running_tasks_on_connection_loss": (
        False,
        "a short outage of Redis kills running tools, which start again only after their lease",
    ),
    "worker_prefetch_multiplier": (1, "a busy worker holds messages that an idle one could take"),
    "broker_channel_error_retry": (
        True,
        "a tool that runs for longer than RabbitMQ's consumer_timeout (30 minutes) ends its worker",
    ),
    "broker_connection_max_retries": (None, "workers give up when the broker is away for long"),
}


@dataclass
class Examination:
    """The service under examination, and cached answers of its workers."""

    service: TaskService
    settings: Settings
    store: RedisTaskStore
    celery_path: str | None = None
    """With which `celery -A` finds its Celery app, if the service's module names it."""
    _replies: dict[str, object] | None = field(default=None)
    _answering: tuple[AnsweringWorker, ...] | None = field(default=None)

    @property
    def app(self) -> Celery:
        """Its Celery app."""
        return self.service.celery

    def nodes(self) -> set[str]:
        """The workers and beats that answer."""
        if self._replies is None:
            try:
                answers = self.app.control.ping(timeout=ANSWER_SECONDS)
            except OperationalError:
                answers = ()  # what is wrong with the broker has been told; asking it again takes seconds
            self._replies = {name: reply for answer in answers for name, reply in answer.items()}
        return set(self._replies)

    def workers(self) -> set[str]:
        """The workers that answer."""
        return {name for name in self.nodes() if not name.startswith(BEAT_NAME)}

    def answering(self) -> tuple[AnsweringWorker, ...]:
        """The workers that answer, with the queues that they take and the Celery tasks that they have."""
        if self._answering is None:
            workers = sorted(self.workers())
            # Asked by name, so that nobody waits for more answers when all of them have come.
            inspect = self.app.control.inspect(destination=workers, timeout=ANSWER_SECONDS)
            active = (inspect.active_queues() or {}) if workers else {}
            tasks = (inspect.registered() or {}) if active else {}
            self._answering = tuple(
                AnsweringWorker(
                    node=node,
                    queues=frozenset(queue["name"] for queue in queues),
                    # Behind a name may stand what is special about the task.
                    tasks=frozenset(name.partition(" ")[0] for name in tasks.get(node, ())),
                )
                for node, queues in sorted(active.items())
            )
        return self._answering

    def beat_answers(self) -> bool:
        """Whether a beat answers, which only one with `--enable-remote-control` does."""
        return any(name.startswith(BEAT_NAME) for name in self.nodes())


Check = Callable[[Examination], Iterable[Finding]]


@click.command()
@app_option
@json_option
def doctor(app: str, as_json: bool) -> None:
    """Examine Redis, broker, workers, beat, front end and Flower; exit status 1 if something is broken."""
    settings = settings_of()
    report: list[tuple[str, list[Finding]]] = []
    with open_store(settings) as store:
        service = load_connected_service(app, settings)
        examination = Examination(service, settings, store, find_celery_path(app))
        for title, check in CHECKS.items():
            found = _run_check(check, examination)
            report.append((title, found))
            if title == REDIS and any(finding.severity is Severity.ERROR for finding in found):
                break  # nothing works without it, so every further check would report the same
    if as_json:
        click.echo(json.dumps([_as_json(title, found) for title, found in report]))
    else:
        _print(report)
    sys.exit(any(finding.severity is Severity.ERROR for _, found in report for finding in found))


def _run_check(check: Check, examination: Examination) -> list[Finding]:
    """Run a check; if Redis refuses what it needs (is full, say, or a replica), report that instead."""
    try:
        return list(check(examination))
    except (OutOfMemoryError, StoreFull) as error:
        return [_error(f"It could not be checked: {error}", "Give Redis more memory first.")]
    except NoPermissionError as error:
        return [_error(f"It could not be checked: {error}", StoreForbidden().remedy)]
    except StoreRefuses as error:
        return [_error(f"It could not be checked: {error}", error.remedy)]
    except StoreUnavailable as error:
        return [_error(f"It could not be checked: {error}", _START_REDIS)]
    except RedisError as error:  # of Celery's own connections
        refusal = refusal_of(error)
        return [_error(f"It could not be checked: {error}", refusal.remedy if refusal else _START_REDIS)]


def check_redis(examination: Examination) -> Iterator[Finding]:
    """Check that Redis answers, is new enough, never evicts, persists data, and permits what we do."""
    lacks = examination.store.check_permissions(Role.OPERATOR)
    yield from lacks or examination.store.check()
    yield from restart_losses(redis_url_of(examination.settings))


def check_secrets(examination: Examination) -> Iterator[Finding]:
    """Check that the secret here, if there is one, is that of the front ends."""
    settings = examination.settings
    keys = existing_keys(settings.secret, settings.accepted_secrets, settings.owner_secret, settings.data_dir)
    signer = message_signer(settings.model_copy(update={"redis_url": redis_url_of(settings)}))
    ours = with_messages(Fingerprints() if keys is None else keys.fingerprints, signer)
    yield from examination.store.check_secrets(ours)


def check_signatures(examination: Examination) -> Iterator[Finding]:
    """Check that messages are signed, and that no message can run code by being read."""
    settings = examination.settings
    signer = message_signer(settings.model_copy(update={"redis_url": redis_url_of(settings)}))
    if signer is None:
        yield _warning(
            "Messages are not signed: whoever can write to the broker can make workers look for work.",
            "Set TASKS_MESSAGE_SECRET for all front ends, workers and beats, in two steps "
            "(docs/upgrading.md).",
        )
    elif not signer.requires:
        yield _warning(
            "Messages that are not signed run as well (TASKS_MESSAGE_SIGNING=accept).",
            "Take the variable away once all processes have TASKS_MESSAGE_SECRET.",
        )
    if unsafe := unsafe_contents(examination.app):
        yield _warning(
            f"The Celery app accepts {' and '.join(unsafe)}: whoever can write to its queues can run any "
            "code in its workers. Queues that only tools use take JSON all the same.",
            "Set its accept_content to ['json'].",
        )


def check_records(examination: Examination) -> Iterator[Finding]:
    """Check that what is stored is encrypted under the key that encrypts now, where there is one."""
    store = examination.store
    if not store.envelope.key_names:
        return
    if store.envelope.seals and not store.envelope.requires:
        yield _warning(
            "Records that are not encrypted are read as well (TASKS_ENCRYPTION=accept).",
            "Take the variable away once tasks-service reencrypt finds nothing more.",
        )
    looked_at = list(islice(store.task_names(), MOST_RECORDS))
    stale = [found for found in store.reencrypt(looked_at, dry_run=True) if found.keys]
    if stale and store.envelope.seals:
        names = sorted(frozenset[str]().union(*(found.keys for found in stale)))
        under = ", ".join(name or "no key" for name in names)
        yield _warning(
            f"{len(stale)} of {len(looked_at)} records that were looked at are under older keys ({under}).",
            "Keep these keys in TASKS_ENCRYPTION_KEYS, and run: tasks-service reencrypt",
        )


def check_memory(examination: Examination) -> Iterator[Finding]:
    """Check that Redis has memory for new tasks."""
    memory = examination.store.memory()
    if memory is None:
        yield _warning(
            "Redis has no maxmemory, so no work is refused before the machine has no memory left.",
            "Run CONFIG SET maxmemory with half of the machine's memory, and set it in redis.conf as well.",
        )
    elif examination.settings.limits.stored_per_owner > memory.maximum * CREATES_UNTIL // 100:
        yield _warning(
            "One owner alone may store so much that new tasks of everybody are refused: "
            f"TASKS_MAX_STORED_PER_OWNER is {examination.settings.limits.stored_per_owner}, and they are "
            f"refused from {CREATES_UNTIL} percent of maxmemory on, which is {memory.maximum}.",
            "Lower TASKS_MAX_STORED_PER_OWNER, or raise maxmemory by CONFIG SET, and in redis.conf as well.",
        )
    if (refused := refused_work(memory)) is not None:
        yield _error(
            f"Redis is nearly full: {refused}.",
            "Raise maxmemory by CONFIG SET, and in redis.conf as well. Sweeps delete expired tasks.",
        )


def check_clock(examination: Examination) -> Iterator[Finding]:
    """Check that this machine's clock agrees with Redis's, which is the one that decisions use."""
    before = time.time()
    theirs = examination.store.now_ms() / 1000
    skew = theirs - (before + time.time()) / 2
    if abs(skew) > CLOCK_SKEW_SECONDS:
        yield _warning(
            f"This machine's clock is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} Redis's.",
            "Run a time service (chrony, systemd-timesyncd) on both machines.",
        )


def check_broker(examination: Examination) -> Iterator[Finding]:
    """Check that the broker accepts connections."""
    connection = examination.app.connection_for_write()
    try:
        connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
    except Exception as error:
        yield _error(
            f"The broker {connection.as_uri()} does not answer: {error}",
            "Start it, or correct TASKS_BROKER_URL. Until then tasks are recorded and wait.",
        )
    finally:
        connection.release()


def check_encryption(examination: Examination) -> Iterator[Finding]:
    """Check that connections to Redis and the broker are encrypted if they leave this machine."""
    settings = examination.settings
    urls = {"TASKS_REDIS_URL": settings.redis_url, "TASKS_BROKER_URL": settings.broker_url}
    for name, url in urls.items():
        if url is not None and is_open(url) and not settings.private_network:
            yield _warning(
                f"{name} leads to another machine, and the connection is not encrypted: arguments, results "
                "and passwords can be read on the way.",
                "Use rediss:// or amqps://, or say TASKS_PRIVATE_NETWORK=true if nobody else can listen.",
            )


def check_workers(examination: Examination) -> Iterator[Finding]:
    """Check that a worker answers."""
    if not examination.workers():
        yield _error(
            "No worker answers: tasks are recorded and wait.", f"Run: {_worker_command(examination)}"
        )


def check_queues(examination: Examination) -> Iterator[Finding]:
    """Check that a worker consumes from each tool's queue."""
    if not examination.workers():
        return
    taken = {queue for worker in examination.answering() for queue in worker.queues}
    wanted: dict[str, list[str]] = {}
    for tool in examination.service.tools.values():
        wanted.setdefault(tool.definition.queue, []).append(tool.name)
    for queue in wanted.keys() - taken:
        yield _error(
            f"No worker takes the queue {queue!r}, so these tools never run: {', '.join(wanted[queue])}.",
            f"Run: {_worker_command(examination)} -Q {queue}",
        )
    if MAINTENANCE_QUEUE not in taken:
        yield _warning(
            f"No worker takes the queue {MAINTENANCE_QUEUE!r}: all do by themselves what beat asks for.",
            f"Run: {_worker_command(examination)} -Q {MAINTENANCE_QUEUE}",
        )


def check_tools(examination: Examination) -> Iterator[Finding]:
    """Check that workers have the tools whose messages they take, and agree about them."""
    store, service = examination.store, examination.service
    tools = {name: tool.definition for name, tool in service.tools.items()}
    views = {name: store.registry.read(name) for name in {service.name, *store.registry.services()}}
    yield from ToolExamination(
        tools=tools,
        view=views[service.name],
        workers=examination.answering(),
        command=_worker_command(examination),
    ).findings()
    until_ms = store.now_ms() - LONG_WAIT_MS
    for queue in store.queues():
        names = store.pending(queue, until_ms=until_ms, limit=MOST_PENDING)
        yield from waiting_findings(store.tasks(names), views.values())


def check_messages(examination: Examination) -> Iterator[Finding]:
    """Check that workers have lately been given nothing but messages."""
    now_ms = examination.store.now_ms()
    for queue, dropped in sorted(examination.store.dropped_messages().items()):
        age_ms = max(now_ms - dropped.at_ms, 0)
        if age_ms < DROPPED_LATELY_MS:
            yield _warning(
                f"Workers dropped something from the queue {queue!r} that was no message of theirs, "
                f"{age_ms / 1000:.0f} s ago; {dropped.number} times in all.",
                "The workers' logs say what was wrong with it. Find out who else writes to the broker.",
            )


def check_fairness(examination: Examination) -> Iterator[Finding]:
    """Check that the tasks of one owner cannot take all workers."""
    settings = examination.settings
    queues = sorted({tool.definition.queue for tool in examination.service.tools.values()})
    shared = [queue for queue in queues if settings.limits.concurrency_limit(queue) is None]
    if settings.take_turns is False and len(settings.api_keys) > 1 and shared:
        yield _warning(
            f"{len(settings.api_keys)} owners share the workers of these queues, and the tasks of one can "
            f"take them all: {', '.join(shared)}.",
            "Remove TASKS_TAKE_TURNS=false, or set TASKS_MAX_RUNNING_PER_OWNER to fewer than the workers "
            "have slots.",
        )


def check_sweeps(examination: Examination) -> Iterator[Finding]:
    """Check that a sweep has run lately."""
    age_ms = examination.store.last_sweep_ms()
    late = examination.settings.sweep_interval * LATE_SWEEPS
    if age_ms is None or age_ms / 1000 > late:
        when = "never" if age_ms is None else f"last {age_ms / 1000:.0f} s ago"
        yield _error(
            f"Lost and overdue tasks are not found: a sweep ran {when}.",
            f"Run a worker: {_worker_command(examination)}",
        )


def check_beat(examination: Examination) -> Iterator[Finding]:
    """Check that what beat asks for is done; only a warning, because workers do it otherwise."""
    scheduled = {entry["task"] for entry in (examination.app.conf.beat_schedule or {}).values()}
    unlisted = {kind for kind, task in CELERY_TASKS.items() if task not in scheduled}
    ages_ms = examination.store.beat_ages_ms()
    done_lately = ages_ms.keys() - left_to_workers(ages_ms)
    # A beat with a schedule of its own, as `tasks-service up` runs one, does what the app's does not list.
    if unlisted and not unlisted & done_lately:
        missing = ", ".join(sorted(CELERY_TASKS[kind] for kind in unlisted))
        yield _warning(
            f"The app's beat_schedule lacks {missing}; the workers do that by themselves.",
            "Add: app.conf.beat_schedule.update(tasks_service.BEAT_SCHEDULE)",
        )
    seen_ms = min(ages_ms.values(), default=None)
    if seen_ms is None and examination.beat_answers():
        return  # it has just been started
    if seen_ms is None or seen_ms > LATE_MS:
        done = "ever done" if seen_ms is None else f"done for {seen_ms / 1000:.0f} s"
        yield _warning(
            f"Beat is away: nothing that it asks for was {done}. The workers do it by themselves, but your "
            "own periodic tasks do not run.",
            f"Run: {_celery_command(examination)} beat",
        )
        return
    for kind in sorted(left_to_workers(ages_ms) & ages_ms.keys()):
        yield _warning(
            f"{kind} was last done for beat {ages_ms[kind] / 1000:.0f} s ago; the workers do it meanwhile.",
            "If beat was started a short while ago, wait: it asks for each job one interval after its start. "
            f"Else see the log of the worker that takes the queue {MAINTENANCE_QUEUE!r}.",
        )


def check_settings(examination: Examination) -> Iterator[Finding]:
    """Check settings of the Celery app, which we do not change on an app that the service was given."""
    for name, (advised, consequence) in ADVISED_SETTINGS.items():
        actual = examination.app.conf[name]
        if actual != advised:
            yield _warning(
                f"The Celery app has {name} = {actual!r}: {consequence}.", f"Set {name} = {advised!r}."
            )


def check_front_end(examination: Examination) -> Iterator[Finding]:
    """Check that the front end answers and is ready."""
    host, port = examination.settings.host, examination.settings.port
    status, where = http_status(host, port, "/readyz"), http_url(host, port)
    if status is None:
        yield _warning(
            f"No front end answers at {where}.",
            "Run: tasks-service serve (or set TASKS_HOST and TASKS_PORT to where it runs).",
        )
    elif status != HTTPStatus.OK:
        yield _error(f"The front end at {where} is not ready (status {status}).", "Its log says why.")


def check_flower(_: Examination) -> Iterator[Finding]:
    """Check that Flower does not answer other machines without a login."""
    port = int(os.environ.get(FLOWER_PORT) or DEFAULT_FLOWER_PORT)
    address = _outer_address()
    if address is not None and http_status(address, port, "/api/workers") == HTTPStatus.OK:
        yield _error(
            f"Flower at {address}:{port} shows every task to whoever can reach this machine.",
            "Set FLOWER_BASIC_AUTH=name:password, or start Flower with --address=127.0.0.1.",
        )


_START_REDIS = "Start Redis, or correct TASKS_REDIS_URL."

REDIS = "Redis"
CHECKS: Mapping[str, Check] = {
    REDIS: check_redis,
    "secrets": check_secrets,
    "signatures": check_signatures,
    "records": check_records,
    "memory": check_memory,
    "clock": check_clock,
    "broker": check_broker,
    "encryption": check_encryption,
    "workers": check_workers,
    "queues": check_queues,
    "tools": check_tools,
    "messages": check_messages,
    "fairness": check_fairness,
    "sweeps": check_sweeps,
    "beat": check_beat,
    "Celery settings": check_settings,
    "front end": check_front_end,
    "Flower": check_flower,
}


def _worker_command(examination: Examination) -> str:
    return f"{_celery_command(examination)} worker"


def _celery_command(examination: Examination) -> str:
    return f"celery -A {examination.celery_path or examination.app.main or '...'}"


def _outer_address() -> str | None:
    """This machine's address in the network; None without a network. Sends nothing."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: reserved for documentation, routed like any other
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


def _error(what: str, fix: str) -> Finding:
    return Finding(severity=Severity.ERROR, what=what, fix=fix)


def _warning(what: str, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, what=what, fix=fix)


def _as_json(title: str, found: list[Finding]) -> dict[str, object]:
    findings = [{"severity": f.severity.value, "what": f.what, "fix": f.fix} for f in found]
    return {"check": title, "findings": findings}


def _print(report: list[tuple[str, list[Finding]]]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for title, found in report:
        if not found:
            console.print(f"[green]ok[/green]       {title}")
        for finding in found:
            colour = "red" if finding.severity is Severity.ERROR else "yellow"
            console.print(f"[{colour}]{finding.severity.value:8}[/{colour}] {title}: ", end="")
            console.print(finding.what, markup=False)
            console.print(f"         fix: {finding.fix}", markup=False)
