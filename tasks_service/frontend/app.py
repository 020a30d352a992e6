"""The front end as one ASGI application: `/mcp`, or a path for each service, and `/healthz` and `/readyz`.

It starts without Redis: whoever restarts everything at once need not think of an order. Readiness is red
until the store answers and has passed its self check, and whenever it does not answer. What no waiting can
fix (a setting, an eviction policy) is refused at start instead.

It may be mounted in another ASGI application, under any prefix. Servers start the outer application only, so
that one must enter `FrontEnd.lifespan` in its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..audit_log import flush_audit_log, open_audit_log
from ..authoring.library import Library
from ..broker.codeless import CodelessOutbox
from ..crypto.keys import DeploymentKeys, load_keys
from ..domain.errors import ConfigurationError, StoreUnavailable
from ..domain.task import Owner
from ..log_privacy import keep_words_out_of_logs
from ..metrics.counting import Role
from ..oauth_settings import MCP_PATH
from ..settings import Settings
from ..store.front_ends import FrontEndStore
from ..store.outbox import Outbox
from ..store.redis import AsyncRedisTaskStore
from ..unsafe_settings import metrics_address, refuse_ended_keys, refuse_listeners, refuse_strangers
from .access.address_guard import AddressGuard
from .access.api_keys import Authenticator
from .access.key_guesses import KeyGuesses
from .access.protected_resource import WELL_KNOWN
from .access.sign_in import opened_sign_in
from .access.verified_tokens import VerifiedTokens
from .assembly import Servers, build_metadata, build_router, build_servers, protected_resource
from .core.catalogue import Catalogue
from .core.change_feed import ChangeFeed
from .core.offer import Offer
from .core.registered_services import RegisteredServices
from .core.stopping import Stopping
from .readiness import Readiness
from .registered_paths import RegisteredPaths
from .served import OnePath, Paths, Served
from .store_gauges import StoreGauges
from .timings import DEFAULT_TIMINGS, Timings
from .transport.http_headers import check_repeated, headers_of
from .transport.rejection import Rejection

logger = logging.getLogger(__name__)


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
    """Make the front end of one service; nothing is opened until the server that runs it starts it.

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

    @asynccontextmanager
    async def paths(parts: Parts) -> AsyncIterator[Paths]:
        yield OnePath(parts.serve(offer))

    return FrontEnd(paths, settings, outbox, store, timings)


def create_codeless_app(
    settings: Settings, *, together: bool = False, timings: Timings = DEFAULT_TIMINGS
) -> FrontEnd:
    """Make a front end that serves what workers announce, and needs nothing of their code.

    Args:
        settings: Configuration.
        together: Whether `/mcp` serves the tools of all services, each with its service's name in front.
        timings: How long to wait for what.

    Returns:
        An ASGI application; see `create_app`.
    """
    outbox = CodelessOutbox(settings)

    @asynccontextmanager
    async def paths(parts: Parts) -> AsyncIterator[Paths]:
        paths = RegisteredPaths(parts.serve, parts.feed, outbox.refusal, together=together)
        services = RegisteredServices(parts.store.registry, parts.feed, paths.take)
        with suppress(StoreUnavailable):
            await services.read()
        following = asyncio.create_task(services.run(), name="registry")
        try:
            yield paths
        finally:
            await _cancelled(following)
            outbox.close()

    return FrontEnd(paths, settings, outbox, None, timings)


def check_settings(settings: Settings) -> None:
    """Refuse settings that a front end cannot work with; touches no network.

    Raises:
        ConfigurationError: The message says how to fix it.
    """
    refuse_strangers(settings)
    refuse_ended_keys(settings)
    refuse_no_redis(settings)
    refuse_listeners(settings)
    metrics_address(settings)


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
class Parts:
    """What all paths of a front end share.

    Attributes:
        settings: Configuration.
        store: Where everything is recorded.
        feed: Tells of changes in the store.
        keys: The deployment's; they tell owners apart, and seal what travels with clients.
        stopping: Ends waits when the process stops.
        api_keys: Knows the API keys.
        guesses: Counts wrong ones.
        tokens: Verifies the tokens of callers who have signed in; None if nobody does.
        streams: The open streams by their owners.
    """

    settings: Settings
    store: FrontEndStore
    feed: ChangeFeed
    keys: DeploymentKeys
    stopping: Stopping
    api_keys: Authenticator
    guesses: KeyGuesses = field(default_factory=KeyGuesses)
    tokens: VerifiedTokens | None = None
    streams: Counter[Owner] = field(default_factory=Counter)

    def serve(self, offer: Offer) -> Served:
        """Make what answers requests for an offer."""
        servers = build_servers(
            offer,
            self.settings,
            store=self.store,
            feed=self.feed,
            keys=self.keys,
            streams=self.streams,
            stopping=self.stopping,
        )
        resource = protected_resource(offer, self.settings)
        router = build_router(servers, self.settings, self.api_keys, self.guesses, self.tokens, resource)
        return Served(servers, router, build_metadata(resource, self.settings))


MakesPaths = Callable[[Parts], AbstractAsyncContextManager[Paths]]
"""Opens the paths of a front end, and closes them at the end."""


class FrontEnd:
    """An ASGI application: see `create_app`.

    Run by itself, it starts and stops with its server. Mounted in another application, under any path, it
    starts and stops with `lifespan`, which that application enters.

    Attributes:
        settings: Configuration.
        refusal: Why it refused to start, if its set-up cannot work.
        drain_delay: Seconds that a server lets it serve on between `begin_to_stop` and `drain`, so that
            proxies notice.
    """

    def __init__(
        self,
        paths: MakesPaths,
        settings: Settings,
        outbox: Outbox,
        store: FrontEndStore | None,
        timings: Timings,
    ) -> None:
        self._make_paths, self._timings = paths, timings
        self.settings, self._outbox, self._given = settings, outbox, store
        self.refusal: ConfigurationError | None = None
        self.drain_delay = settings.seconds_to_drain
        self._stopping, self._stops = Stopping(), False
        self._paths: Paths | None = None
        self._readiness: Readiness | None = None
        self._address_guard = AddressGuard(settings)
        self._site = Starlette(
            routes=[Route("/healthz", self._alive), Route("/readyz", self._ready)],
            lifespan=self.lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; paths of MCP go the short way."""
        if scope["type"] == "http":
            send = self._ending_connections(send)
        if scope["type"] == "http" and (path := _path(scope)).startswith(WELL_KNOWN):
            await self._metadata(scope, receive, send)
        elif scope["type"] == "http" and _is_mcp(path):
            paths = self._paths
            endpoint = _not_started if paths is None else paths.find(path) or self._site
            await endpoint(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._site(scope, receive, self._saying_why(send))
        else:
            await self._site(scope, receive, send)

    @property
    def well_known(self) -> list[Route]:
        """The routes by which clients find out where to sign in (RFC 9728).

        For an application that mounts this one under a path: clients look at its root, not under that path,
        as in `Starlette(routes=[*front_end.well_known, Mount("/tasks", front_end)], ...)`.
        """
        answer = _Endpoint(self._metadata)
        return [Route(WELL_KNOWN, answer), Route(f"{WELL_KNOWN}/{{path:path}}", answer)]

    async def _metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the metadata of the path that stands behind the well-known one."""
        found, paths = None, self._paths
        if paths is not None and (resource := self.settings.oauth_resource) is not None:
            wanted = str(scope["path"]).partition(WELL_KNOWN)[2].rstrip("/")
            prefix = urlsplit(resource).path.removesuffix(MCP_PATH)
            found = paths.metadata(wanted.removeprefix(prefix) or MCP_PATH)
        await (found or self._site)(scope, receive, send)

    def _ending_connections(self, send: Send) -> Send:
        """While it stops, answers say that no other request should come by their connection.

        A proxy that keeps connections would send the next request on one that is about to be closed.
        """

        async def answer(message: Message) -> None:
            if self._stops and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        return answer

    def _saying_why(self, send: Send) -> Send:
        """Tell a server the sentence of a refusal to start, in place of a traceback."""

        async def say(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self.refusal is not None:
                message = {**message, "message": str(self.refusal)}
            await send(message)

        return say

    def begin_to_stop(self) -> None:
        """Say that it stops soon: `/readyz` is 503, and every answer ends its connection; it serves on."""
        self._stops = True

    def drain(self) -> None:
        """End what would keep a server from stopping; to be called, in the event loop, when it begins to.

        Streams end now. Requests that wait have a moment to end by themselves; then they are answered with
        what their clients can act on.
        """
        self.begin_to_stop()
        if self._paths is not None:
            self._paths.drain()
        asyncio.get_running_loop().call_later(self._timings.stop, self._stopping.end)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Paths]:
        """Make what answers requests, whatever the transport; the store need not answer yet.

        Raises:
            ConfigurationError: There is no Redis to keep tasks in, or no secret.
        """
        settings = self.settings
        open_audit_log(settings.audit_log)
        async with self._opened_store() as store:
            feed = ChangeFeed(store, self._timings)
            keys = load_keys(
                settings.secret, settings.accepted_secrets, settings.owner_secret, settings.data_dir
            )
            following = asyncio.create_task(feed.run(), name="change feed")
            try:
                stopping = self._stopping = Stopping()
                async with (
                    opened_sign_in(settings, keys.owner_secret) as tokens,
                    self._make_paths(
                        Parts(
                            settings=settings,
                            store=store,
                            feed=feed,
                            keys=keys,
                            stopping=stopping,
                            api_keys=Authenticator(settings, keys.owner_secret),
                            tokens=tokens,
                        )
                    ) as paths,
                ):
                    yield paths
                    paths.close()
            finally:
                await _cancelled(following)
                flush_audit_log()

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
        async with AsyncExitStack() as stack:
            try:
                servers = await self._start(stack)
            except ConfigurationError as error:
                self.refusal = error
                raise
            self._readiness = servers.readiness
            try:
                yield
            finally:
                self._paths = self._readiness = None

    async def _start(self, stack: AsyncExitStack) -> Servers:
        if self._paths is not None:
            raise ConfigurationError("The front end was started already: enter its lifespan once")
        if self._given is None:
            check_settings(self.settings)
        paths = await stack.enter_async_context(self.opened())
        servers = paths.root.servers
        await servers.readiness.refuse_unworkable()
        await servers.services.feed.begun()
        self._serve_metrics(stack, servers)
        self._paths, self._stops = paths, False
        return servers

    def _serve_metrics(self, stack: AsyncExitStack, servers: Servers) -> None:
        """Serve them until the stack is closed, if the settings say where.

        Raises:
            ConfigurationError: They cannot be served there.
        """
        if (address := metrics_address(self.settings)) is None:
            return
        from ..metrics.process import ProcessMetrics  # what else is served needs neither

        metrics = ProcessMetrics(address, Role.FRONT_END, [StoreGauges(servers.store).read])
        metrics.start()
        stack.push_async_callback(asyncio.to_thread, metrics.stop)

    def _opened_store(self) -> AbstractAsyncContextManager[FrontEndStore]:
        return _open(self.settings, self._outbox) if self._given is None else nullcontext(self._given)

    async def _alive(self, _: Request) -> Response:
        """Say that the process runs, and nothing of what it depends on."""
        return JSONResponse({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        """Say whether requests should be sent here; why not, to whom the address guard would let in."""
        if self._stops:
            return JSONResponse({"status": "stopping"}, status_code=503)
        problem = (
            "the front end has not started" if self._readiness is None else await self._readiness.problem()
        )
        if problem is None and self._readiness is not None:
            status, state, reason = 200, "ready", self._readiness.shortage() or "ok"
        else:
            status, state, reason = 503, "not ready", str(problem)
        told = {"store": reason} if self._is_served(request) else {}
        return JSONResponse({"status": state, **told}, status_code=status)

    def _is_served(self, request: Request) -> bool:
        """Whether a request came from where one may call `/mcp`, whoever sent it."""
        listed = headers_of(request.scope)
        try:
            check_repeated(listed)
            self._address_guard.check(request.scope, dict(listed))
        except Rejection:
            return False
        return True


class _Endpoint:
    """An ASGI application that a route does not take for a function of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@asynccontextmanager
async def _open(settings: Settings, outbox: Outbox) -> AsyncIterator[FrontEndStore]:
    refuse_no_redis(settings)
    if settings.envelope.key_names:
        keep_words_out_of_logs()
    store = AsyncRedisTaskStore(
        str(settings.redis_url),
        prefix=settings.key_prefix,
        shards=settings.shards,
        limits=settings.limits,
        envelope=settings.envelope,
        outbox=outbox,
        pool=settings.pool,
        deadline=settings.store_deadline,
        rates=settings.rates,
    )
    try:
        yield store
    finally:
        await store.aclose()


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _is_mcp(path: str) -> bool:
    return path.endswith(("/mcp", "/mcp/"))


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
