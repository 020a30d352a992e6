"""Which resource a URI belongs to, and what the variables of its template are in it."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import DEFAULT_RESOURCE_SECURITY
from mcp.shared.uri_template import UriTemplate

from ...authoring.resource import Resource, ResourceRegistry
from ...domain.errors import InvalidArguments, UnknownResource


class ResourceFinder:
    """Finds resources by URI: among single resources first, then among templates; the first match counts.

    Args:
        resources: What there is; looked at anew for each URI.
    """

    def __init__(self, resources: ResourceRegistry) -> None:
        self._resources = resources
        self._parsed: dict[str, UriTemplate] = {}

    def find(self, uri: str) -> tuple[Resource, dict[str, Any]]:
        """The resource of a URI, and the keyword arguments for its function.

        Raises:
            UnknownResource: There is none, or the function does not take the values in the URI.
        """
        if (single := self._resources.single(uri)) is not None:
            return single, {}
        for resource in self._resources.templates():
            values = self._match(resource, uri)
            if values is not None:
                try:
                    return resource, resource.function.bind(resource.name, values)
                except InvalidArguments as error:
                    raise UnknownResource(uri, str(error)) from None
        raise UnknownResource(uri)

    def _match(self, resource: Resource, uri: str) -> dict[str, str] | None:
        """The values of the template's variables in a URI; None if the URI does not match.

        A value that would leave a directory if it were used as a path does not match.
        """
        if (template := self._parsed.get(resource.uri)) is None:
            template = self._parsed[resource.uri] = UriTemplate.parse(resource.uri)
        values = template.match(uri)
        if values is None or DEFAULT_RESOURCE_SECURITY.validate(values) is not None:
            return None
        return {name: str(value) for name, value in values.items()}
