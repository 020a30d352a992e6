"""The hosts that are tried: how each is installed, told of service and model, and given a prompt."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.environments import NotInstallable, npm_directory, python_environment

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
RUN_SECONDS = 240
"""What a run of a host may take on a busy machine; some look for their vendor's servers first."""


@dataclass(frozen=True)
class Run:
    """What a host is started with.

    Attributes:
        url: Of the service.
        model_url: Of the model.
        prompt: What the user says.
        home: An empty directory that the host takes for the user's.
    """

    url: str
    model_url: str
    prompt: str
    home: Path


Command = Callable[[Run], list[str]]


def ask(command: Command, run: Run) -> str:
    """Let a host answer a prompt; what it prints.

    Raises:
        NotInstallable: It cannot be installed here.
    """
    ran = subprocess.run(
        command(run),
        cwd=run.home,
        env=_environment(run.home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout


def _environment(home: Path) -> dict[str, str]:
    """The environment without what would lead a host to its user's own files, accounts or telemetry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "TASKS_"))}
    quiet = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OTEL_SDK_DISABLED": "true", "LANGSMITH_TRACING": "false"}
    return {**kept, **quiet, "HOME": str(home), "CODEX_HOME": str(home)}


def _python(program: str, lock: str) -> Command:
    def command(run: Run) -> list[str]:
        python = python_environment(LOCKS / f"{lock}.txt")
        return [python, str(HERE / "programs" / program), run.url, run.model_url, run.prompt]

    return command


def _opencode(run: Run) -> list[str]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "scripted",
        "options": {"baseURL": run.model_url, "apiKey": "none"},
        "models": {"scripted": {"name": "scripted"}},
    }
    configuration: dict[str, Any] = {
        "model": "scripted/scripted",
        "small_model": "scripted/scripted",
        "autoupdate": False,
        "share": "disabled",
        "provider": {"scripted": provider},
        "mcp": {"acme": {"type": "remote", "url": run.url, "enabled": True}},
    }
    file = run.home / ".config" / "opencode" / "opencode.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(configuration))
    return [_binary("node_modules/opencode-linux-*/bin/opencode"), "run", run.prompt]


def _codex(run: Run) -> list[str]:
    lines = [
        'model = "scripted"',
        'model_provider = "scripted"',
        "[model_providers.scripted]",
        'name = "scripted"',
        f'base_url = "{run.model_url}"',
        'wire_api = "responses"',
        "[mcp_servers.acme]",
        f'url = "{run.url}"',
    ]
    (run.home / "config.toml").write_text("\n".join(lines))
    codex = _binary("node_modules/@openai/codex-linux-*/vendor/*/bin/codex")
    # Nobody is there to say yes to a call.
    unattended = "--dangerously-bypass-approvals-and-sandbox"
    return [codex, "exec", "--skip-git-repo-check", unattended, run.prompt]


def _binary(pattern: str) -> str:
    found = sorted(npm_directory(LOCKS / "command-lines").glob(pattern))
    if not found:
        raise NotInstallable(f"npm brings no {pattern} for this machine")
    return str(found[0])


HOSTS: dict[str, Command] = {
    "openai-agents": _python("openai_agents.py", "openai-agents"),
    "pydantic-ai": _python("pydantic_ai_agent.py", "pydantic-ai"),
    "strands": _python("strands_agent.py", "strands-agents"),
    "langchain": _python("langchain_agent.py", "langchain"),
    "opencode": _opencode,
    "codex": _codex,
}
