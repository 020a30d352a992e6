"""The OpenAI agents SDK, as its guide has it: `openai_agents.py MCP_URL MODEL_URL PROMPT`."""

from __future__ import annotations

import asyncio
import sys

from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStreamableHttp
from openai import AsyncOpenAI


async def main(url: str, model_url: str, prompt: str) -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=model_url, api_key="none")
    async with MCPServerStreamableHttp(params={"url": url}) as server:
        model = OpenAIResponsesModel(model="scripted", openai_client=client)
        agent = Agent(name="host", model=model, mcp_servers=[server])
        print((await Runner.run(agent, prompt)).final_output)


asyncio.run(main(*sys.argv[1:]))
