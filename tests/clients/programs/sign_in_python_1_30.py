"""The official Python client 1.30 signs in, in 2025-11-25: `sign_in_python_1_30.py URL`."""

from __future__ import annotations

import asyncio
import json
import sys
from urllib.parse import parse_qs, urlsplit

from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from person import sign_in

URL = sys.argv[1]
CALLBACK = "http://127.0.0.1:9/callback"
asked: list[str] = []


class Storage(TokenStorage):
    """Keeps tokens for as long as the program runs."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def redirect(url: str) -> None:
    asked.append(url)


async def callback() -> tuple[str, str | None]:
    answer = parse_qs(urlsplit(await asyncio.to_thread(sign_in, asked[-1], CALLBACK)).query)
    return answer["code"][0], answer["state"][0]


async def main() -> None:
    metadata = OAuthClientMetadata(
        client_name="trial", redirect_uris=[CALLBACK], token_endpoint_auth_method="none"
    )
    provider = OAuthClientProvider(URL, metadata, Storage(), redirect, callback)
    async with (
        streamablehttp_client(URL, auth=provider) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        welcome = await session.initialize()
        tools = [tool.name for tool in (await session.list_tools()).tools]
        result = await session.call_tool("greet", {"name": "Ada"})
        before = len(asked)
        published = await session.call_tool("publish", {})
        seen = {
            "version": welcome.protocolVersion,
            "found": "greet" in tools,
            "result": result.content[0].text,
            "published": published.content[0].text,
            "asked": before,
            "asked_again": len(asked) - before,
        }
        print(json.dumps(seen))


asyncio.run(main())
