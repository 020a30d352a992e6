"""FastMCP's client signs in, in 2026-07-28: `sign_in_fastmcp_4.py URL`."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import webbrowser

from fastmcp import Client
from fastmcp.client.auth import OAuth
from person import sign_in

URL = sys.argv[1]
opened: list[str] = []


class Person(webbrowser.BaseBrowser):
    """The browser that the client opens."""

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
        opened.append(url)
        threading.Thread(target=sign_in, args=(url,)).start()
        return True


async def main() -> None:
    webbrowser.register("person", None, Person("person"), preferred=True)
    async with Client(URL, auth=OAuth(callback_timeout=60)) as client:
        tools = [tool.name for tool in await client.list_tools()]
        result = await client.call_tool("greet", {"name": "Ada"})
        before = len(opened)
        published = await client.call_tool("publish", {})
        seen = {
            "version": client.session.protocol_version,
            "found": "greet" in tools,
            "result": result.content[0].text,
            "published": published.content[0].text,
            "asked": before,
            "asked_again": len(opened) - before,
        }
        print(json.dumps(seen))


asyncio.run(main())
