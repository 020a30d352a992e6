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
from starlette.types import Scope

from ...crypto.owners import key_name
from ...observability.context import note_owner
from ..core.overload import retry_after
from ..core.requests import Caller
from ..transport.rejection import Rejection
from .api_keys import CHALLENGE, Authenticator
from .caller_address import CallerAddress, TrustedProxies
from .key_guesses import KeyGuesses
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

_SIGN_IN_OR_KEY_REQUIRED: Final = f"{_SIGN_IN_REQUIRED}; or send one of the service's API keys in its place"

_TOO_MANY_GUESSES: Final = "Too many wrong keys came from your network; send the right one, later"

_CANNOT_VERIFY: Final = (
    "The authorization server does not answer, so that tokens cannot be verified; try again"
)


class Authentication:
    """Finds the caller of a request.

    Args:
        keys: Knows the API keys.
        guesses: Counts wrong ones, of all paths together.
        proxies: Are believed when they say who called them.
        tokens: Verifies tokens; None if there is no sign-in.
        resource: What they must have been issued for; None likewise.
    """

    def __init__(
        self,
        keys: Authenticator,
        guesses: KeyGuesses,
        proxies: TrustedProxies,
        tokens: VerifiedTokens | None = None,
        resource: ProtectedResource | None = None,
    ) -> None:
        self._keys, self._guesses, self._proxies = keys, guesses, proxies
        self._tokens, self._resource = tokens, resource

    async def authenticate(
        self, scope: Scope, raw: Sequence[tuple[str, str]], headers: Mapping[str, str]
    ) -> Caller:
        """Find the caller of a request, and tell the audit log.

        Args:
            scope: Of the ASGI connection; says where the request came from.
            raw: Its headers as they came.
            headers: The same, by name in lower case.

        Raises:
            Rejection: 400 for two proofs; 401 for none, or for one that proves nothing here; 429 after too
                many of those; 503 if it cannot be verified for now.
        """
        caller = await self._authenticate(scope, raw, headers)
        note_owner(caller.owner, key_name(caller.identity))
        return caller

    async def _authenticate(
        self, scope: Scope, raw: Sequence[tuple[str, str]], headers: Mapping[str, str]
    ) -> Caller:
        if len(raw) != len(headers) and sum(name == _HEADER for name, _ in raw) > 1:
            raise Rejection(400, INVALID_REQUEST, _TWO_HEADERS)
        authorization = headers.get(_HEADER)
        sent = None if authorization is None else authorization.encode("latin-1")
        caller, proof = self._keys.caller(sent), _proof(sent)
        if caller is not None and self._keys.serves_local_user:
            return caller
        if proof is None:
            raise self._refusal(had_token=False)
        # A signed token, which has dots, cannot be guessed, and an old one is no guess.
        is_key = self._keys.are_configured and (self._tokens is None or b"." not in proof)
        if is_key:
            return await self._unless_guessed(self._proxies.caller_address(scope), proof, caller)
        if caller is None:
            caller = await self._signed_in(proof)
        if caller is None:
            raise self._refusal(had_token=True)
        return caller

    async def _unless_guessed(self, address: CallerAddress, proof: bytes, caller: Caller | None) -> Caller:
        """The caller that a key, or what may be one, proves, unless too many wrong ones came from there."""
        if seconds := self._guesses.seconds_to_wait(address):
            if caller is None or not self._guesses.is_proven(address, proof):
                raise _too_many_guesses(seconds)
            return caller
        if caller is None:
            caller = await self._signed_in(proof)
        if caller is None:
            self._guesses.wrong(address)
            raise self._refusal(had_token=True)
        self._guesses.right(address, proof)
        return caller

    async def _signed_in(self, token: bytes) -> Caller | None:
        """The caller that a token proves, or None."""
        tokens, resource = self._tokens, self._resource
        if tokens is None or resource is None:
            return None
        verified = await _verified(tokens, token)
        if verified is None or not resource.is_for(verified):
            return None
        return Caller(
            owner=verified.owner,
            identity=verified.identity,
            expires_at=verified.expires_at,
            still_holds=partial(_still_holds, tokens, token),
        )

    def _refusal(self, *, had_token: bool) -> Rejection:
        if self._tokens is None or self._resource is None:
            return Rejection(401, INVALID_REQUEST, _KEY_REQUIRED, headers=((b"www-authenticate", CHALLENGE),))
        challenge = self._resource.sign_in(had_token=had_token)
        told = _SIGN_IN_OR_KEY_REQUIRED if self._keys.are_configured else _SIGN_IN_REQUIRED
        return Rejection(401, INVALID_REQUEST, told, headers=((b"www-authenticate", challenge),))

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


def _proof(authorization: bytes | None) -> bytes | None:
    """The key or token in an `Authorization` header; None if it has neither."""
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        return None
    return authorization[len(_SCHEME) :].strip()


def _too_many_guesses(seconds: float) -> Rejection:
    headers = retry_after(int(seconds * 1000) + 1)
    return Rejection(429, INVALID_REQUEST, _TOO_MANY_GUESSES, headers=headers)


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
