"""Resources: what clients may read, under an address or under a template of addresses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, Unpack

from mcp.server.mcpserver import DEFAULT_RESOURCE_SECURITY
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate
from mcp_types import Annotations

from ..domain.errors import ConfigurationError, InvalidArguments, UnknownResource
from .function import DEFAULT_TIMEOUT, Function, build_function, check_options

URI_BYTES = 8 * 1024
"""Longest URI that is looked for."""

LONGEST_CACHE = timedelta(days=30)
"""Longest time that clients may be told to keep a resource."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.+")


class ResourceOptions(TypedDict, total=False):
    """What an author can say of a resource.

    Attributes:
        name: For programs; defaults to the function's name.
        title: For people; shown by clients in place of the name.
        description: What is in it; defaults to the docstring.
        mime_type: Of what the function returns. Default: by what it returns, and then it is not listed.
        annotations: Hints for clients: audience, priority, last change.
        timeout: How long the function may take. Default 30 seconds, at most 10 minutes.
        cache: How long clients of 2026-07-28 may keep what they have read. Default 0: not at all.
        public: Whether a cache may hand it to other callers too. Default: no.
    """

    name: str | None
    title: str | None
    description: str | None
    mime_type: str | None
    annotations: Annotations | None
    timeout: timedelta
    cache: timedelta
    public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource, or a template of resources.

    Attributes:
        uri: The URI, or the template.
        template: The template, parsed; without variables for a single resource.
        function: Reads it.
        name: For programs.
        title: For people.
        description: What is in it.
        mime_type: Of what is in it, if it is always the same.
        annotations: Hints for clients.
        cache_ms: How long clients may keep it.
        public: Whether a cache may hand it to other callers too.
    """

    uri: str
    template: UriTemplate
    function: Function
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    annotations: Annotations | None = None
    cache_ms: int = 0
    public: bool = False

    @property
    def is_template(self) -> bool:
        """Whether it stands for many resources."""
        return bool(self.template.variables)

    def match(self, uri: str) -> dict[str, str] | None:
        """The values of a template's variables in a URI; None if it is not a URI of this template.

        Values that would lead out of a directory, as a path, match nothing.
        """
        values = self.template.match(uri)
        if values is None or DEFAULT_RESOURCE_SECURITY.validate(values) is not None:
            return None
        return {name: str(value) for name, value in values.items()}


def build_resource(uri: str, fn: Callable[..., Any], **options: Unpack[ResourceOptions]) -> Resource:
    """Make a resource of a function.

    Args:
        uri: A URI, or an RFC 6570 template whose variables are the function's parameters.
        fn: A sync or async function.
        options: See `ResourceOptions`.

    Raises:
        ConfigurationError: It cannot work; the message says why.
    """
    what = f"Resource {uri!r}"
    check_options(what, options, ResourceOptions.__annotations__)
    template = _template(what, uri)
    function = build_function(what, fn, options.get("timeout", DEFAULT_TIMEOUT))
    _check_parameters(what, template, function)
    public = options.get("public", False)
    if public and function.context_parameter is not None:
        raise ConfigurationError(
            f"{what}: public=True: its function sees who asks, so others must not be handed what it returns"
        )
    return Resource(
        uri=uri,
        template=template,
        function=function,
        name=options.get("name") or fn.__name__,
        title=options.get("title"),
        description=options.get("description") or inspect.getdoc(fn),
        mime_type=options.get("mime_type"),
        annotations=options.get("annotations"),
        cache_ms=_cache_ms(what, options.get("cache", timedelta(0))),
        public=public,
    )


def _template(what: str, uri: str) -> UriTemplate:
    if not _SCHEME.fullmatch(uri):
        raise ConfigurationError(f"{what}: expected an absolute URI or a template of one, like acme://scenes")
    try:
        template = UriTemplate.parse(uri)
    except InvalidUriTemplate as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if exploded := [variable.name for variable in template.variables if variable.explode]:
        raise ConfigurationError(f"{what}: {', '.join(exploded)}: a variable has one value here, without *")
    return template


def _check_parameters(what: str, template: UriTemplate, function: Function) -> None:
    parameters = set(function.schema.get("properties", {}))
    variables = set(template.variable_names)
    if unfilled := sorted(parameters - variables):
        raise ConfigurationError(f"{what}: parameters that are no part of the URI: {', '.join(unfilled)}")
    if untaken := sorted(variables - parameters):
        raise ConfigurationError(f"{what}: the function has no parameter for {', '.join(untaken)}")


def _cache_ms(what: str, cache: timedelta) -> int:
    if not isinstance(cache, timedelta) or not timedelta(0) <= cache <= LONGEST_CACHE:
        raise ConfigurationError(
            f"{what}: cache={cache!r}: expected a datetime.timedelta of at most {LONGEST_CACHE.days} days"
        )
    return round(cache.total_seconds() * 1000)


class ResourceRegistry:
    """The resources of a service, in the order in which they were registered.

    A URI is looked for among single resources first, then among templates; the first that matches has it.
    """

    def __init__(self) -> None:
        self._resources: dict[str, Resource] = {}

    def add(self, resource: Resource) -> None:
        """Register a resource.

        Raises:
            ConfigurationError: The URI, or the template, is taken.
        """
        if resource.uri in self._resources:
            raise ConfigurationError(f"There is a resource {resource.uri!r} already")
        self._resources[resource.uri] = resource

    def find(self, uri: str) -> tuple[Resource, dict[str, Any]]:
        """The resource of a URI, and keyword arguments for its function.

        Raises:
            UnknownResource: There is none, or the values in the URI are none that the function takes.
        """
        single = self._resources.get(uri)
        if single is not None and not single.is_template:
            return single, {}
        for resource in self.templates():
            values = resource.match(uri)
            if values is not None:
                try:
                    return resource, resource.function.bind(resource.name, values)
                except InvalidArguments as error:
                    raise UnknownResource(uri, str(error)) from None
        raise UnknownResource(uri)

    def template(self, uri_template: str) -> Resource | None:
        """The resource that was registered under exactly this template."""
        resource = self._resources.get(uri_template)
        return resource if resource is not None and resource.is_template else None

    def singles(self) -> Iterator[Resource]:
        """Resources with a URI of their own."""
        return (resource for resource in self._resources.values() if not resource.is_template)

    def templates(self) -> Iterator[Resource]:
        """Templates."""
        return (resource for resource in self._resources.values() if resource.is_template)

    def __len__(self) -> int:
        return len(self._resources)
