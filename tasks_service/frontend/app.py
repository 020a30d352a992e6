"""The front end as one ASGI application: `/mcp`, and `/healthz` and `/readyz` beside it.

It starts without Redis: whoever restarts everything at once need not think of an order. Readiness is red
until the store answers and has passed its self check, and whenever it does not answer. What no waiting can
fix (a setting, an eviction policy) is refused at start instead.

It may be mounted in another ASGI application, under any prefix. Servers start the outer application only, so
that one must enter `FrontEnd.lifespan` in its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..authoring.library import Library
from ..crypto.keys import load_keys
from ..domain.errors import ConfigurationError
from ..settings import Settings
from ..store.front_ends import FrontEndStore
from ..store.outbox import Outbox
from ..store.redis import AsyncRedisTaskStore
from .access.api_keys import require_auth_if_public
from .assembly import Servers, build_router, build_servers
from .core.catalogue import Catalogue
from .core.change_feed import ChangeFeed
from .core.offer import Offer
from .readiness import Readiness
from .router import EraRouter
from .timings import DEFAULT_TIMINGS, Timings
from .v2026_07_28.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

MCP_PATHS = ("/mcp", "/mcp/")
"""Where MCP is served; clients differ in whether they put a slash behind an address."""


def create_app(
    *,
    name: str,
    version: str,
    instructions: str | None,
    catalogue: Catalogue,
    settings: Settings,
    outbox: Outbox,
    library: Library | None = None,
    store: FrontEndStore | None = None,
    timings: Timings = DEFAULT_TIMINGS,
) -> FrontEnd:
    """Make the front end; nothing is opened until the server that runs it starts it.

    Args:
        name: What clients see as the server's name.
        version: And as its version.
        instructions: For the model: what the tools are good for.
        catalogue: The tools that can be called.
        settings: Configuration.
        outbox: Makes the message of a task that is created.
        library: What is offered beside the tools, as registered when it starts; None: nothing.
        store: Instead of the one that `settings.redis_url` names; it is the caller's to close.
        timings: How long to wait for what.

    Returns:
        An ASGI application. Its start raises `ConfigurationError` for a set-up that cannot work.
    """
    offer = Offer(
        name=name,
        version=version,
        instructions=instructions,
        catalogue=catalogue,
        library=library or Library(),
    )
    return FrontEnd(offer, settings, outbox, store, timings)


def check_settings(settings: Settings) -> None:
    """Refuse settings that a front end cannot work with; touches neither disk nor network.

    Raises:
        ConfigurationError: The message says how to fix it.
    """
    require_auth_if_public(settings)
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


class FrontEnd:
    """An ASGI application: see `create_app`.

    Run by itself, it starts and stops with its server. Mounted in another application, under any path, it
    starts and stops with `lifespan`, which that application enters.
    """

    def __init__(
        self,
        offer: Offer,
        settings: Settings,
        outbox: Outbox,
        store: FrontEndStore | None,
        timings: Timings,
    ) -> None:
        self._offer, self._timings = offer, timings
        self._settings, self._outbox, self._given = settings, outbox, store
        self._endpoint: ASGIApp = _not_started
        self._router: EraRouter | None = None
        self._subscriptions: Subscriptions | None = None
        self._readiness: Readiness | None = None
        self._site = Starlette(
            routes=[Route("/healthz", self._alive), Route("/readyz", self._ready)],
            lifespan=self.lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; `/mcp` goes the short way."""
        if scope["type"] == "http" and _path(scope) in MCP_PATHS:
            await self._endpoint(scope, receive, send)
        else:
            await self._site(scope, receive, send)

    def drain(self) -> None:
        """End the streams that would keep a server from stopping; to be called when it begins to."""
        if self._router is not None:
            self._router.drain()
        if self._subscriptions is not None:
            self._subscriptions.end()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Servers]:
        """Make what answers requests, whatever the transport; the store need not answer yet.

        Raises:
            ConfigurationError: There is no Redis to keep tasks in, or no secret.
        """
        async with self._opened_store() as store:
            feed = ChangeFeed(store, self._timings)
            settings = self._settings
            keys = load_keys(
                settings.secret, settings.accepted_secrets, settings.owner_secret, settings.data_dir
            )
            servers = build_servers(self._offer, settings, store=store, feed=feed, keys=keys)
            following = asyncio.create_task(feed.run(), name="change feed")
            try:
                yield servers
            finally:
                servers.library.close()
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
            await servers.services.feed.begun()
            self._endpoint = self._router = build_router(servers, self._settings)
            self._subscriptions = servers.subscriptions
            self._readiness = servers.readiness
            try:
                yield
            finally:
                self._endpoint = _not_started
                self._router = self._subscriptions = self._readiness = None

    def _opened_store(self) -> AbstractAsyncContextManager[FrontEndStore]:
        return _open(self._settings, self._outbox) if self._given is None else nullcontext(self._given)

    async def _alive(self, _: Request) -> Response:
        """Say that the process runs, and nothing of what it depends on."""
        return JSONResponse({"status": "alive"})

    async def _ready(self, _: Request) -> Response:
        problem = (
            "the front end has not started" if self._readiness is None else await self._readiness.problem()
        )
        if problem is None and self._readiness is not None:
            return JSONResponse({"status": "ready", "store": self._readiness.shortage() or "ok"})
        return JSONResponse({"status": "not ready", "store": problem}, status_code=503)


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
