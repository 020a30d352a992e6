"""The Inspector's `mcpdo` signs in, in one era: `sign_in_mcpdo.py URL ERA NODE MCPDO HOME`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from person import sign_in

URL, ERA, NODE, MCPDO, HOME = sys.argv[1:]
environment = {
    **os.environ,
    "HOME": HOME,
    "MCP_INSPECTOR_SECRET_STORE": "file",
    "PATH": os.pathsep.join([str(Path(NODE).parent), os.environ.get("PATH", os.defpath)]),
}


def output(*command: str) -> str:
    ran = subprocess.run(
        [NODE, MCPDO, "--format", "json", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{command}: {ran.stdout} {ran.stderr}")
    return ran.stdout


def signed_in(*command: str) -> tuple[Any, int]:
    """What a command says, after the person has signed in as often as it asked for that; and how often."""
    for times in range(4):
        said = json.loads(output(*command))
        if not (page := said.get("authUrl")):
            return said, times
        sign_in(page)
        output("connections/show", URL)
    raise RuntimeError(f"{command}: asked again and again")


for line in output("private").splitlines():
    name, _, value = line.removeprefix("export ").partition("=")
    environment[name] = value.strip("'")
try:
    said, asked = signed_in("connect", URL, "--era", ERA)
    tools = json.loads(output("--connection", URL, "tools/list"))
    result, _ = signed_in("--connection", URL, "tools/call", "greet", "name:=Ada")
    shown = json.loads(output("connections/show", URL))
    seen = {
        "version": shown["protocolVersion"],
        "found": "greet" in [tool["name"] for tool in tools["tools"]],
        "result": result["content"][0]["text"],
        "asked": asked,
    }
    print(json.dumps(seen))
finally:
    output("daemon", "stop")
