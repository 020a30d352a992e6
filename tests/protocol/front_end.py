"""A front end as a process of its own: `python -m tests.protocol.front_end REDIS_URL DATA_DIR PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks_service.frontend.app import create_app
from tasks_service.frontend.draining import run
from tasks_service.store.base import NoOutbox

from .support import registry, settings


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def main(redis_url: str, data_dir: str, port: str) -> None:
    app = create_app(
        name="Test service",
        version="1.2.3",
        instructions=None,
        tools=registry(greet),
        settings=settings(redis_url, Path(data_dir)),
        outbox=NoOutbox(),
    )
    run(app, port=int(port), log_level="warning", lifespan="on", ws="none", timeout_graceful_shutdown=10)


if __name__ == "__main__":
    main(*sys.argv[1:])
