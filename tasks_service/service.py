"""`TaskService`: collects tools, resources and prompts, and has the Celery app and the ASGI app for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

from celery import Celery
from mcp_types import ToolAnnotations

from .authoring.library import Library
from .authoring.prompt import PromptOptions, build_prompt
from .authoring.resource import ResourceOptions, build_resource
from .authoring.tool import COMPANION_TOOLS, DEFAULT_QUEUE, TaskSupport, Tool, ToolRegistry, build_tool
from .broker.app import add_queues, create_app
from .broker.dispatcher import Dispatcher
from .domain.errors import ConfigurationError
from .domain.task import DAY, MINUTE, Policy
from .durable.questions import Form, Link, declared_questions
from .durable.retry import RetryPolicy
from .settings import Settings
from .store.announcements import Listed, list_name, resource_name
from .worker.bootsteps import install
from .worker.celery_tasks import register_tool
from .worker.engine import Engine
from .worker.exposed import original_task, queue_of
from .worker.maintenance.schedule import BEAT_SCHEDULE

if TYPE_CHECKING:
    from .frontend.app import FrontEnd

F = TypeVar("F", bound=Callable[..., Any])
Support = Literal["forbidden", "optional", "required"]

LONGEST = timedelta(days=30)
"""The longest duration of any option: a task lives no longer."""


class ToolOptions(TypedDict, total=False):
    """The options of a tool. Durations are positive and at most 30 days.

    Attributes:
        name: The name by which clients call it; defaults to the function's name.
        title: For people; shown by clients in place of the name.
        description: For the model that chooses among tools; defaults to the docstring.
        annotations: Hints for clients: read-only, destructive, idempotent.
        input_schema: JSON Schema 2020-12 of the arguments, listed as it is; the function gets the arguments
            by name, unconverted. Default: from the signature.
        task: Whether a call may (`optional`, the default), must (`required`) or must not (`forbidden`)
            become a task that the client sees.
        grace: How long an `optional` call waits for its result before it is answered with a task. Default 0:
            not at all.
        ttl: A task is kept at least this long after its creation. Default 1 hour.
        retention: A task is kept at least this long after its end, too. Default 1 hour.
        queue_timeout: How long it may wait for a worker before it fails. Default 1 day.
        timeout: How long one attempt may run before the task fails. Default 1 day.
        poll_interval: How long clients are asked to wait between two polls. Default 1 second.
        max_attempts: The most attempts, those with lost workers included; then it fails. Default 3.
        retry: Which of its exceptions are retried, and after which delays. Default: none.
        lease: How long a worker may be silent before it counts as lost. Default 10 seconds; longer for code
            that holds the interpreter's lock for longer.
        queue: The Celery queue of its messages. Default `tasks`; for an exposed task, its own queue.
        ask: Questions that the client answers before the task exists, by name; the answers are in
            `ctx.answers`. Default: none.
        release_client: Whether a client of 2025-11-25 that waits for the result of a plain call may
            disconnect while the tool sleeps, and is told when to come back. Default: no.
    """

    name: str | None
    title: str | None
    description: str | None
    annotations: ToolAnnotations | None
    input_schema: Mapping[str, Any] | None
    task: Support
    grace: timedelta
    ttl: timedelta
    retention: timedelta
    queue_timeout: timedelta
    timeout: timedelta
    poll_interval: timedelta
    max_attempts: int
    retry: RetryPolicy | None
    lease: timedelta
    queue: str
    ask: Mapping[str, Form | Link]
    release_client: bool


class TaskService:
    """A set of tools, served over MCP and run by Celery workers; also resources, prompts and completions.

    Creating one connects to nothing and starts nothing: workers and front ends connect when they run.

    Args:
        name: The server's name, for clients.
        celery: An existing Celery app; its other tasks and its settings are not changed. None: a new app,
            configured for durable tasks.
        settings: Configuration; read from `TASKS_*` variables if not given.
        version: The server's version, for clients.
        instructions: What these tools are good for, for the model.

    Attributes:
        tools: The tools, by name.
        library: Resources, prompts and completions.
        settings: Configuration.
    """

    def __init__(
        self,
        name: str,
        *,
        celery: Celery | None = None,
        settings: Settings | None = None,
        version: str = "",
        instructions: str | None = None,
    ) -> None:
        self.name, self.version, self.instructions = name, version, instructions
        self.settings = settings or Settings()
        self.tools = ToolRegistry()
        self.library = Library()
        self._owns_app = celery is None
        self._celery = celery or self._own_app()
        self._engine = Engine(self._celery, self.settings)
        install(self._celery, self._engine, self.tools)

    @property
    def celery(self) -> Celery:
        """The Celery app, for `celery -A module worker` and `beat`."""
        return self._celery

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """The maker of Celery messages: the outbox of every store of this service."""
        return self._engine.dispatcher()

    def tool(self, **options: Unpack[ToolOptions]) -> Callable[[F], F]:
        """Make a tool of the decorated function, sync or async; the function itself stays as it is.

        Args:
            options: See `ToolOptions`.

        Raises:
            ConfigurationError: An option, or the function's signature, cannot work.
        """

        def decorate(function: F) -> F:
            self._add(build_tool(function, **_fields(options, DEFAULT_QUEUE)))
            return function

        return decorate

    def expose(self, celery_name: str, **options: Unpack[ToolOptions]) -> None:
        """Make a tool of an existing Celery task on this service's Celery app, without changing it.

        Its arguments are those of its `run`; its queue is the Celery task's own, unless `queue` is given.
        `update_state` becomes progress; `self.retry` raises its cause, to which the tool's `retry` applies;
        `replace`, `Ignore` and `Reject` fail the task.

        Args:
            celery_name: The Celery task's name.
            options: See `ToolOptions`; `name` defaults to the last part of `celery_name`.

        Raises:
            ConfigurationError: There is no such task, or an option cannot work.
        """
        original = original_task(self._celery, celery_name)
        named: ToolOptions = {**options, "name": options.get("name") or celery_name.rpartition(".")[2]}
        if named["name"] in self._celery.tasks:
            raise ConfigurationError(
                f"A Celery task named {named['name']!r} exists already, and the tool needs one of its own: "
                "give it another name="
            )
        tool = build_tool(original.run, **_fields(named, queue_of(self._celery, original)))
        self._add(replace(tool, fn=None, celery_name=celery_name))

    def resource(self, uri: str, **options: Unpack[ResourceOptions]) -> Callable[[F], F]:
        """Make a resource of the decorated function, or a template of resources.

        The function returns text, bytes, a pydantic model or any JSON value. It runs in the front end (a sync
        function in one of a few threads), so it should be quick; slow work belongs in a tool.

        Args:
            uri: A URI, or an RFC 6570 template whose variables are the function's parameters.
            options: See `ResourceOptions`.

        Raises:
            ConfigurationError: An option, the URI or the function's signature cannot work.
        """
        if not isinstance(uri, str):
            # Otherwise `@service.resource` without a URI would silently register nothing.
            raise ConfigurationError(
                f"@service.resource: expected a URI, as in resource('acme://scenes'), not {uri!r}"
            )

        def decorate(function: F) -> F:
            self.library.resources.add(build_resource(uri, function, **options))
            return function

        return decorate

    def prompt(self, **options: Unpack[PromptOptions]) -> Callable[[F], F]:
        """Make a prompt of the decorated function, whose parameters are the prompt's arguments.

        The function returns text, content blocks or messages, alone or in a list. It runs in the front end.

        Args:
            options: See `PromptOptions`.

        Raises:
            ConfigurationError: An option, or the function's signature, cannot work.
        """

        def decorate(function: F) -> F:
            self.library.prompts.add(build_prompt(function, **options))
            return function

        return decorate

    def completion(self, reference: str, argument: str) -> Callable[[F], F]:
        """Complete an argument with the decorated function, which takes the typed text and returns texts.

        Args:
            reference: The name of a prompt, or a resource template; registered before.
            argument: One of its arguments or variables.

        Raises:
            ConfigurationError: There is no such argument, or the function's signature cannot work.
        """

        def decorate(function: F) -> F:
            self.library.completions.add(reference, argument, function)
            return function

        return decorate

    def announce(self, changed: Literal["tools", "prompts", "resources"]) -> None:
        """Notify clients that a list has changed, so that they read it again.

        Call it in any process of the deployment, also in a tool; in a coroutine, through `asyncio.to_thread`.
        It reaches the clients that listen now, on every front end; it is not stored for others.

        Args:
            changed: The list.

        Raises:
            ConfigurationError: There is no such list, or no Redis is configured.
            StoreUnavailable: Redis did not answer in time; clients may have been notified.
        """
        try:
            listed = Listed(changed)
        except ValueError:
            known = ", ".join(Listed)
            raise ConfigurationError(f"announce({changed!r}): expected one of {known}") from None
        self._engine.announce(list_name(listed))

    def announce_resource(self, uri: str) -> None:
        """Notify clients that have subscribed to a resource that it has changed; otherwise like `announce`.

        Args:
            uri: The resource's own URI, not a template.
        """
        self._engine.announce(resource_name(uri))

    def asgi(self) -> FrontEnd:
        """The front end, as an ASGI application to serve or to mount (see `FrontEnd.lifespan`)."""
        from .frontend.app import create_app as create_front_end  # not at the top: workers need none of it

        return create_front_end(
            name=self.name,
            version=self.version,
            instructions=self.instructions,
            tools=self.tools,
            library=self.library,
            settings=self.settings,
            outbox=self.dispatcher,
        )

    def _add(self, tool: Tool) -> None:
        if self.settings.companion_tools and tool.name in COMPANION_TOOLS:
            raise ConfigurationError(
                f"The service has a tool {tool.name!r} of its own, for clients without tasks: give yours "
                "another name=, or set TASKS_COMPANION_TOOLS=false"
            )
        self.tools.add(tool)
        if self._owns_app:
            add_queues(self._celery, [tool.queue])
        register_tool(self._celery, self._engine, tool)

    def _own_app(self) -> Celery:
        settings = self.settings
        broker_url = settings.broker_url or settings.redis_url or ""
        slug = re.sub(r"\W+", "_", self.name.lower()).strip("_") or "tasks_service"
        app = create_app(slug, broker_url=broker_url, key_prefix=settings.key_prefix)
        app.conf.beat_schedule = BEAT_SCHEDULE
        return app


def _fields(options: ToolOptions, queue: str) -> dict[str, Any]:
    """Check a tool's options, and convert them to fields of `Tool`."""
    name = options.get("name") or "the tool"
    if unknown := set(options) - set(ToolOptions.__annotations__):
        raise ConfigurationError(f"{name}: there is no option {', '.join(sorted(unknown))}")
    support = _support(options)
    grace = options.get("grace", timedelta(0))
    if grace and support is not TaskSupport.OPTIONAL:
        raise ConfigurationError(f"{name}: grace= is for task='optional' only, not for task='{support}'")
    release_client = options.get("release_client", False)
    if not isinstance(release_client, bool):
        raise ConfigurationError(f"{name}: release_client={release_client!r}: expected True or False")
    if release_client and support is TaskSupport.REQUIRED:
        raise ConfigurationError(
            f"{name}: release_client= is for calls without a task, which task='required' has none of"
        )
    return {
        "name": options.get("name"),
        "title": options.get("title"),
        "description": options.get("description"),
        "annotations": options.get("annotations"),
        "input_schema": options.get("input_schema"),
        "support": support,
        "policy": _policy(options),
        "queue": options.get("queue") or queue,
        "retry": options.get("retry"),
        "grace_ms": _milliseconds("grace", grace) if grace else 0,
        "ask": declared_questions(name, options.get("ask", {})),
        "release_client": release_client,
    }


def _support(options: ToolOptions) -> TaskSupport:
    wanted = options.get("task", "optional")
    try:
        return TaskSupport(wanted)
    except ValueError:
        raise ConfigurationError(f"task={wanted!r}: expected 'forbidden', 'optional' or 'required'") from None


def _policy(options: ToolOptions) -> Policy:
    durations: dict[str, Any] = {
        f"{option}_ms": _milliseconds(option, options[option])
        for option in ("ttl", "retention", "queue_timeout", "timeout", "poll_interval", "lease")
        if option in options
    }
    attempts = options.get("max_attempts", Policy().max_attempts)
    if attempts < 1:
        raise ConfigurationError(f"max_attempts={attempts}: at least 1 is needed")
    policy = Policy(**durations, max_attempts=attempts)
    if policy.lease_ms < 1000:
        raise ConfigurationError("lease: at least 1 second is needed, for a worker to renew it in time")
    if policy.retention_ms > policy.max_lifetime_ms - MINUTE:
        raise ConfigurationError(
            f"retention: less than {policy.max_lifetime_ms // DAY} days, or no time is left"
        )
    return policy


def _milliseconds(option: str, duration: timedelta) -> int:
    if not isinstance(duration, timedelta):
        raise ConfigurationError(f"{option}={duration!r}: expected a datetime.timedelta")
    if not timedelta(0) < duration <= LONGEST:
        raise ConfigurationError(f"{option}={duration}: expected more than 0 and at most {LONGEST.days} days")
    return max(round(duration.total_seconds() * 1000), 1)
