"""LangChain with its MCP adapters, as their guide has it: `langchain_agent.py MCP_URL MODEL_URL PROMPT`."""

from __future__ import annotations

import asyncio
import sys

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_openai import ChatOpenAI


async def main(url: str, model_url: str, prompt: str) -> None:
    client = MultiServerMCPClient({"tools": {"transport": "streamable_http", "url": url}})
    model = ChatOpenAI(model="scripted", base_url=model_url, api_key="none")
    agent = create_agent(model, await client.get_tools())
    done = await agent.ainvoke({"messages": [{"role": "user", "content": prompt}]})
    print(done["messages"][-1].text)


asyncio.run(main(*sys.argv[1:]))
