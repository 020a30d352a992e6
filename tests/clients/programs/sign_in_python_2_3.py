"""The official Python client 2.3 signs in, in one era: `sign_in_python_2_3.py URL ERA [CLIENT_ID]`."""

from __future__ import annotations

import asyncio
import json
import sys
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth import OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from person import sign_in

URL, ERA, *CLIENT = sys.argv[1:]
CALLBACK = "http://127.0.0.1:9/callback"
asked: list[str] = []


class Storage:
    """Keeps tokens for as long as the program runs."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None
        if CLIENT:
            self.client = OAuthClientInformationFull(
                client_id=CLIENT[0], redirect_uris=[CALLBACK], token_endpoint_auth_method="none"
            )

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


async def callback() -> AuthorizationCodeResult:
    back = await asyncio.to_thread(sign_in, asked[-1], CALLBACK)
    answer = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    if "code" not in answer:
        raise RuntimeError(f"{asked[-1]} was answered with {back}")
    return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))


async def main() -> None:
    storage = Storage()
    provider = OAuthClientProvider(
        server_url=URL,
        client_metadata=OAuthClientMetadata(
            client_name="trial", redirect_uris=[CALLBACK], token_endpoint_auth_method="none"
        ),
        storage=storage,
        redirect_handler=redirect,
        callback_handler=callback,
    )
    async with (
        httpx2.AsyncClient(auth=provider, timeout=30) as http,
        Client(streamable_http_client(URL, http_client=http), mode=ERA) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        result = await client.call_tool("greet", {"name": "Ada"})
        before = len(asked)
        published = await client.call_tool("publish", {})
        print(
            json.dumps(
                {
                    "version": client.session.protocol_version,
                    "found": "greet" in tools,
                    "result": result.content[0].text,
                    "published": published.content[0].text,
                    "asked": before,
                    "asked_again": len(asked) - before,
                }
            )
        )


asyncio.run(main())
