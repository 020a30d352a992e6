"""Pydantic AI, as its guide has it: `pydantic_ai_agent.py MCP_URL MODEL_URL PROMPT`."""

from __future__ import annotations

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def main(url: str, model_url: str, prompt: str) -> None:
    model = OpenAIChatModel("scripted", provider=OpenAIProvider(base_url=model_url, api_key="none"))
    agent = Agent(model, toolsets=[MCPToolset(url)])
    async with agent:
        print((await agent.run(prompt)).output)


asyncio.run(main(*sys.argv[1:]))
