"""Tokens that say nothing by themselves: their issuer is asked about each (RFC 7662)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote_plus

from mcp.server.auth.provider import AccessToken

from .fetching import CannotFetch, Fetcher
from .refused_tokens import CannotVerify, RefusalLog, TokenRefused
from .token_claims import access_token

QUESTIONS: Final = 16
"""Questions that are put to the issuer at the same time; more wait."""

BELIEVED_SECONDS: Final = 60.0
"""How long an answer is believed: a revoked token is refused after that."""


class IntrospectedTokens:
    """Verifies tokens by asking their issuer; the SDK's `TokenVerifier`.

    Args:
        issuer: Whose tokens are taken.
        url: Its introspection endpoint.
        client_id: The service's own name there.
        client_secret: And its secret.
        fetcher: Asks.
        clock: Seconds since the epoch.
    """

    longest: Final = BELIEVED_SECONDS
    version: Final = 0

    def __init__(
        self,
        *,
        issuer: str,
        url: str,
        client_id: str,
        client_secret: str,
        fetcher: Fetcher,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer, self._url, self._fetcher, self._clock = issuer, url, fetcher, clock
        # RFC 6749, section 2.3.1: both are form-encoded before they become user and password.
        self._user, self._password = quote_plus(client_id), quote_plus(client_secret)
        self._questions = asyncio.Semaphore(QUESTIONS)
        self._refusals = RefusalLog()

    async def verify_token(self, token: str) -> AccessToken | None:
        """What the issuer says of a token; None if it is not to be taken.

        Raises:
            CannotVerify: The issuer does not answer.
        """
        try:
            answer = await self._asked(token)
            return self._verified(token, answer)
        except TokenRefused as reason:
            self._refusals.tell(reason)
            return None

    async def aclose(self) -> None:
        """End what is under way: nothing is that no caller waits for."""

    async def _asked(self, token: str) -> dict[str, Any]:
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            async with self._questions:
                return await self._fetcher.post(self._url, form, user=self._user, password=self._password)
        except CannotFetch as error:
            self._refusals.tell(TokenRefused("its issuer cannot be asked about it", str(error)))
            raise CannotVerify(str(error)) from error

    def _verified(self, token: str, answer: dict[str, Any]) -> AccessToken:
        if answer.get("active") is not True:
            raise TokenRefused("its issuer says that it is not active")
        if answer.get("iss", self._issuer) != self._issuer:
            raise TokenRefused("it is of another issuer (iss)", repr(answer["iss"]))
        kind = answer.get("token_type", "bearer")
        if not isinstance(kind, str) or kind.lower() not in ("bearer", "access_token"):
            raise TokenRefused("it is no bearer token (token_type)", repr(kind))
        return access_token(token, {**answer, "iss": self._issuer}, now=self._clock())
