"""The methods of revision 2026-07-28, on the SDK's own server.

The official SDK validates the shape of requests, picks the method and shapes what it returns. This file is
where a method meets its parser, its action and its renderer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolRequestParams,
    DiscoverResult,
    GetPromptRequestParams,
    GetPromptResult,
    LoggingCapability,
    PaginatedRequestParams,
    RequestParams,
    ServerCapabilities,
    SubscriptionsListenRequestParams,
)

from ...authoring.tool import Rendered
from ...domain.errors import InvalidArguments
from ...domain.task import Identity, Owner, Task
from ...extension import TASKS_EXTENSION
from ..core import wire_common
from ..core.executions import Executions
from ..core.library import LibraryHandlers, add_methods
from ..core.offer import Offer
from ..core.reports import Reporting, Threshold
from ..core.requests import InputRequired, RequestScope
from . import wire
from .subscriptions import Subscriptions

Context = ServerRequestContext[dict[str, Any], RequestScope]
Result = dict[str, Any]

_refusing = wire_common.refusing(wire.refusal)

_HINT = CacheHint(ttl_ms=wire.LIST_TTL_MS, scope="public")


def build_server(
    offer: Offer, *, executions: Executions, library: LibraryHandlers, subscriptions: Subscriptions
) -> Server[dict[str, Any]]:
    """Make the server that answers 2026-07-28.

    Args:
        offer: Its tools are listed as they are now.
        executions: Does the work of the methods.
        library: Does the work of those that are not about tools.
        subscriptions: Tells clients of changes.
    """
    server = _RequestServer(
        offer.name,
        version=offer.version,
        instructions=offer.instructions,
        cache_hints={
            wire.DISCOVER: _HINT,
            wire_common.RESOURCES_LIST: _HINT,
            wire_common.TEMPLATES_LIST: _HINT,
            wire_common.PROMPTS_LIST: _HINT,
        },
    )
    # The SDK traces every request by default, which costs a fifth of a poll even without an exporter.
    server.middleware.clear()
    server.extensions[TASKS_EXTENSION] = {}
    methods = _Methods(executions, library, subscriptions, wire.Results(offer.catalogue))
    add = server.add_request_handler
    add(wire.DISCOVER, RequestParams, server.discover)
    for name in (wire_common.TOOLS_LIST, wire_common.RENDERED_LIST):
        add(name, PaginatedRequestParams, _refusing(methods.list_tools))
    add(wire_common.TOOLS_CALL, CallToolRequestParams, _refusing(methods.call_tool))
    add(wire.TASKS_GET, RequestParams, _refusing(methods.get_task))
    add(wire.TASKS_UPDATE, RequestParams, _refusing(methods.update_task))
    add(wire.TASKS_CANCEL, RequestParams, _refusing(methods.cancel_task))
    add(wire.LISTEN, SubscriptionsListenRequestParams, _refusing(methods.listen))
    add_methods(server, library, sender=_sender, get_prompt=methods.get_prompt, refusing=_refusing)
    return server


class _RequestServer(Server[dict[str, Any]]):
    """Declares logging too: this revision has no method for it that the SDK could tell it by.

    And names every revision that is served, as `server/discover` should.
    """

    async def discover(self, context: Context, params: RequestParams) -> DiscoverResult:
        """The result of `server/discover`."""
        return DiscoverResult(
            supported_versions=list(wire_common.SERVED_VERSIONS),
            capabilities=self.get_capabilities(protocol_version=context.protocol_version),
            instructions=self.instructions,
        )

    def get_capabilities(self, *args: Any, **kwargs: Any) -> ServerCapabilities:
        """The capabilities that `server/discover` declares."""
        capabilities = super().get_capabilities(*args, **kwargs)
        return capabilities.model_copy(update={"logging": LoggingCapability()})

    @cached_property
    def _stamp(self) -> dict[str, Any]:
        return super().server_info_stamp

    @property
    def server_info_stamp(self) -> dict[str, Any]:
        """What each result says of this server; one object for all, since results are only written out.

        The SDK's is a deep copy, a thirtieth of what a poll costs.
        """
        return self._stamp


class _Methods:
    """One method each: parse, act, render."""

    def __init__(
        self,
        executions: Executions,
        library: LibraryHandlers,
        subscriptions: Subscriptions,
        results: wire.Results,
    ) -> None:
        self._executions, self._library, self._subscriptions = executions, library, subscriptions
        self._results = results

    async def list_tools(self, context: Context, params: PaginatedRequestParams) -> Result:
        wire_common.require_first_page("tools", params)
        return self._results.listing()

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> Result:
        caller = _scope(context).caller
        call = replace(wire.tool_call(params.name, params.arguments, context.params), caller=caller.identity)
        try:
            outcome = await self._executions.call(caller.owner, call, _reporting(context))
        except InvalidArguments as error:
            return self._results.argument_problems(error)
        if isinstance(outcome, InputRequired):
            return self._results.questions(outcome)
        if isinstance(outcome, Task):
            return self._results.handle(outcome)
        if isinstance(outcome, Rendered):
            return self._results.rendered(outcome)
        return self._results.call(outcome)

    async def get_prompt(self, context: Context, params: GetPromptRequestParams) -> Result | GetPromptResult:
        call = wire.prompt_call(params.name, params.arguments, context.params)
        outcome = await self._library.prompt(*_sender(context), call)
        return self._results.questions(outcome) if isinstance(outcome, InputRequired) else outcome

    async def get_task(self, context: Context, params: RequestParams) -> Result:
        wire.require_tasks(context.params)
        return self._results.task(
            await self._executions.get(_owner(context), wire_common.task_id(context.params))
        )

    async def update_task(self, context: Context, params: RequestParams) -> Result:
        wire.require_tasks(context.params)
        owner, task_id = _owner(context), wire_common.task_id(context.params)
        await self._executions.answer(owner, task_id, wire.answers(context.params))
        return self._results.acknowledgement()

    async def listen(self, context: Context, params: SubscriptionsListenRequestParams) -> Result:
        if context.request is None or context.request_id is None:
            raise RuntimeError("the transport did not say who calls, or under which id")
        wanted = wire.listen(params.notifications, context.params)
        await self._subscriptions.listen(context.request, wanted, context.request_id)
        return wire.listen_result(context.request_id)

    async def cancel_task(self, context: Context, params: RequestParams) -> Result:
        wire.require_tasks(context.params)
        await self._executions.cancel(_owner(context), wire_common.task_id(context.params))
        return self._results.acknowledgement()


def _scope(context: Context) -> RequestScope:
    if context.request is None:
        raise RuntimeError("the transport did not say who calls")
    return context.request


def _owner(context: Context) -> Owner:
    return _scope(context).caller.owner


def _sender(context: Context) -> tuple[Owner, Identity]:
    caller = _scope(context).caller
    return caller.owner, caller.identity


def _reporting(context: Context) -> Reporting | None:
    """Make what takes the reports of a called tool; None if the client wants none, or takes no stream."""
    token, level = wire_common.progress_token(context.params), wire.log_level(context.params)
    scope = _scope(context)
    if not scope.may_stream or (token is None and level is None):
        return None
    return Reporting(
        scope.outgoing,
        progress=None if token is None else partial(wire_common.progress_notification, token),
        message=wire_common.log_notification,
        threshold=Threshold(level),
    )
