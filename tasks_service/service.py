"""`TaskService`: collects tools, resources and prompts, and has the Celery app and the ASGI app for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, cast, overload

from celery import Celery

from .authoring.library import Library
from .authoring.prompt import PromptOptions, build_prompt
from .authoring.refusals import Place
from .authoring.resource import ResourceOptions, build_resource
from .authoring.signature import name_of, names_around
from .authoring.tool import Tool, ToolRegistry, build_tool
from .authoring.tool_options import ToolOptions, tool_fields
from .broker.app import add_queues, create_app
from .broker.dispatcher import Dispatcher
from .crypto.owners import Principal
from .domain.errors import ConfigurationError
from .domain.tools import COMPANION_TOOLS, DEFAULT_QUEUE
from .extras import front_end_packages
from .settings import Settings, load_settings
from .store.announcements import Listed, list_name, resource_name
from .submission.handle import TaskHandle
from .submission.process_store import ProcessStore
from .submission.submitter import SubmitOptions, Submitter
from .worker.bootsteps import install
from .worker.celery_command import operators_mistakes
from .worker.celery_tasks import register_tool
from .worker.engine import Engine
from .worker.exposed import exposed_task, options_of, queue_of, refuse_unfaithful, task_named
from .worker.maintenance.schedule import BEAT_SCHEDULE
from .worker.taken_names import refuse_later_tasks, refuse_taken_name

if TYPE_CHECKING:
    from .frontend.app import FrontEnd

F = TypeVar("F", bound=Callable[..., Any])


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
        former_names: Names that the service had before. Workers run tasks that were recorded under them too;
            those of any other service they leave to that service's workers.

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
        former_names: Iterable[str] = (),
    ) -> None:
        self.name, self.version, self.instructions = name, version, instructions
        self.former_names = frozenset(former_names)
        self.tools = ToolRegistry()
        self.library = Library()
        self._owns_app = celery is None
        with operators_mistakes():
            self.settings = settings or load_settings()
            self._celery = celery or self._own_app()
        self._engine = Engine(self._celery, self.settings, name, self.former_names)
        install(
            self._celery,
            self._engine,
            self.tools,
            version=version,
            instructions=instructions or "",
            owns_app=self._owns_app,
        )
        refuse_later_tasks(self._celery, self.tools)
        store = ProcessStore(partial(self._engine.store, deadline=self.settings.store_deadline, guarded=True))
        signs = partial(self._engine.fingerprints, as_worker=False)
        self._submitter = Submitter(name, self.former_names, self.tools, self.settings, store, signs)

    @property
    def celery(self) -> Celery:
        """The Celery app, for `celery -A module worker` and `beat`."""
        return self._celery

    @property
    def owns_app(self) -> bool:
        """Whether the Celery app was made by this service, and is nobody else's."""
        return self._owns_app

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """The maker of Celery messages: the outbox of every store of this service."""
        return self._engine.dispatcher()

    @overload
    def tool(self, function: F, /) -> F: ...

    @overload
    def tool(self, /, **options: Unpack[ToolOptions]) -> Callable[[F], F]: ...

    def tool(self, function: Any = None, /, **options: Unpack[ToolOptions]) -> Any:
        """Make a tool of the decorated function, sync or async; the function itself stays as it is.

        Both `@service.tool` and `@service.tool(...)` work.

        Args:
            function: The function, where the decorator has no parentheses.
            options: See `ToolOptions`.

        Raises:
            ConfigurationError: An option, or the function's signature, cannot work.
        """

        def add(function: F, namespace: Mapping[str, Any]) -> F:
            place = Place(f"Tool {options.get('name') or name_of(function) or '?'!r}", function)
            fields = tool_fields(place, options, DEFAULT_QUEUE)
            self._add(build_tool(function, namespace=namespace, **fields), place)
            return function

        return _decorator("tool", function, add)

    def expose(self, celery_task: Any, /, **options: Unpack[ToolOptions]) -> None:
        """Make a tool of an existing Celery task on this service's Celery app, without changing it.

        Its arguments are those of its `run`; its queue is the Celery task's own, unless `queue` is given; its
        `time_limit` is the tool's timeout, unless `timeout` is given. It runs as if Celery ran it:
        docs/guide-celery.md says what is kept, mapped and refused.

        Args:
            celery_task: The Celery task, or its name.
            options: See `ToolOptions`; `name` defaults to the last part of the Celery task's name.

        Raises:
            ConfigurationError: There is no such task, it could not run as Celery runs it, or an option cannot
                work.
        """
        original = task_named(self._celery, celery_task)
        name = options.get("name") or str(original.name).rpartition(".")[2]
        named = ToolOptions(**{**options_of(original), **options, "name": name})
        place = Place(f"Tool {name!r}", original.run)
        if name in self._celery._tasks:
            raise ConfigurationError(
                f"A Celery task named {name!r} exists already, and the tool needs one of its own: "
                "give it another name="
            )
        refuse_unfaithful(place, original)
        fields = tool_fields(place, named, queue_of(self._celery, original))
        exposed = exposed_task(original, fields["policy"].timeout_ms)
        self._add(build_tool(original.run, exposed=exposed, **fields), place)

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

        def add(function: F, namespace: Mapping[str, Any]) -> F:
            self.library.resources.add(build_resource(uri, function, namespace, **options))
            return function

        return cast("Callable[[F], F]", _decorator("resource", None, add))

    @overload
    def prompt(self, function: F, /) -> F: ...

    @overload
    def prompt(self, /, **options: Unpack[PromptOptions]) -> Callable[[F], F]: ...

    def prompt(self, function: Any = None, /, **options: Unpack[PromptOptions]) -> Any:
        """Make a prompt of the decorated function, whose parameters are the prompt's arguments.

        The function returns text, content blocks or messages, alone or in a list. It runs in the front end.
        Both `@service.prompt` and `@service.prompt(...)` work.

        Args:
            function: The function, where the decorator has no parentheses.
            options: See `PromptOptions`.

        Raises:
            ConfigurationError: An option, or the function's signature, cannot work.
        """

        def add(function: F, namespace: Mapping[str, Any]) -> F:
            self.library.prompts.add(build_prompt(function, namespace, **options))
            return function

        return _decorator("prompt", function, add)

    def completion(self, reference: str, argument: str = "") -> Callable[[F], F]:
        """Complete an argument with the decorated function, which takes the typed text and returns texts.

        Args:
            reference: The name of a prompt, or a resource template; registered before.
            argument: One of its arguments or variables.

        Raises:
            ConfigurationError: There is no such argument, or the function's signature cannot work.
        """
        if not isinstance(reference, str):
            raise ConfigurationError(
                "@service.completion: expected a prompt's name, or a template, and an argument of it, as "
                f"in completion('critique', 'scene'), not {reference!r}"
            )

        def add(function: F, namespace: Mapping[str, Any]) -> F:
            self.library.completions.add(reference, argument, function, namespace)
            return function

        return cast("Callable[[F], F]", _decorator("completion", None, add))

    def submit(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        owner: str | Principal | None = None,
        visible: bool | None = None,
        ttl: timedelta | None = None,
        retention: timedelta | None = None,
        idempotency_key: str | None = None,
        traceparent: str = "",
        step: str | None = None,
        **named: Any,
    ) -> TaskHandle:
        """Start a tool from Python, as in `service.submit("render", scene="kitchen")`; returns at once.

        Arguments are checked, and quotas hold, as for a client. Inside a tool, this is a step: it submits
        once, however often the tool runs, and the record of the new task names the one that submitted it.

        Args:
            tool: The tool's name. Its module must be imported in this process.
            arguments: The tool's arguments, where one of them is called like an option of this method.
            owner: Whose task it is: the name of an API key, `LOCAL_USER`, or a `Principal`. None: nobody's
                whom a front end knows; inside a tool, whose task the tool runs.
            visible: Whether the owner's clients see the task. None: if an owner is given.
            ttl: As the option of the tool, for this task.
            retention: As the option of the tool, for this task.
            idempotency_key: A text of at most 128 bytes. While its task is kept, the same key of the same
                owner leads to that task, and starts no other.
            traceparent: The W3C trace parent; inside a tool, by default, that of its own call.
            step: Inside a tool, the step's name, which concurrent branches of an async tool must choose.
                None: `submit` and the name of the tool.
            named: The tool's arguments by name: JSON, or what pydantic makes JSON of.

        Returns:
            A handle, to follow the task, wait for its result, and cancel it.

        Raises:
            ConfigurationError: There is no such tool here, an option cannot work, or no Redis is configured.
            InvalidArguments, NotJson, LimitExceeded: The arguments are refused; nothing was recorded.
            QuotaExceeded: The owner, or the store, has too many tasks.
            IdempotencyConflict: The key was used for another tool or other arguments.
            StoreUnavailable: Redis did not answer in time; submit again, with an idempotency key if the tool
                may run once only.
        """
        options = SubmitOptions(
            owner=owner,
            visible=visible,
            ttl=ttl,
            retention=retention,
            idempotency_key=idempotency_key,
            traceparent=traceparent,
            step=step,
        )
        return self._submitter.submit(tool, arguments, named, options)

    async def asubmit(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        owner: str | Principal | None = None,
        visible: bool | None = None,
        ttl: timedelta | None = None,
        retention: timedelta | None = None,
        idempotency_key: str | None = None,
        traceparent: str = "",
        step: str | None = None,
        **named: Any,
    ) -> TaskHandle:
        """`submit` for an event loop, and for async tools."""
        options = SubmitOptions(
            owner=owner,
            visible=visible,
            ttl=ttl,
            retention=retention,
            idempotency_key=idempotency_key,
            traceparent=traceparent,
            step=step,
        )
        return await self._submitter.asubmit(tool, arguments, named, options)

    def handle(self, task_id: str, *, owner: str | Principal | None = None) -> TaskHandle:
        """The handle of a task whose id was kept; connects to nothing.

        Args:
            task_id: The `task_id` of a handle, or the id that a client was given.
            owner: Whose task it is; as it was given to `submit`.

        Raises:
            ConfigurationError: The owner cannot be, or this is no id.
        """
        return self._submitter.handle(task_id, owner)

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
        """The front end, as an ASGI application to serve or to mount (see `FrontEnd.lifespan`).

        Raises:
            ConfigurationError: The extra `server` is not installed.
        """
        with front_end_packages("A front end"):  # not at the top: workers need none of it
            from .frontend.app import create_app as create_front_end
            from .frontend.core.catalogue import FixedCatalogue

        return create_front_end(
            name=self.name,
            version=self.version,
            instructions=self.instructions,
            catalogue=FixedCatalogue(self.name, self.tools, self.former_names),
            library=self.library,
            settings=self.settings,
            outbox=self.dispatcher,
        )

    def _add(self, tool: Tool, place: Place) -> None:
        if self.settings.companion_tools and tool.name in COMPANION_TOOLS:
            raise ConfigurationError(
                f"The service has a tool {tool.name!r} of its own, for clients without tasks: give yours "
                "another name=, or set TASKS_COMPANION_TOOLS=false"
            )
        if tool.name not in self.tools:
            refuse_taken_name(self._celery, tool.name, str(place))
        self.tools.add(tool)
        if self._owns_app:
            add_queues(self._celery, [tool.definition.queue])
        register_tool(self._celery, self._engine, tool)

    def _own_app(self) -> Celery:
        settings = self.settings
        broker_url = settings.broker_url or settings.redis_url or ""
        slug = re.sub(r"\W+", "_", self.name.lower()).strip("_") or "tasks_service"
        app = create_app(slug, broker_url=broker_url, key_prefix=settings.key_prefix)
        app.conf.beat_schedule = BEAT_SCHEDULE
        return app


def _decorator(
    what: str, function: Any, add: Callable[[Any, Mapping[str, Any]], Any]
) -> Callable[[Any], Any] | Any:
    """What a decorator returns: what decorates; or the function, if it was used without parentheses."""
    if function is None:
        return lambda decorated: add(decorated, names_around(1))
    if isinstance(function, str):
        raise ConfigurationError(
            f"@service.{what}({function!r}): options have names; did you mean name={function!r}?"
        )
    return add(function, names_around(2))
