"""The front end as one ASGI application: `/mcp`, and `/healthz` and `/readyz` beside it.

It starts without Redis: whoever restarts everything at once need not think of an order. Readiness is red
until the store answers and has passed its self check, and whenever it does not answer. What no waiting can
mend (a setting, an eviction policy) is refused at start instead.

It may be mounted in another ASGI application, under any prefix. Servers start the outer application only, so
that one must enter `FrontEnd.lifespan` in its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..domain.errors import ConfigurationError, StoreUnavailable
from ..library import Library
from ..owner import LOCAL_USER, load_secret, owner_of
from ..settings import Settings
from ..store.base import AsyncTaskStore, Finding, Memory, Outbox, errors_among
from ..store.redis import AsyncRedisTaskStore, refused_work
from ..store.sessions import SessionStore
from ..tool import ToolRegistry
from .admission import Admission
from .asking import Questions
from .attendance import Desk
from .auth import Authenticator, refuse_open_door
from .calls import Caller
from .companions import Companions
from .handlers import Handlers
from .handshake import build_handshake_server
from .http import McpEndpoint
from .ingress import AddressGuard
from .legacy import EraRouter, LegacyFront
from .library import LibraryHandlers
from .listening import Listeners
from .preflight import Preflight
from .push import ChangeFeed, ChangeSource
from .request_state import RequestStates
from .resuming import Bookmarks
from .server import build_server
from .wire import v2026_07_28 as wire

logger = logging.getLogger(__name__)

MCP_PATH = "/mcp"


class FrontEndStore(AsyncTaskStore, ChangeSource, Protocol):
    """What a front end needs of its store beyond the tasks."""

    @property
    def sessions(self) -> SessionStore:
        """Sessions of clients that have them; what they wake comes as changes."""

    async def ping(self) -> None:
        """Return if the store answers, else raise `StoreUnavailable`."""

    @property
    def memory(self) -> Memory | None:
        """How full it is, as of the last ping or check; None if it has no limit."""

    async def check(self) -> list[Finding]:
        """What is wrong with the store's set-up; raises `StoreUnavailable` if it does not answer."""

    async def aclose(self) -> None:
        """Close all connections."""


def create_app(
    *,
    name: str,
    version: str,
    instructions: str | None,
    tools: ToolRegistry,
    settings: Settings,
    outbox: Outbox,
    library: Library | None = None,
    store: FrontEndStore | None = None,
) -> FrontEnd:
    """The front end; does no work and opens nothing until the server that runs it starts it.

    Args:
        name: What clients see as the server's name.
        version: And as its version.
        instructions: For the model: what the tools are good for.
        tools: What can be called, as registered when it starts.
        settings: Configuration.
        outbox: Makes the message of a task that is created.
        library: What is offered beside the tools, as registered when it starts; None: nothing.
        store: Instead of the one that `settings.redis_url` names; it is the caller's to close.

    Returns:
        An ASGI application. Its start raises `ConfigurationError` for a set-up that cannot work.
    """
    return FrontEnd(
        name=name,
        version=version,
        instructions=instructions,
        tools=tools,
        settings=settings,
        outbox=outbox,
        library=library or Library(),
        store=store,
    )


def check_settings(settings: Settings) -> None:
    """Refuse settings that a front end cannot work with; touches neither disk nor network.

    Raises:
        ConfigurationError: The message says how to mend it.
    """
    refuse_open_door(settings)
    refuse_no_redis(settings)


def refuse_no_redis(settings: Settings) -> None:
    """Refuse to work without a store.

    Raises:
        ConfigurationError: `settings.redis_url` is not set.
    """
    if settings.redis_url is None:
        raise ConfigurationError(
            "TASKS_REDIS_URL is not set, so there is no Redis to keep tasks in. Set it, for example to "
            "redis://127.0.0.1:6379/0, or run 'tasks-service up', which starts a private one"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What answers requests, whatever the transport.

    Attributes:
        tools: What is listed.
        modern: Answers 2026-07-28.
        handshake: Answers the revisions before it.
        desk: What sessions need.
        store: Where everything is recorded.
        listeners: Tell clients of 2026-07-28 of changes.
        readiness: Whether the store can be used.
        local: Who calls where only the local user can.
    """

    tools: ToolRegistry
    modern: Server[dict[str, Any]]
    handshake: Server[dict[str, Any]]
    desk: Desk
    store: FrontEndStore
    listeners: Listeners
    readiness: Readiness
    local: Caller


class FrontEnd:
    """An ASGI application: see `create_app`.

    Run by itself, it starts and stops with its server. Mounted in another application, under any path, it
    starts and stops with `lifespan`, which that application enters.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        instructions: str | None,
        tools: ToolRegistry,
        settings: Settings,
        outbox: Outbox,
        library: Library,
        store: FrontEndStore | None,
    ) -> None:
        self._name, self._version, self._instructions = name, version, instructions
        self._tools, self._settings, self._outbox, self._given = tools, settings, outbox, store
        self._library = library
        self._endpoint: ASGIApp = _not_started
        self._router: EraRouter | None = None
        self._listeners: Listeners | None = None
        self._readiness: Readiness | None = None
        self._site = Starlette(
            routes=[Route("/healthz", self._alive), Route("/readyz", self._ready)],
            lifespan=self.lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; `/mcp` goes the short way."""
        if scope["type"] == "http" and _path(scope) == MCP_PATH:
            await self._endpoint(scope, receive, send)
        else:
            await self._site(scope, receive, send)

    def drain(self) -> None:
        """End the streams that would keep a server from stopping; to be called when it begins to."""
        if self._router is not None:
            self._router.drain()
        if self._listeners is not None:
            self._listeners.end()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Servers]:
        """What answers requests, whatever the transport; the store need not answer yet.

        Raises:
            ConfigurationError: There is no Redis to keep tasks in, or no secret.
        """
        async with self._opened_store() as store:
            feed = ChangeFeed(store)
            secret = load_secret(self._settings)
            library = self._library_handlers(secret)
            servers = self._build(store, feed, library, secret)
            following = asyncio.create_task(feed.run(), name="change feed")
            try:
                yield servers
            finally:
                library.close()
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Open what the front end needs, and close it at the end.

        For an application that mounts this one: `async with front_end.lifespan(): ...` in its own lifespan,
        or `Starlette(routes=[Mount("/tasks", front_end)], lifespan=front_end.lifespan)` if it has none.

        Args:
            app: The application that is started; not looked at.

        Raises:
            ConfigurationError: The set-up cannot work, or the front end was started already.
        """
        if self._router is not None:
            raise ConfigurationError("The front end was started already: enter its lifespan once")
        if self._given is None:
            check_settings(self._settings)
        async with self.opened() as servers:
            await servers.readiness.refuse_unworkable()
            await servers.desk.feed.begun()
            self._endpoint = self._router = self._routed(servers)
            self._listeners = servers.listeners
            self._readiness = servers.readiness
            try:
                yield
            finally:
                self._endpoint, self._router, self._listeners, self._readiness = (
                    _not_started,
                    None,
                    None,
                    None,
                )

    def _opened_store(self) -> AbstractAsyncContextManager[FrontEndStore]:
        return _open(self._settings, self._outbox) if self._given is None else _borrow(self._given)

    def _companions(self, store: FrontEndStore) -> Companions | None:
        settings = self._settings
        if not settings.companion_tools:
            return None
        return Companions(self._tools, store, limits=settings.limits, longest_wait=settings.handle_after)

    def _library_handlers(self, secret: bytes) -> LibraryHandlers:
        limits = self._settings.limits
        preflight = Preflight(RequestStates(secret), limits=limits, request="request for a prompt")
        return LibraryHandlers(self._library, preflight=preflight, limits=limits)

    def _build(
        self, store: FrontEndStore, feed: ChangeFeed, library: LibraryHandlers, secret: bytes
    ) -> Servers:
        settings, states = self._settings, RequestStates(secret)
        companions = self._companions(store)
        listed = self._tools if companions is None else companions.listed()
        handlers = Handlers(
            tools=self._tools,
            store=store,
            feed=feed,
            preflight=Preflight(states, limits=settings.limits),
            states=states,
            limits=settings.limits,
            shards=settings.shards,
            wait_limit=settings.wait_limit,
            companions=companions,
            handle_after=settings.handle_after,
            reconnect_window=settings.reconnect_window,
        )
        listeners = Listeners(
            store=store, feed=feed, results=wire.Results(self._tools), library=self._library
        )
        server = build_server(
            name=self._name,
            version=self._version,
            instructions=self._instructions,
            tools=listed,
            handlers=handlers,
            library=library,
            listeners=listeners,
        )
        desk = Desk(
            store=store,
            sessions=store.sessions,
            questions=Questions(store, store.sessions, secret, limits=settings.limits),
            feed=feed,
            bookmarks=Bookmarks(secret),
        )
        handshake = build_handshake_server(
            name=self._name,
            version=self._version,
            instructions=self._instructions,
            tools=listed,
            handlers=handlers,
            library=library,
            companions=companions,
            desk=desk,
            secret=secret,
            wait_limit=settings.wait_limit,
        )
        return Servers(
            tools=listed,
            modern=server,
            handshake=handshake,
            desk=desk,
            store=store,
            readiness=Readiness(store),
            listeners=listeners,
            local=Caller(owner=owner_of(LOCAL_USER, secret)),
        )

    def _routed(self, servers: Servers) -> EraRouter:
        settings = self._settings
        guard = AddressGuard(settings)
        admission = Admission(
            tools=servers.tools,
            authenticator=Authenticator(settings),
            guard=guard,
            limits=settings.limits,
        )
        modern = McpEndpoint(server=servers.modern, admission=admission)
        legacy = LegacyFront(
            server=servers.handshake,
            desk=servers.desk,
            admission=admission,
            guard=guard,
            limits=settings.limits,
            modern=modern,
        )
        return EraRouter(modern=modern, legacy=legacy)

    async def _alive(self, _: Request) -> Response:
        """The process runs; says nothing of what it depends on."""
        return JSONResponse({"status": "alive"})

    async def _ready(self, _: Request) -> Response:
        problem = (
            "the front end has not started" if self._readiness is None else await self._readiness.problem()
        )
        if problem is None and self._readiness is not None:
            return JSONResponse({"status": "ready", "store": self._readiness.shortage() or "ok"})
        return JSONResponse({"status": "not ready", "store": problem}, status_code=503)


class Readiness:
    """Whether the store can be used now.

    Its set-up is checked once it is first reached; after an outage too, since it may be another server.

    Args:
        store: The store.
    """

    def __init__(self, store: FrontEndStore) -> None:
        self._store = store
        self._checked = False

    async def problem(self) -> str | None:
        """What is wrong, as a sentence; None if all is well."""
        try:
            if self._checked:
                await self._store.ping()
                return None
            errors = errors_among(await self._store.check())
        except StoreUnavailable as error:
            self._checked = False
            return str(error)
        self._checked = not errors
        return " ".join(errors) or None

    def shortage(self) -> str | None:
        """What a store that answers refuses for want of memory; None: nothing.

        No reason not to be ready: clients still read their tasks here, and no other front end has more.
        """
        return refused_work(self._store.memory)

    async def refuse_unworkable(self) -> None:
        """Check the store at start; one that is down may come up later.

        Raises:
            ConfigurationError: It answers, and its set-up would lose tasks.
        """
        try:
            errors = errors_among(await self._store.check())
        except StoreUnavailable as error:
            logger.warning("Starting without a store, not ready until it answers: %s", error)
            return
        if errors:
            raise ConfigurationError(" ".join(errors))
        self._checked = True


@asynccontextmanager
async def _open(settings: Settings, outbox: Outbox) -> AsyncIterator[FrontEndStore]:
    refuse_no_redis(settings)
    store = AsyncRedisTaskStore(
        str(settings.redis_url),
        prefix=settings.key_prefix,
        shards=settings.shards,
        limits=settings.limits,
        outbox=outbox,
        pool=settings.pool,
        deadline=settings.store_deadline,
    )
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def _borrow(store: FrontEndStore) -> AsyncIterator[FrontEndStore]:
    yield store


def _path(scope: Scope) -> str:
    """The path of a request, below where the application is mounted (ASGI, `root_path`)."""
    path, root = str(scope["path"]), scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def _not_started(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands in for the endpoint outside of the lifespan."""
    message = (
        "the front end was not started: run it on a server that supports ASGI's lifespan; mounted in another "
        "application, enter its lifespan in that application's own"
    )
    logger.error("A request was refused: %s", message)
    await JSONResponse({"error": message}, status_code=503)(scope, receive, send)
