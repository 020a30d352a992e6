"""A front end whose tools take much: `python -m tests.security.message_app REDIS_URL DATA_DIR PORT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.frontend.app import create_app
from tasks_service.frontend.core.catalogue import FixedCatalogue
from tasks_service.frontend.uvicorn_server import run
from tasks_service.store.outbox import NoOutbox
from tests.kit.serving import registry, settings


class A(BaseModel):
    a: int


class B(BaseModel):
    b: int


class C(BaseModel):
    c: int


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def ints(values: list[int]) -> int:
    """Count numbers."""
    return len(values)


def unions(values: list[A | B | C | int]) -> int:
    """Count things."""
    return len(values)


def by_hand(values: Any = None) -> int:
    """Take what a schema by hand describes."""
    return len(values)


def value_of(schema: Any, **root: Any) -> Any:
    return {"type": "object", "properties": {"values": schema}, **root}


LOOP = {
    "node": {
        "anyOf": [
            {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}, "required": [name]}
            for name in ("x", "y")
        ]
    }
}


def tools() -> ToolRegistry:
    schemas = {
        "listed": value_of({"type": "array", "items": {"type": "integer"}}),
        "matched": value_of({"type": "string", "pattern": "^(a+)+$"}),
        "unique": value_of({"type": "array", "uniqueItems": True}),
        "looped": value_of({"$ref": "#/$defs/node"}, **{"$defs": LOOP}),
    }
    made = [build_tool(by_hand, name=name, input_schema=schema) for name, schema in schemas.items()]
    return registry(greet, ints, unions, *made)


def main(redis_url: str, data_dir: str, port: str) -> None:
    app = create_app(
        name="Test service",
        version="1.2.3",
        instructions=None,
        catalogue=FixedCatalogue("Test service", tools()),
        settings=settings(redis_url, Path(data_dir)),
        outbox=NoOutbox(),
    )
    run(app, port=int(port), log_level="warning", lifespan="on", timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main(*sys.argv[1:])
