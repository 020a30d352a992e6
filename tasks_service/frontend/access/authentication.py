"""Who sends a request: the one admission of both eras, for every HTTP method.

A caller has an API key, or a token that an authorization server has issued for this resource. Where there are
neither, whoever reaches the service is its one user. Every refusal of a proof looks the same, whatever was
wrong with it (2026-07-28, basic/authorization, error handling).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Final

from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST

from ..core.overload import retry_after
from ..core.requests import Caller
from ..transport.rejection import Rejection
from .api_keys import CHALLENGE, Authenticator
from .protected_resource import ProtectedResource
from .refused_tokens import CannotVerify
from .verified_tokens import VerifiedToken, VerifiedTokens

_HEADER: Final = "authorization"

_SCHEME: Final = b"bearer "

_RETRY_MS: Final = 5_000
"""When a caller whose token could not be verified may try again."""

_TWO_HEADERS: Final = "Authorization: expected once; two of them could mean two callers"

_KEY_REQUIRED: Final = (
    "Authentication required: send one of the service's API keys as 'Authorization: Bearer KEY'"
)

_SIGN_IN_REQUIRED: Final = (
    "Authentication required: sign in at the authorization server that WWW-Authenticate leads to, and send "
    "its token as 'Authorization: Bearer TOKEN'"
)

_CANNOT_VERIFY: Final = (
    "The authorization server does not answer, so that tokens cannot be verified; try again"
)


class Authentication:
    """Finds the caller of a request.

    Args:
        keys: Knows the API keys.
        tokens: Verifies tokens; None if there is no sign-in.
        resource: What they must have been issued for; None likewise.
    """

    def __init__(
        self,
        keys: Authenticator,
        tokens: VerifiedTokens | None = None,
        resource: ProtectedResource | None = None,
    ) -> None:
        self._keys, self._tokens, self._resource = keys, tokens, resource

    async def authenticate(self, raw: Sequence[tuple[str, str]], headers: Mapping[str, str]) -> Caller:
        """Find the caller of a request.

        Args:
            raw: Its headers as they came.
            headers: The same, by name in lower case.

        Raises:
            Rejection: 400 for two proofs; 401 for none, or for one that proves nothing here; 503 if it cannot
                be verified for now.
        """
        if len(raw) != len(headers) and sum(name == _HEADER for name, _ in raw) > 1:
            raise Rejection(400, INVALID_REQUEST, _TWO_HEADERS)
        authorization = headers.get(_HEADER)
        sent = None if authorization is None else authorization.encode("latin-1")
        if (caller := self._keys.caller(sent)) is not None:
            return caller
        tokens, resource = self._tokens, self._resource
        if tokens is None or resource is None:
            raise Rejection(401, INVALID_REQUEST, _KEY_REQUIRED, headers=((b"www-authenticate", CHALLENGE),))
        is_bearer = sent is not None and sent[: len(_SCHEME)].lower() == _SCHEME
        token = sent[len(_SCHEME) :].strip() if sent is not None and is_bearer else None
        verified = None if token is None else await _verified(tokens, token)
        if token is not None and verified is not None and resource.is_for(verified):
            return Caller(
                owner=verified.owner,
                identity=verified.identity,
                expires_at=verified.expires_at,
                still_holds=partial(_still_holds, tokens, token),
            )
        challenge = resource.sign_in(had_token=token is not None)
        raise Rejection(401, INVALID_REQUEST, _SIGN_IN_REQUIRED, headers=((b"www-authenticate", challenge),))

    def require_scopes(
        self, caller: Caller, needed: Collection[str], request_id: str | int | None = None
    ) -> None:
        """Refuse what a caller's token does not allow.

        Args:
            caller: Who sent the request.
            needed: All scopes that it needs.
            request_id: Its id.

        Raises:
            Rejection: 403; it names all that are needed.
        """
        resource, granted = self._resource, caller.identity
        if granted.scopes is None or resource is None or not needed:
            return
        asked = [scope for scope in needed if resource.requires(scope)]
        if all(map(granted.has_scope, asked)):
            return
        raise Rejection(
            403,
            INVALID_REQUEST,
            f"Your token does not allow this: it needs the scope {', '.join(asked)}",
            data={"requiredScopes": asked},
            request_id=request_id,
            headers=((b"www-authenticate", resource.more_scopes(asked)),),
        )


async def _verified(tokens: VerifiedTokens, token: bytes) -> VerifiedToken | None:
    try:
        return await tokens.verify(token)
    except CannotVerify:
        raise Rejection(503, INTERNAL_ERROR, _CANNOT_VERIFY, headers=retry_after(_RETRY_MS)) from None


async def _still_holds(tokens: VerifiedTokens, token: bytes) -> bool:
    """Whether a token is still good; while its issuer does not answer, it is believed until it ends."""
    try:
        return await tokens.verify(token) is not None
    except CannotVerify:
        return True
