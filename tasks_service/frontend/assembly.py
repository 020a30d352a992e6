"""The assembly of a front end: from what is offered and a store to the servers that answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from mcp.server.lowlevel import Server

from ..broker.signature import message_signer, with_messages
from ..crypto.keys import DeploymentKeys
from ..crypto.owners import LOCAL_USER
from ..crypto.sealing import Sealer
from ..domain.task import Owner
from ..settings import Settings
from ..store.front_ends import FrontEndStore
from .access.address_guard import AddressGuard
from .access.api_keys import Authenticator, caller_of
from .access.authentication import Authentication
from .access.caller_address import TrustedProxies
from .access.key_guesses import KeyGuesses
from .access.protected_resource import ProtectedResource
from .access.resource_metadata import ResourceMetadata
from .access.verified_tokens import VerifiedTokens
from .core.catalogue import Catalogue
from .core.change_feed import ChangeFeed
from .core.companion_tools import CompanionTools
from .core.executions import Executions
from .core.hand_over import HandOverTimes
from .core.library import LibraryHandlers
from .core.offer import Offer
from .core.poll_limits import PollLimits
from .core.pre_task_questions import PreTaskQuestions
from .core.registered_services import path_name
from .core.request_state import RequestStates
from .core.requests import Caller
from .core.service_tasks import ServiceTasks
from .core.stopping import Stopping
from .core.waiting_calls import WaitingCalls
from .readiness import Readiness
from .router import EraRouter
from .v2025_11_25.endpoint import SessionEndpoint
from .v2025_11_25.methods import build_handshake_server
from .v2025_11_25.question_requests import QuestionRequests
from .v2025_11_25.resumption import ResumePoints
from .v2025_11_25.session_services import SessionServices
from .v2026_07_28 import wire
from .v2026_07_28.admission import Admission
from .v2026_07_28.endpoint import RequestEndpoint
from .v2026_07_28.methods import build_server
from .v2026_07_28.subscriptions import Subscriptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The parts that answer requests, whatever the transport.

    Attributes:
        catalogue: The tools that are listed.
        modern: Answers 2026-07-28.
        handshake: Answers the revisions before it.
        services: What sessions need.
        store: Where everything is recorded.
        subscriptions: Tell clients of 2026-07-28 of changes.
        library: Runs the functions of resources, prompts and completions; to be closed at the end.
        readiness: Whether the store can be used.
        keys: The deployment's; they tell owners apart.
        local: Who calls where only the local user can.
    """

    catalogue: Catalogue
    modern: Server[dict[str, Any]]
    handshake: Server[dict[str, Any]]
    services: SessionServices
    store: FrontEndStore
    subscriptions: Subscriptions
    library: LibraryHandlers
    readiness: Readiness
    keys: DeploymentKeys
    local: Caller


def build_servers(
    offer: Offer,
    settings: Settings,
    *,
    store: FrontEndStore,
    feed: ChangeFeed,
    keys: DeploymentKeys,
    streams: Counter[Owner],
    stopping: Stopping,
) -> Servers:
    """Put together what answers requests; opens nothing.

    Args:
        offer: What clients are offered, as registered now.
        settings: Configuration.
        store: Where everything is recorded.
        feed: Tells of changes in the store.
        keys: The deployment's; they seal what travels with clients.
        streams: The open streams of the process by their owners, at all its paths.
        stopping: Ends waits when the process stops.
    """
    tasks = ServiceTasks(store, offer.catalogue, take_turns=settings.owners_take_turns)
    limits, states = settings.limits, RequestStates(keys.sealing, feed.timings.answer)
    companion_tools = None
    times = HandOverTimes(settings.handle_after, settings.handle_after_by_client, settings.wait_limit)
    if settings.companion_tools:
        companion_tools = CompanionTools(tasks, limits=limits, times=times, stopping=stopping)
    listed = offer.catalogue if companion_tools is None else companion_tools.beside(offer.catalogue)
    library = LibraryHandlers(
        offer.library,
        pre_task_questions=PreTaskQuestions(states, limits=limits, request="request for a prompt"),
        limits=limits,
        stopping=stopping,
    )
    waiting_calls = WaitingCalls(
        tasks,
        feed,
        wait_limit=settings.wait_limit,
        reconnect_window=settings.reconnect_window,
        stopping=stopping,
    )
    executions = Executions(
        catalogue=offer.catalogue,
        store=tasks,
        feed=feed,
        pre_task_questions=PreTaskQuestions(states, limits=limits),
        states=states,
        limits=limits,
        shards=settings.shards,
        companion_tools=companion_tools,
        hand_over_times=times,
        waiting_calls=waiting_calls,
        poll_limits=PollLimits(limits=bool(settings.rates)),
    )
    subscriptions = Subscriptions(
        store=tasks,
        feed=feed,
        results=wire.Results(offer.catalogue),
        library=offer.library,
        tools_changed=offer.catalogue.changed,
        streams=streams,
    )
    services = SessionServices(
        service=offer.service,
        store=tasks,
        sessions=store.sessions,
        questions=QuestionRequests(tasks, store.sessions, keys.sealing, limits=limits),
        feed=feed,
        resume_points=ResumePoints(keys.sealing),
        waiting_calls=waiting_calls,
        stopping=stopping,
        tools_changed=offer.catalogue.changed,
    )
    return Servers(
        catalogue=listed,
        modern=build_server(
            replace(offer, catalogue=listed),
            executions=executions,
            library=library,
            subscriptions=subscriptions,
        ),
        handshake=build_handshake_server(
            replace(offer, catalogue=listed),
            executions=executions,
            library=library,
            companion_tools=companion_tools,
            services=services,
            cursors=Sealer(keys.sealing, "cursor"),
        ),
        services=services,
        store=store,
        subscriptions=subscriptions,
        library=library,
        readiness=Readiness(
            store, with_messages(keys.fingerprints, message_signer(settings)), offer.catalogue
        ),
        keys=keys,
        local=caller_of(LOCAL_USER, keys.owner_secret),
    )


def protected_resource(offer: Offer, settings: Settings) -> ProtectedResource | None:
    """What the path of an offer is to those who sign in; None if nobody does."""
    if not settings.oauth_issuers:
        return None
    return ProtectedResource(settings, path_name(offer.service) if offer.service else "", offer.name)


def build_router(
    servers: Servers,
    settings: Settings,
    keys: Authenticator,
    guesses: KeyGuesses,
    tokens: VerifiedTokens | None = None,
    resource: ProtectedResource | None = None,
) -> EraRouter:
    """Put together what takes HTTP requests, for both eras.

    Args:
        servers: Answer the requests.
        settings: Configuration.
        keys: Knows the API keys.
        guesses: Counts wrong ones.
        tokens: Verifies tokens; None if there is no sign-in.
        resource: What they must have been issued for; None likewise.
    """
    proxies = TrustedProxies(settings.trusted_proxies)
    authentication = Authentication(keys, guesses, proxies, tokens, resource)
    limits, timings = settings.limits, servers.services.timings
    admission = Admission(
        catalogue=servers.catalogue,
        authentication=authentication,
        limits=limits,
        body_seconds=timings.body,
        stopping=servers.services.stopping,
    )
    modern = RequestEndpoint(server=servers.modern, admission=admission, deferral=timings.deferral)
    legacy = SessionEndpoint(
        server=servers.handshake,
        services=servers.services,
        catalogue=servers.catalogue,
        authentication=authentication,
        limits=limits,
        modern=modern,
    )
    return EraRouter(guard=AddressGuard(settings), proxies=proxies, modern=modern, legacy=legacy)


def build_metadata(resource: ProtectedResource | None, settings: Settings) -> ResourceMetadata | None:
    """Put together what tells clients where to sign in; None if nobody does."""
    return None if resource is None else ResourceMetadata(resource.metadata(), AddressGuard(settings))
