"""What a token must say, whether it was signed or its issuer was asked about it.

Signed tokens: RFC 9068 (access tokens), RFC 8725 (best practices). Introspection: RFC 7662. How client and
scopes are named differs between authorization servers; the usual names are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any, Final

from mcp.server.auth.provider import AccessToken

from ...domain.scopes import is_scope
from .refused_tokens import TokenRefused

SKEW_SECONDS: Final = 30.0
"""How far the clock of an issuer may be ahead: for `nbf` and `iat`. An end is an end."""

NAME_CHARACTERS: Final = 255
"""Longest subject or client id (OpenID Connect Core, section 2, of subjects)."""

SCOPES_CHARACTERS: Final = 4096
"""Longest list of scopes of a token; it is recorded with each task."""

_CLIENT_CLAIMS: Final = ("client_id", "azp", "cid", "appid")
"""Where the client is named, by RFC 9068 and by those who came before it."""

_SCOPE_CLAIMS: Final = ("scope", "scp")
"""Where the scopes are: a text with spaces, or a list."""


def access_token(token: str, claims: Mapping[str, Any], *, now: float) -> AccessToken:
    """What a token says, once it is known that its issuer says so.

    Args:
        token: The token.
        claims: Its claims, `iss` among them.
        now: Seconds since the epoch.

    Raises:
        TokenRefused: It has ended, has not begun, is bound to a key that its sender would have to prove, or
            lacks something.
    """
    expires_at = _moment(claims, "exp")
    if expires_at is None:
        raise TokenRefused("it has no end (exp)")
    if now >= expires_at:
        raise TokenRefused("it has ended (exp)", f"{now - expires_at:.0f} s ago")
    for name in ("nbf", "iat"):
        begins = _moment(claims, name)
        if begins is not None and begins > now + SKEW_SECONDS:
            raise TokenRefused(f"it is not good yet ({name})", f"for another {begins - now:.0f} s")
    if "cnf" in claims:
        raise TokenRefused("it is bound to a key of its sender (cnf), whom a bearer token does not prove")
    return AccessToken(
        token=token,
        client_id=_client(claims),
        scopes=_scopes(claims),
        expires_at=int(expires_at),
        subject=_name("sub", claims.get("sub")),
        claims=dict(claims),
    )


def audiences(claims: Mapping[str, Any]) -> Collection[str]:
    """For whom a token was issued."""
    value = claims.get("aud")
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise TokenRefused("it does not say for whom it is (aud)")
    return found


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused(f"its {name} is no number")
    try:
        moment = float(value)
    except OverflowError:
        moment = float("inf")
    if not isfinite(moment):
        raise TokenRefused(f"its {name} is no moment")
    return moment


def _client(claims: Mapping[str, Any]) -> str:
    """The client that the token was issued to; empty if it names none."""
    named = [claims[name] for name in _CLIENT_CLAIMS if name in claims]
    return _name("client", named[0]) if named else ""


def _name(what: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARACTERS:
        raise TokenRefused(f"it names no {what}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TokenRefused(f"its {what} is no text") from None
    return value


def _scopes(claims: Mapping[str, Any]) -> list[str]:
    value = next((claims[name] for name in _SCOPE_CLAIMS if name in claims), "")
    scopes = value.split() if isinstance(value, str) else value
    if not isinstance(scopes, list) or not all(map(is_scope, scopes)):
        raise TokenRefused("its scopes are no list of scopes")
    if sum(map(len, scopes)) > SCOPES_CHARACTERS:
        raise TokenRefused("it has too many scopes")
    return scopes
