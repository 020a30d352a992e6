"""A front end that takes the tokens of a local issuer, and tools that tell who called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks_service import TaskContext
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.frontend.timings import DEFAULT_TIMINGS, Timings
from tests.kit.issuer import Issuer
from tests.kit.serving import registry, serving, settings

RESOURCE = "https://tasks.example.com/mcp"
METADATA = "https://tasks.example.com/.well-known/oauth-protected-resource/mcp"
KEY = "mU3xQ9wzR7kYb2Lc"


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def whoami(ctx: TaskContext) -> dict[str, Any]:
    """Tell who has called."""
    caller = ctx.caller
    return {
        "issuer": caller.issuer,
        "subject": caller.subject,
        "client": caller.client_id,
        "scopes": None if caller.scopes is None else list(caller.scopes),
        "claims": dict(caller.claims),
    }


def publish() -> str:
    """Put a report where everybody reads it."""
    return "published"


def tools() -> ToolRegistry:
    return registry(greet, whoami, build_tool(publish, scopes=("reports:write",)))


@contextmanager
def signing_in(
    issuer: Issuer, redis_url: str, data_dir: Path, timings: Timings = DEFAULT_TIMINGS, **changes: Any
) -> Iterator[int]:
    """A front end whose callers sign in at an issuer; yields its port."""
    configured = {"oauth_issuers": (issuer.url,), "oauth_resource": RESOURCE, **changes}
    with serving(tools(), settings(redis_url, data_dir, **configured), timings=timings) as port:
        yield port


def introspecting(issuer: Issuer) -> dict[str, Any]:
    """Settings with which tokens are asked about."""
    return {
        "oauth_introspection_url": f"{issuer.url}/introspect",
        "oauth_client_id": "tasks",
        "oauth_client_secret": "a secret of the service at its issuer",
    }
