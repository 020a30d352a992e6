"""What a path is to OAuth: a protected resource, with an address, and what asks clients to sign in for it.

The address is configured, and never made of what a request says of its host (RFC 9728, section 7.3).
"""

from __future__ import annotations

from collections.abc import Iterable

from mcp.server.auth.routes import build_resource_metadata_url
from mcp.shared.auth import ProtectedResourceMetadata
from pydantic import AnyHttpUrl

from ...domain.scopes import SERVICE_SCOPES, broader
from ...oauth_settings import MCP_PATH
from ...settings import Settings
from .verified_tokens import VerifiedToken, same_resource

WELL_KNOWN = "/.well-known/oauth-protected-resource"
"""Where the metadata of a resource is, in front of the resource's own path (RFC 9728, section 3.1)."""


class ProtectedResource:
    """The resource that is served at a path.

    Args:
        settings: Configuration, with `oauth_resource`.
        service: The name of the service in the path, where each has one of its own; empty for `/mcp`.
        name: For people.
    """

    def __init__(self, settings: Settings, service: str, name: str) -> None:
        base = str(settings.oauth_resource).removesuffix(MCP_PATH)
        self.url = f"{base}/{service}{MCP_PATH}" if service else f"{base}{MCP_PATH}"
        self._name, self._servers = name, settings.oauth_authorization_servers or settings.oauth_issuers
        self._audiences = frozenset(map(same_resource, settings.oauth_audience or (self.url,)))
        self._scopes, self._prefix = settings.oauth_scopes, settings.oauth_scope_prefix
        self._metadata_url = str(build_resource_metadata_url(AnyHttpUrl(self.url)))

    def is_for(self, token: VerifiedToken) -> bool:
        """Whether a token was issued for this resource."""
        return not self._audiences.isdisjoint(token.audiences)

    def requires(self, scope: str) -> bool:
        """Whether an operation that needs a scope is refused without it.

        The service's own are not required where the authorization servers know none.
        """
        return bool(self._scopes) or scope not in SERVICE_SCOPES

    def metadata(self) -> ProtectedResourceMetadata:
        """What clients must know to sign in (RFC 9728)."""
        # Of texts, since a URL that is made before gets a slash behind its host, and issuers are compared
        # exactly.
        return ProtectedResourceMetadata.model_validate(
            {
                "resource": self.url,
                "authorization_servers": list(self._servers),
                "scopes_supported": [f"{self._prefix}{scope}" for scope in self._scopes] or None,
                "resource_name": self._name,
            }
        )

    def sign_in(self, *, had_token: bool) -> bytes:
        """The challenge of a 401: of a request without a token, it names no error (RFC 6750, section 3.1)."""
        return self._challenge("invalid_token" if had_token else "", self._scopes)

    def more_scopes(self, needed: Iterable[str]) -> bytes:
        """The challenge of a 403: all the scopes that the operation needs, as clients ask for them."""
        return self._challenge("insufficient_scope", [self._asked_for(scope) for scope in needed])

    def _asked_for(self, scope: str) -> str:
        """The scope itself, or the one that the authorization server knows instead, and that implies it."""
        if scope in self._scopes:
            return scope
        return next((broad for broad in broader(scope) if broad in self._scopes), scope)

    def _challenge(self, error: str, scopes: Iterable[str]) -> bytes:
        parts = [f'error="{error}"'] if error else []
        parts.append(f'resource_metadata="{self._metadata_url}"')
        if named := " ".join(dict.fromkeys(f"{self._prefix}{scope}" for scope in scopes)):
            parts.append(f'scope="{named}"')
        return f"Bearer {', '.join(parts)}".encode()
