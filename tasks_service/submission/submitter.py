"""Submitting: a call of a tool from Python is checked as a front end checks it, and recorded as a task."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from functools import cached_property, partial
from itertools import count
from typing import Any

import pydantic_core

from ..audit_log import audited, open_audit_log
from ..authoring.tool import Tool, ToolRegistry
from ..authoring.tool_options import check_retention, duration_ms
from ..crypto.key_file import read_key_file
from ..crypto.keys import Fingerprints, existing_owner_secret, owners_fingerprint
from ..crypto.owners import API_KEY_ISSUER, Principal, owner_of
from ..domain.digests import KEY_BYTES, digest, request_digest
from ..domain.errors import (
    ConfigurationError,
    IdempotencyConflict,
    NotJson,
    StoreFull,
    StoreUnavailable,
)
from ..domain.events import Create, MakeVisible
from ..domain.limits import valid_text
from ..domain.names import new_task_id, task_hash
from ..domain.task import Identity, Owner, Policy, Task
from ..domain.tools import TaskSupport
from ..domain.traces import is_trace_parent
from ..durable.context import RunningContext, running_context
from ..observability.context import Source, note_action, note_task
from ..settings import Settings
from ..store.findings import Finding
from ..store.redis.backoff import full_jitter
from .handle import TaskHandle
from .process_store import ProcessStore
from .running_tool import async_tool, sync_tool

logger = logging.getLogger(__name__)

NOBODY = owner_of(Principal(issuer="python", subject=""), b"")
"""The owner of what a program submits for nobody in particular.

No caller of a front end can be it: those are hashed under the deployment's secret, which a program that names
no owner need not know.
"""

A_PROGRAM = Identity(issuer="python", subject="")
"""The caller of what a program submits for nobody in particular."""

LONGEST_PAUSE = 1.0
"""Most seconds between two tries to submit from inside a tool, while the store does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """The options of `TaskService.submit`; see there."""

    owner: str | Principal | None = None
    visible: bool | None = None
    ttl: timedelta | None = None
    retention: timedelta | None = None
    idempotency_key: str | None = None
    traceparent: str = ""
    step: str | None = None


NO_OPTIONS = SubmitOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Submission:
    """A call that was checked.

    Attributes:
        event: Records it.
        names_owner: Whether its owner was named, and hashed under the secret that is known here.
        step: The name of the step that it is inside a tool.
        facts: What must be the same whenever that tool runs.
    """

    event: Create
    names_owner: bool
    step: str
    facts: Mapping[str, Any]


class Submitter:
    """Submits calls of the tools of one service.

    Args:
        service: The service's name.
        former_names: Names that it had before.
        tools: Its tools, as far as they are registered in this process.
        settings: Configuration.
        process: Where tasks are recorded.
        signs: The fingerprints of the secrets under which this process signs messages.
    """

    def __init__(
        self,
        service: str,
        former_names: frozenset[str],
        tools: ToolRegistry,
        settings: Settings,
        process: ProcessStore,
        signs: Callable[[], Fingerprints] = Fingerprints,
    ) -> None:
        self._service, self._former_names, self._tools = service, former_names, tools
        self._settings, self._process = settings, process
        self._signs = signs
        open_audit_log(settings.audit_log)
        self._knows_secret = self._knows_signature = False

    def submit(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None,
        named: Mapping[str, Any],
        options: SubmitOptions = NO_OPTIONS,
    ) -> TaskHandle:
        """See `TaskService.submit`."""
        running = sync_tool(f"service.submit({tool!r})", f"await service.asubmit({tool!r})")
        submission = self._checked(tool, arguments, named, options, running)
        if running is None:
            return self._handle(self._created(submission))
        create = partial(self._created_in_tool, submission, running)
        task_id = running.children.begin(submission.step, submission.facts, create)
        return TaskHandle(self._process, self._tools, submission.event.owner, task_id)

    async def asubmit(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None,
        named: Mapping[str, Any],
        options: SubmitOptions = NO_OPTIONS,
    ) -> TaskHandle:
        """See `TaskService.asubmit`."""
        running = async_tool(f"service.asubmit({tool!r})", f"service.submit({tool!r})")
        submission = self._checked(tool, arguments, named, options, running)
        if running is None:
            return self._handle(await asyncio.to_thread(self._created, submission))
        create = partial(self._created_in_tool, submission, running)
        task_id = await running.children.begin(submission.step, submission.facts, create)
        return TaskHandle(self._process, self._tools, submission.event.owner, task_id)

    def handle(self, task_id: str, owner: str | Principal | None) -> TaskHandle:
        """See `TaskService.handle`."""
        if not isinstance(task_id, str) or not task_id:
            raise ConfigurationError(f"service.handle({task_id!r}): expected the task_id of a handle")
        return TaskHandle(self._process, self._tools, self._whose(owner, running_context())[0], task_id)

    # --- what is checked ----------------------------------------------------------------------------------

    def _checked(
        self,
        tool_name: str,
        arguments: Mapping[str, Any] | None,
        named: Mapping[str, Any],
        options: SubmitOptions,
        running: RunningContext | None,
    ) -> _Submission:
        tool = self._tool(tool_name)
        place, definition = f"submit({tool.name!r})", tool.definition
        if definition.ask:
            raise ConfigurationError(
                f"{place}: the tool asks its client before it runs (ask={', '.join(definition.ask)}), and a "
                "program is no client that could be asked: take the answers as arguments of another tool"
            )
        values = _json_values(_arguments(place, tool, arguments, named, options))
        text = tool.check_arguments(values, self._settings.limits)
        owner, caller = self._whose(options.owner, running)
        policy = _policy(place, definition.policy, options)
        visible = _visible(place, definition.support, options)
        key = _key(place, options.idempotency_key)
        trace = _trace(place, options.traceparent) or ("" if running is None else running.traceparent)
        event = Create(
            task_id=new_task_id(owner, self._settings.shards),
            owner=owner,
            tool=tool.name,
            queue=definition.queue,
            arguments=text,
            policy=policy,
            trace=trace,
            service=self._service,
            former_names=self._former_names,
            takes_turns=self._settings.owners_take_turns,
            visible=visible,
            # As long as a task that clients see: its handle is here.
            reconnect_ms=policy.retention_ms,
            resumable_ms=0 if visible else policy.ttl_ms,
            idempotency=digest(key) if key else "",
            request_digest=request_digest(tool.name, values) if key else "",
            parent="" if running is None else task_hash(running.task_id),
            caller=caller,
        )
        facts = {"tool": tool.name, "arguments": values, "owner": owner, "key": key}
        return _Submission(
            event=event,
            names_owner=options.owner is not None,
            step=options.step or f"submit {tool.name}",
            facts=facts,
        )

    def _tool(self, name: str) -> Tool:
        found = self._tools.get(name) if isinstance(name, str) else None
        if found is not None:
            return found
        if not isinstance(name, str):
            raise ConfigurationError(f"submit({name!r}): expected the name of a tool, as clients call it")
        nearest = get_close_matches(name, list(self._tools), n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]!r}? Otherwise import" if nearest else "import"
        raise ConfigurationError(
            f"submit({name!r}): the service {self._service!r} has no such tool in this process; {advice} the "
            "module that declares it, since arguments are checked by its signature. A program without the "
            "tool's code calls it as a client does, through a front end"
        )

    def _whose(self, owner: str | Principal | None, running: RunningContext | None) -> tuple[Owner, Identity]:
        """Whose task it is, and who calls: inside a tool that names no owner, whoever called that tool."""
        if owner is None:
            return (NOBODY, A_PROGRAM) if running is None else (Owner(running.owner), running.caller)
        if isinstance(owner, str):
            owner = Principal(issuer=API_KEY_ISSUER, subject=self._key_name(owner))
        if not isinstance(owner, Principal):
            raise ConfigurationError(
                f"owner={owner!r}: expected the name of an API key, LOCAL_USER, or a Principal"
            )
        identity = Identity(issuer=owner.issuer, subject=owner.subject, client_id=owner.client_id)
        return owner_of(owner, self._owner_secret), identity

    def _key_name(self, name: str) -> str:
        known = {**self._settings.api_keys, **dict.fromkeys(self._names_in_file)}
        if not name or valid_text(name) != name or (known and name not in known):
            nearest = get_close_matches(name, list(known), n=1)
            advice = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigurationError(f"owner={name!r}: TASKS_API_KEYS has no key of that name{advice}")
        return name

    @property
    def _names_in_file(self) -> list[str]:
        path = self._settings.api_keys_file
        return [] if path is None else [key.name for key in read_key_file(path)]

    @cached_property
    def _owner_secret(self) -> bytes:
        settings = self._settings
        found = existing_owner_secret(settings.secret, settings.owner_secret, settings.data_dir)
        if found is None:
            raise ConfigurationError(
                "An owner can be named only where the front ends' secret is known: set TASKS_SECRET (or "
                "TASKS_OWNER_SECRET) as they have it, or TASKS_DATA_DIR to their directory; "
                f"{settings.data_dir} has none"
            )
        return found

    # --- what is recorded ---------------------------------------------------------------------------------

    def _handle(self, task: Task) -> TaskHandle:
        return TaskHandle(self._process, self._tools, task.owner, task.task_id)

    def _created(self, submission: _Submission) -> Task:
        """Record a task, or find it under its idempotency key.

        Raises:
            ConfigurationError: The owner was hashed under another secret than the front ends have, so that
                they would find none of its tasks; or workers would drop its message.
        """
        event = submission.event
        with audited("submit", Source(owner=event.owner)):
            note_action()
            note_task("", event.tool, event.trace)
            task = self._recorded(submission)
            note_task(task.task_id)
        return task

    def _recorded(self, submission: _Submission) -> Task:
        store, event = self._process.store, submission.event
        if not self._knows_signature:
            _refuse(store.check_secrets(self._signs()))
            self._knows_signature = True
        if submission.names_owner and not self._knows_secret:
            signs = self._signs()
            names = owners_fingerprint(self._owner_secret)
            _refuse(store.check_secrets(replace(signs, owners=names.owners)))
            self._knows_secret = True
        task = store.create(event).task
        if event.visible and not task.visible:
            return store.apply(task.owner, task.task_id, MakeVisible(), hidden=True)
        return task

    def _created_in_tool(self, submission: _Submission, running: RunningContext, use: str) -> str:
        """Record a task from inside a tool, once, whatever happens to the attempt meanwhile.

        It gets an idempotency key of its own, made of the parent and the step, unless it has one. So an
        attempt that comes after a crash between this and the journal finds it. An outage of the store is
        waited for, like that of any other write of a running tool.

        Args:
            submission: The call.
            running: The context of the tool.
            use: The name of this use of the step.
        """
        event = submission.event
        key = event.idempotency or digest(f"submitted by {running.task_id}: {use}")
        of = event.request_digest or request_digest(event.tool, json.loads(event.arguments))
        keyed = replace(submission, event=replace(event, idempotency=key, request_digest=of))
        for tries in count():
            try:
                return self._created(keyed).task_id
            except IdempotencyConflict:
                if event.idempotency:
                    raise
                raise running.children.differs(use) from None
            except StoreFull:
                raise
            except StoreUnavailable as error:
                if running.cancelled:
                    raise
                logger.warning("A tool cannot submit a task for now: %s", error)
                time.sleep(full_jitter(tries, first=0.05, most=LONGEST_PAUSE))
        raise AssertionError("it returns or raises")


def _arguments(
    place: str,
    tool: Tool,
    arguments: Mapping[str, Any] | None,
    named: Mapping[str, Any],
    options: SubmitOptions,
) -> Mapping[str, Any]:
    """The arguments of the tool: by name, or, where options have the same names, in a mapping."""
    if arguments is not None:
        if not isinstance(arguments, Mapping) or named:
            raise ConfigurationError(
                f"{place}: expected the tool's arguments by name, or all of them in one mapping"
            )
        return arguments
    taken = tool.definition.input_schema.get("properties", {})
    for option in fields(options):
        if option.name in taken and getattr(options, option.name) != option.default:
            raise ConfigurationError(
                f"{place}: {option.name}= is an option of submit, and an argument of the tool: pass the "
                f"tool's arguments in a mapping, as in submit({tool.name!r}, {{{option.name!r}: ...}})"
            )
    return named


def _json_values(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a client would send them: models, dates, enums and the like as JSON."""
    try:
        values: dict[str, Any] = pydantic_core.to_jsonable_python(dict(arguments), by_alias=True)
    except (pydantic_core.PydanticSerializationError, ValueError) as error:
        raise NotJson("arguments", str(error)) from None
    return values


def _refuse(findings: Iterable[Finding]) -> None:
    for finding in findings:
        raise ConfigurationError(f"{finding.what} {finding.fix}")


def _policy(place: str, policy: Policy, options: SubmitOptions) -> Policy:
    if options.ttl is not None:
        policy = replace(policy, ttl_ms=duration_ms(place, "ttl", options.ttl))
    if options.retention is not None:
        policy = replace(policy, retention_ms=duration_ms(place, "retention", options.retention))
        check_retention(place, policy)
    return policy


def _visible(place: str, support: TaskSupport, options: SubmitOptions) -> bool:
    """Whether clients of the owner see the task: where an owner was named, unless it is said otherwise."""
    if options.visible and support is TaskSupport.FORBIDDEN:
        raise ConfigurationError(
            f"{place}: visible=True, but the tool's calls must not become tasks that clients see "
            "(task='forbidden')"
        )
    if options.visible is None:
        return options.owner is not None and support is not TaskSupport.FORBIDDEN
    return options.visible


def _trace(place: str, traceparent: str) -> str:
    if traceparent and not is_trace_parent(traceparent):
        raise ConfigurationError(
            f"{place}: traceparent={traceparent!r}: expected a W3C trace parent, as in 00-...-...-01"
        )
    return traceparent


def _key(place: str, key: str | None) -> str:
    if key is None:
        return ""
    if not isinstance(key, str) or valid_text(key) != key or not 0 < len(key.encode()) <= KEY_BYTES:
        raise ConfigurationError(f"{place}: idempotency_key={key!r}: expected text of 1 to {KEY_BYTES} bytes")
    return key
