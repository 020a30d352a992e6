"""How a front end is put together: from what is offered and a store to the servers that answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp.server.lowlevel import Server

from ..authoring.library import Library
from ..authoring.tool import ToolRegistry
from ..crypto.keys import DeploymentKeys
from ..crypto.sealing import Sealer
from ..settings import Settings
from .access.address_guard import AddressGuard
from .access.api_keys import Authenticator
from .access.owner import LOCAL_USER, owner_of
from .core.change_feed import ChangeFeed
from .core.companion_tools import CompanionTools
from .core.executions import Handlers
from .core.library import LibraryHandlers
from .core.pre_task_questions import PreTaskQuestions
from .core.request_state import RequestStates
from .core.requests import Caller
from .core.store import FrontEndStore
from .readiness import Readiness
from .router import EraRouter
from .v2025_11_25.endpoint import SessionEndpoint
from .v2025_11_25.methods import build_handshake_server
from .v2025_11_25.question_requests import QuestionRequests
from .v2025_11_25.resumption import ResumePoints
from .v2025_11_25.task_stream import SessionServices
from .v2026_07_28 import wire
from .v2026_07_28.admission import Admission
from .v2026_07_28.endpoint import RequestEndpoint
from .v2026_07_28.methods import build_server
from .v2026_07_28.subscriptions import Listeners


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a service offers to its clients.

    Attributes:
        name: What clients see as the server's name.
        version: What clients see as the server's version.
        instructions: For the model: what the tools are good for.
        tools: What can be called.
        library: Resources, prompts and completions.
    """

    name: str
    version: str
    instructions: str | None
    tools: ToolRegistry
    library: Library


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
        library: Runs the functions of resources, prompts and completions; to be closed at the end.
        readiness: Whether the store can be used.
        keys: The deployment's; they tell owners apart.
        local: Who calls where only the local user can.
    """

    tools: ToolRegistry
    modern: Server[dict[str, Any]]
    handshake: Server[dict[str, Any]]
    desk: SessionServices
    store: FrontEndStore
    listeners: Listeners
    library: LibraryHandlers
    readiness: Readiness
    keys: DeploymentKeys
    local: Caller


def build_servers(
    offer: Offer, settings: Settings, *, store: FrontEndStore, feed: ChangeFeed, keys: DeploymentKeys
) -> Servers:
    """Put together what answers requests; opens nothing.

    Args:
        offer: What clients are offered, as registered now.
        settings: Configuration.
        store: Where everything is recorded.
        feed: Tells of changes in the store.
        keys: The deployment's; they seal what travels with clients.
    """
    limits, states = settings.limits, RequestStates(keys.sealing)
    companions = None
    if settings.companion_tools:
        companions = CompanionTools(offer.tools, store, limits=limits, longest_wait=settings.handle_after)
    listed = offer.tools if companions is None else companions.listed()
    library = LibraryHandlers(
        offer.library,
        preflight=PreTaskQuestions(states, limits=limits, request="request for a prompt"),
        limits=limits,
    )
    handlers = Handlers(
        tools=offer.tools,
        store=store,
        feed=feed,
        preflight=PreTaskQuestions(states, limits=limits),
        states=states,
        limits=limits,
        shards=settings.shards,
        wait_limit=settings.wait_limit,
        companions=companions,
        handle_after=settings.handle_after,
        reconnect_window=settings.reconnect_window,
    )
    listeners = Listeners(store=store, feed=feed, results=wire.Results(offer.tools), library=offer.library)
    desk = SessionServices(
        store=store,
        sessions=store.sessions,
        questions=QuestionRequests(store, store.sessions, keys.sealing, limits=limits),
        feed=feed,
        bookmarks=ResumePoints(keys.sealing),
    )
    return Servers(
        tools=listed,
        modern=build_server(
            name=offer.name,
            version=offer.version,
            instructions=offer.instructions,
            tools=listed,
            handlers=handlers,
            library=library,
            listeners=listeners,
        ),
        handshake=build_handshake_server(
            name=offer.name,
            version=offer.version,
            instructions=offer.instructions,
            tools=listed,
            handlers=handlers,
            library=library,
            companions=companions,
            desk=desk,
            cursors=Sealer(keys.sealing, "cursor"),
            wait_limit=settings.wait_limit,
        ),
        desk=desk,
        store=store,
        listeners=listeners,
        library=library,
        readiness=Readiness(store),
        keys=keys,
        local=Caller(owner=owner_of(LOCAL_USER, keys.owner_secret)),
    )


def build_router(servers: Servers, settings: Settings) -> EraRouter:
    """Put together what takes HTTP requests, for both eras.

    Args:
        servers: Answer the requests.
        settings: Configuration.

    Raises:
        ConfigurationError: Others than this machine could reach the service, and it knows no keys.
    """
    authenticator = Authenticator(settings, servers.keys.owner_secret)
    guard, limits = AddressGuard(settings), settings.limits
    admission = Admission(tools=servers.tools, authenticator=authenticator, guard=guard, limits=limits)
    modern = RequestEndpoint(server=servers.modern, admission=admission)
    legacy = SessionEndpoint(
        server=servers.handshake,
        desk=servers.desk,
        authenticator=authenticator,
        guard=guard,
        limits=limits,
        modern=modern,
    )
    return EraRouter(modern=modern, legacy=legacy)
