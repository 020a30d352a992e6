"""Asking authorization servers: documents over https, small, in time, and from no other place than was named.

A redirect is not followed: it would lead to a place that nobody configured. What is asked for is public, or
asked for with the service's own credentials; the token of a caller goes nowhere but to the introspection
endpoint of its issuer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import httpx2

from ...addresses.web import check_secure_url, is_loopback_host
from .strict_json import read_object

DOCUMENT_BYTES: Final = 1024 * 1024
"""Largest document that is read."""

DOCUMENT_SECONDS: Final = 2.0
"""How long one may take, from the connection to its last byte."""


class CannotFetch(Exception):
    """A document could not be had; the message says why, for the log."""


class Fetcher:
    """Gets documents; to be closed at the end."""

    def __init__(self) -> None:
        self._clients: dict[bool, httpx2.AsyncClient] = {}

    async def get(self, url: str) -> dict[str, Any]:
        """A document, as a JSON object.

        Raises:
            CannotFetch: There is none, or it could not be had in time.
        """
        return await self._ask("GET", url)

    async def post(self, url: str, form: Mapping[str, str], *, user: str, password: str) -> dict[str, Any]:
        """The answer to a form, as a JSON object; raises as `get` does.

        Args:
            url: Where it is sent.
            form: What is sent.
            user: The name of the service there; HTTP Basic (RFC 6749, section 2.3.1).
            password: And its secret.
        """
        return await self._ask("POST", url, data=dict(form), auth=httpx2.BasicAuth(user, password))

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        try:
            client = self._client(is_loopback_host(check_secure_url(url).hostname or ""))
            async with asyncio.timeout(DOCUMENT_SECONDS):
                async with client.stream(
                    method, url, headers={"accept": "application/json"}, **options
                ) as answer:
                    if answer.status_code != 200:
                        raise CannotFetch(f"{url} answered with {answer.status_code}")
                    body = b""
                    async for part in answer.aiter_bytes():
                        body += part
                        if len(body) > DOCUMENT_BYTES:
                            raise CannotFetch(f"{url} answered with more than {DOCUMENT_BYTES} bytes")
            return read_object(body)
        except TimeoutError:
            raise CannotFetch(f"{url} did not answer within {DOCUMENT_SECONDS:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise CannotFetch(f"{url} cannot be reached: {type(error).__name__}") from error
        except ValueError as error:
            raise CannotFetch(f"{url}: {error}") from error

    def _client(self, is_local: bool) -> httpx2.AsyncClient:
        """The client for a place; the proxies of the environment are for places that are not this machine."""
        if is_local not in self._clients:
            self._clients[is_local] = httpx2.AsyncClient(
                follow_redirects=False, timeout=DOCUMENT_SECONDS, trust_env=not is_local
            )
        return self._clients[is_local]
