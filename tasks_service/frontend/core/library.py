"""The work of `resources/*`, `prompts/*` and `completion/complete`, for every revision.

Authors' functions run here, in the front end: async ones on its loop, sync ones in one of a few threads, each
for as long as it may take. What they raise is logged, and told to nobody. Results are the SDK's own types,
and the SDK writes them as each revision has them.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

import pydantic_core
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    Annotations,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    PromptMessage,
    PromptReference,
    ReadResourceRequestParams,
    ReadResourceResult,
    TextResourceContents,
)
from mcp_types import Prompt as ListedPrompt
from mcp_types import PromptArgument as ListedArgument
from mcp_types import Resource as ListedResource
from mcp_types import ResourceTemplate as ListedTemplate

from ...authoring.completion import completion_of
from ...authoring.function import Function, RequestContext
from ...authoring.library import Library
from ...authoring.prompt import Prompt, messages_of
from ...authoring.resource import URI_BYTES, Resource
from ...authoring.results import gathered
from ...domain.errors import ClientError, LimitExceeded, ProtocolError, ResourceNotFound, UnknownResource
from ...domain.limits import Limits, check_size, to_json
from ...domain.task import Identity, Owner
from . import wire_common
from .pre_task_questions import Answered, Asking, PreTaskQuestions
from .requests import FunctionFailed, InputRequired, InvalidRequest, PromptCall
from .resource_finder import ResourceFinder
from .stopping import FrontEndStops, Stopping

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREADS: Final = 16
"""Sync functions that run at the same time; more wait, within their own time."""


class LibraryHandlers:
    """Answers requests for resources, prompts and completions.

    Args:
        library: What it has; looked at anew for each request.
        pre_task_questions: Asks what prompts declare.
        limits: How large a resource or a prompt may be: as large as a tool's result.
        stopping: Ends waiting for functions when the front end stops.
    """

    def __init__(
        self,
        library: Library,
        *,
        pre_task_questions: PreTaskQuestions,
        limits: Limits,
        stopping: Stopping,
    ) -> None:
        self.library, self.finder = library, ResourceFinder(library.resources)
        self._pre_task_questions, self._limits, self._stopping = pre_task_questions, limits, stopping
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="library")

    def close(self) -> None:
        """Accept no more work; functions that run in threads are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def resources(self) -> ListResourcesResult:
        """List resources with a URI of their own."""
        return ListResourcesResult(
            resources=[
                ListedResource(
                    uri=resource.uri,
                    name=resource.name,
                    title=resource.title,
                    description=resource.description,
                    mime_type=resource.mime_type,
                    annotations=_annotations(resource),
                )
                for resource in self.library.resources.singles()
            ]
        )

    def templates(self) -> ListResourceTemplatesResult:
        """List templates of resources."""
        return ListResourceTemplatesResult(
            resource_templates=[
                ListedTemplate(
                    uri_template=template.uri,
                    name=template.name,
                    title=template.title,
                    description=template.description,
                    mime_type=template.mime_type,
                    annotations=_annotations(template),
                )
                for template in self.library.resources.templates()
            ]
        )

    async def read(self, owner: Owner, caller: Identity, uri: str) -> ReadResourceResult:
        """Read a resource.

        Raises:
            UnknownResource: There is none of that URI.
            InvalidRequest: The URI is longer than any that is looked for.
            FunctionFailed: The author's function failed, took too long, or returned what cannot be sent.
            MCPError: The author's own error.
        """
        if len(uri.encode(errors="replace")) > URI_BYTES:
            raise InvalidRequest(f"uri: expected at most {URI_BYTES} bytes")
        resource, arguments = self.finder.find(uri)
        what = f"Reading the resource '{resource.name}'"
        try:
            context = RequestContext(owner=owner, caller=caller)
            value = await self._run(what, resource.function, arguments, context, passing=ResourceNotFound)
        except ResourceNotFound as error:
            raise UnknownResource(uri, error.reason) from None
        contents = self._made(what, lambda: self._contents(uri, resource, value))
        scope = "public" if resource.public else "private"
        return ReadResourceResult(contents=[contents], ttl_ms=resource.cache_ms, cache_scope=scope)

    def prompts(self) -> ListPromptsResult:
        """List all prompts."""
        return ListPromptsResult(
            prompts=[
                ListedPrompt(
                    name=prompt.name,
                    title=prompt.title,
                    description=prompt.description,
                    arguments=[
                        ListedArgument(
                            name=argument.name, description=argument.description, required=argument.required
                        )
                        for argument in prompt.arguments
                    ],
                )
                for prompt in self.library.prompts
            ]
        )

    async def prompt(
        self, owner: Owner, caller: Identity, call: PromptCall
    ) -> GetPromptResult | InputRequired:
        """Write a prompt's messages, or ask what it wants to know before.

        Raises:
            UnknownPrompt: There is none of that name.
            CapabilityRequired: It asks first, and the client cannot be asked.
            InvalidArguments: They do not fit.
            StateRefused: The state that came with answers is not this request's, or too old.
            LimitExceeded: The answers are too large together.
            InvalidRequest: A question was answered with an error.
            FunctionFailed, MCPError: See `read`.
        """
        prompt = self.library.prompts.find(call.prompt)
        asking = Asking(prompt.name, {name: question.recorded() for name, question in prompt.ask.items()})
        if prompt.ask:
            self._pre_task_questions.require(asking, call.capabilities)
        arguments = prompt.function.bind(prompt.name, call.arguments)
        answers: Mapping[str, Any] = {}
        if prompt.ask:
            asked = self._pre_task_questions.next_round(owner, asking, call)
            if isinstance(asked, InputRequired):
                return asked
            answers = _read(prompt, asked)
        what = f"The prompt '{prompt.name}'"
        context = RequestContext(owner=owner, caller=caller, answers=answers)
        value = await self._run(what, prompt.function, arguments, context)
        return self._made(what, lambda: self._messages(prompt, value))

    async def complete(self, owner: Owner, caller: Identity, params: CompleteRequestParams) -> CompleteResult:
        """Complete an argument of which the beginning was typed.

        Raises:
            UnknownPrompt, InvalidRequest, InvalidArguments: There is no such prompt, template or argument.
            FunctionFailed, MCPError: See `read`.
        """
        argument = params.argument
        function = self._completing(params)
        if function is None:
            return CompleteResult(completion=Completion(values=[], total=0, has_more=False))
        (typed,) = function.schema["properties"]
        known = (params.context.arguments if params.context else None) or {}
        what = f"Completing '{argument.name}'"
        context = RequestContext(owner=owner, caller=caller, arguments=known)
        bound = function.bind(argument.name, {typed: argument.value})
        value = await self._run(what, function, bound, context)
        return self._made(what, lambda: self._completion(value))

    def _completing(self, params: CompleteRequestParams) -> Function | None:
        completions, argument = self.library.completions, params.argument.name
        if isinstance(params.ref, PromptReference):
            return completions.of_prompt(params.ref.name, argument)
        uri = params.ref.uri
        try:
            if self.library.resources.template(uri) is None:
                self.finder.find(uri)  # a single resource, which has nothing to complete
                return None
            return completions.of_template(uri, argument)
        except UnknownResource:
            raise InvalidRequest("ref.uri: there is no such resource template") from None

    async def _run(
        self,
        what: str,
        function: Function,
        arguments: Mapping[str, Any],
        context: RequestContext,
        *,
        passing: type[Exception] | tuple[()] = (),
    ) -> Any:
        """Run an author's function; of what it raises, only a `ProtocolError` and what is passing get out."""
        by_position, by_name = function.passed(arguments, context)
        call = partial(function.fn, *by_position, **by_name)
        limit = asyncio.timeout(function.timeout)
        try:
            async with self._stopping.ends_wait(), limit:
                value = await (call() if function.is_async else self._in_thread(lambda: gathered(call())))
                return gathered(await value if inspect.isawaitable(value) else value)
        except FrontEndStops:
            raise
        except passing:
            raise
        except ProtocolError as error:
            raise self._made(what, partial(self._authors_error, error)) from error
        except BaseException as error:  # an author's sys.exit() or KeyboardInterrupt would end the front end
            if _is_the_requests_end(error):
                raise
            if limit.expired():
                logger.warning("%s took longer than %g s", what, function.timeout)
                raise FunctionFailed(what, f"it took longer than {function.timeout:g} s") from None
            logger.exception("%s failed", what)
            raise FunctionFailed(what) from error

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        run = copy_context().run
        value, error = await asyncio.get_running_loop().run_in_executor(self._threads, run, _ended, call)
        if error is not None:
            raise error
        return value

    def _made(self, what: str, make: Callable[[], T]) -> T:
        """Make a result of what a function has returned."""
        try:
            return make()
        except LimitExceeded as error:
            logger.error("%s: %s", what, error)  # noqa: TRY400 - no line of code is to blame
            raise FunctionFailed(what, f"it is too large: {error}") from None
        except BaseException as error:  # code of the author runs here too
            logger.exception("%s: what its function returned cannot be sent", what)
            raise FunctionFailed(what) from error

    def _contents(
        self, uri: str, resource: Resource, value: Any
    ) -> TextResourceContents | BlobResourceContents:
        maximum = self._limits.result_bytes
        if isinstance(value, bytes | bytearray | memoryview):
            blob = base64.b64encode(value).decode()
            check_size("resource", blob, maximum)
            mime_type = resource.mime_type or "application/octet-stream"
            return BlobResourceContents(uri=uri, mime_type=mime_type, blob=blob)
        if isinstance(value, str):
            check_size("resource", value, maximum)
            return TextResourceContents(uri=uri, mime_type=resource.mime_type or "text/plain", text=value)
        plain = pydantic_core.to_jsonable_python(value, by_alias=True)
        text = to_json("resource", plain, maximum=maximum, depth=self._limits.depth)
        return TextResourceContents(uri=uri, mime_type=resource.mime_type or "application/json", text=text)

    def _messages(self, prompt: Prompt, value: Any) -> GetPromptResult:
        messages = [PromptMessage.model_validate(message) for message in messages_of(value)]
        result = GetPromptResult(description=prompt.description, messages=messages)
        check_size("prompt", result.model_dump_json(by_alias=True), self._limits.result_bytes)
        return result

    def _completion(self, value: Any) -> CompleteResult:
        found = completion_of(value)
        completion = Completion(values=list(found.values), total=found.total, has_more=found.has_more)
        result = CompleteResult(completion=completion)
        check_size("completion", result.model_dump_json(by_alias=True), self._limits.result_bytes)
        return result

    def _authors_error(self, error: ProtocolError) -> MCPError:
        to_json(
            "error", [error.message, error.data], maximum=self._limits.result_bytes, depth=self._limits.depth
        )
        return MCPError(error.code, error.message, error.data)


def _ended(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a function returned or raised: a future cannot hold all that it may raise, `StopIteration` say."""
    try:
        return call(), None
    except BaseException as error:
        return None, error


def _is_the_requests_end(error: BaseException) -> bool:
    """Whether the request was cancelled, rather than that its function raised `CancelledError` by itself."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _annotations(resource: Resource) -> Annotations | None:
    hints = resource.annotations
    return None if hints is None else Annotations.model_validate(hints.recorded())


def _read(prompt: Prompt, asked: Answered) -> dict[str, Any]:
    """The answers, as the function gets them."""
    try:
        return {entry.name: prompt.ask[entry.name].read(json.loads(entry.value)) for entry in asked.journal}
    except ClientError as error:
        raise InvalidRequest(str(error)) from None


# --- methods -----------------------------------------------------------------------------------------


def add_methods(
    server: Server[dict[str, Any]],
    handlers: LibraryHandlers,
    *,
    sender: Callable[[Any], tuple[Owner, Identity]],
    get_prompt: Callable[[Any, GetPromptRequestParams], Awaitable[Any]],
    refusing: wire_common.Refusing,
) -> None:
    """Serve what the library has; the server advertises what it serves, and does not know the rest.

    Args:
        server: Of any revision.
        handlers: What the methods do.
        sender: Who sent a request, by its context.
        get_prompt: `prompts/get`, in which the revisions differ: in how a client is asked.
        refusing: Makes errors of the protocol of refusals.
    """

    def listing(what: str, page: Callable[[], Any]) -> wire_common.Method:
        async def list_page(_: Any, params: PaginatedRequestParams) -> Any:
            wire_common.require_first_page(what, params)
            return page()

        return refusing(list_page)

    async def read(context: Any, params: ReadResourceRequestParams) -> ReadResourceResult:
        return await handlers.read(*sender(context), params.uri)

    async def complete(context: Any, params: CompleteRequestParams) -> CompleteResult:
        return await handlers.complete(*sender(context), params)

    add, library = server.add_request_handler, handlers.library
    if len(library.resources):
        add(wire_common.RESOURCES_LIST, PaginatedRequestParams, listing("resources", handlers.resources))
        add(wire_common.TEMPLATES_LIST, PaginatedRequestParams, listing("templates", handlers.templates))
        add(wire_common.RESOURCES_READ, ReadResourceRequestParams, refusing(read))
    if len(library.prompts):
        add(wire_common.PROMPTS_LIST, PaginatedRequestParams, listing("prompts", handlers.prompts))
        add(wire_common.PROMPTS_GET, GetPromptRequestParams, refusing(get_prompt))
    if len(library.completions):
        add(wire_common.COMPLETE, CompleteRequestParams, refusing(complete))
