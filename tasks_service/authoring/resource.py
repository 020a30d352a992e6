"""Resources: contents that clients read under a URI, or under any URI of a template."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, Unpack

from ..domain.errors import ConfigurationError
from ..durable.annotations import Annotations, as_annotations
from ..durable.sdk_objects import SDKObject
from .function import DEFAULT_TIMEOUT, Function, build_function, check_options
from .signature import name_of
from .uri_template import template_variables

URI_BYTES = 8 * 1024
"""Bytes of the longest URI that is looked up."""

LONGEST_CACHE = timedelta(days=30)
"""Longest time that clients may be told to keep a resource."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.+")


class ResourceOptions(TypedDict, total=False):
    """The options of a resource.

    Attributes:
        name: For programs; defaults to the function's name.
        title: For people; shown by clients in place of the name.
        description: What is in it; defaults to the docstring.
        mime_type: The media type of its contents. Default: chosen by what the function returns, and not
            listed.
        annotations: Hints for clients: audience, priority, last change.
        timeout: How long the function may take. Default 30 seconds, at most 10 minutes.
        cache: How long clients of 2026-07-28 may keep what they have read. Default 0: not at all.
        public: Whether a shared cache may give it to other callers. Default: no.
    """

    name: str | None
    title: str | None
    description: str | None
    mime_type: str | None
    annotations: Annotations | SDKObject | None
    timeout: timedelta
    cache: timedelta
    public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource, or a template of resources.

    Attributes:
        uri: The URI, or the template.
        variables: The names of the template's variables; none for a single resource.
        function: The function that returns its contents.
        name: For programs.
        title: For people.
        description: What is in it.
        mime_type: The media type of its contents, if it is always the same.
        annotations: Hints for clients.
        cache_ms: How long clients may keep it.
        public: Whether a shared cache may give it to other callers.
    """

    uri: str
    variables: tuple[str, ...]
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
        """Whether it is a template."""
        return bool(self.variables)


def build_resource(
    uri: str,
    fn: Callable[..., Any],
    namespace: Mapping[str, Any] | None = None,
    /,
    **options: Unpack[ResourceOptions],
) -> Resource:
    """Make a resource of a function.

    Args:
        uri: A URI, or an RFC 6570 template whose variables are the function's parameters.
        fn: A sync or async function.
        namespace: Names around the decorator, for hints that are texts.
        options: See `ResourceOptions`.

    Raises:
        ConfigurationError: It cannot work; the message says why.
    """
    what = f"Resource {uri!r}"
    check_options(what, fn, options, ResourceOptions.__annotations__)
    variables = _variables(what, uri)
    function = build_function(what, fn, options.get("timeout", DEFAULT_TIMEOUT), namespace)
    _check_parameters(what, variables, function)
    public = options.get("public", False)
    if public and function.context_parameter is not None:
        raise ConfigurationError(
            f"{what}: public=True: its function sees who asks, so others must not be given what it returns"
        )
    return Resource(
        uri=uri,
        variables=variables,
        function=function,
        name=options.get("name") or name_of(fn) or uri,
        title=options.get("title"),
        description=options.get("description") or inspect.getdoc(fn),
        mime_type=options.get("mime_type"),
        annotations=_annotations(what, options),
        cache_ms=_cache_ms(what, options.get("cache", timedelta(0))),
        public=public,
    )


def _variables(what: str, uri: str) -> tuple[str, ...]:
    if not _SCHEME.fullmatch(uri):
        raise ConfigurationError(f"{what}: expected an absolute URI or a template of one, like acme://scenes")
    try:
        return template_variables(uri)
    except ValueError as error:
        raise ConfigurationError(f"{what}: {error}") from error


def _annotations(what: str, options: ResourceOptions) -> Annotations | None:
    try:
        return as_annotations(options.get("annotations"))
    except TypeError as error:
        raise ConfigurationError(f"{what}: annotations=: {error}") from None


def _check_parameters(what: str, variables: tuple[str, ...], function: Function) -> None:
    parameters = set(function.schema.get("properties", {}))
    if unfilled := sorted(parameters.difference(variables)):
        raise ConfigurationError(f"{what}: parameters that are no part of the URI: {', '.join(unfilled)}")
    if untaken := sorted(set(variables) - parameters):
        raise ConfigurationError(f"{what}: the function has no parameter for {', '.join(untaken)}")


def _cache_ms(what: str, cache: timedelta) -> int:
    if not isinstance(cache, timedelta) or not timedelta(0) <= cache <= LONGEST_CACHE:
        raise ConfigurationError(
            f"{what}: cache={cache!r}: expected a datetime.timedelta of at most {LONGEST_CACHE.days} days"
        )
    return round(cache.total_seconds() * 1000)


class ResourceRegistry:
    """The resources of a service, in the order in which they were registered."""

    def __init__(self) -> None:
        self._resources: dict[str, Resource] = {}

    def add(self, resource: Resource) -> None:
        """Register a resource.

        Raises:
            ConfigurationError: The URI or template is registered already.
        """
        if resource.uri in self._resources:
            raise ConfigurationError(f"There is a resource {resource.uri!r} already")
        self._resources[resource.uri] = resource

    def single(self, uri: str) -> Resource | None:
        """The single resource of this URI; None if there is none."""
        resource = self._resources.get(uri)
        return resource if resource is not None and not resource.is_template else None

    def template(self, uri_template: str) -> Resource | None:
        """The resource that was registered under exactly this template; None if there is none."""
        resource = self._resources.get(uri_template)
        return resource if resource is not None and resource.is_template else None

    def singles(self) -> Iterator[Resource]:
        """The resources that are no templates."""
        return (resource for resource in self._resources.values() if not resource.is_template)

    def templates(self) -> Iterator[Resource]:
        """The templates."""
        return (resource for resource in self._resources.values() if resource.is_template)

    def __len__(self) -> int:
        return len(self._resources)
