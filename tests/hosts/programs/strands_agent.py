"""Strands, as its guide has it: `strands_agent.py MCP_URL MODEL_URL PROMPT`."""

from __future__ import annotations

import sys

from mcp.client.streamable_http import streamable_http_client
from strands import Agent
from strands.models.openai import OpenAIModel
from strands.tools.mcp import MCPClient

url, model_url, prompt = sys.argv[1:]
model = OpenAIModel(client_args={"base_url": model_url, "api_key": "none"}, model_id="scripted")
with MCPClient(lambda: streamable_http_client(url)) as client:
    agent = Agent(model=model, tools=client.list_tools_sync(), callback_handler=None)
    print(agent(prompt))
