"""Every field that a client chooses has a maximum, in every revision and over every transport."""

from __future__ import annotations

import ast
import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import pytest
from mcp_types.methods import CLIENT_REQUESTS
from pydantic import BaseModel

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.limits import DEFAULT_LIMITS, Limits
from tasks_service.domain.scopes import ANSWER
from tasks_service.extension import TASKS_EXTENSION
from tasks_service.frontend.core import field_limits, wire_common
from tasks_service.frontend.core.field_limits import HEADERS, fields_of
from tasks_service.frontend.transport.body import parse
from tasks_service.frontend.transport.message_limits import ANY, ITEMS, Region
from tasks_service.frontend.transport.rejection import Rejection
from tasks_service.frontend.v2025_11_25 import wire as wire_2025
from tasks_service.frontend.v2026_07_28 import wire as wire_2026
from tests.kit.pipes import piped
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.wire import WireClient

Path_ = tuple[str, ...]

NO_TEXT = frozenset(
    {"elicitation", "sampling", "roots", "extensions", TASKS_EXTENSION, "form", "url", " ", ANSWER}
)
"""What wire modules look for that is no text of a client's choice: objects, and what our own words have."""


# --- the fields of the SDK's models -------------------------------------------------------------------


def texts_in(kind: Any, path: Path_ = (), seen: frozenset[Any] = frozenset()) -> Iterator[Path_]:
    """The paths of the texts in a type of the SDK: names, `[]` for items, `*` for members of any name."""
    if kind is str or (isinstance(kind, type) and issubclass(kind, str)):
        yield path
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind not in seen:
            for name, field in kind.model_fields.items():
                yield from texts_in(field.annotation, (*path, field.alias or name), seen | {kind})
    elif typing.is_typeddict(kind) or hasattr(kind, "__total__"):
        for name, hint in typing.get_type_hints(kind).items():
            yield from texts_in(hint, (*path, name), seen)
    elif get_origin(kind) is dict:
        yield from texts_in(get_args(kind)[1], (*path, ANY), seen)
    else:
        inside = (*path, ITEMS) if get_origin(kind) is list else path
        for argument in get_args(kind):
            yield from texts_in(argument, inside, seen)


def most_of(fields: Any, path: Path_) -> Any:
    """What the table says of a path by its own name; None if it says nothing."""
    for name in path:
        if isinstance(fields, Region):
            return fields
        if not isinstance(fields, Mapping):
            return None
        fields = fields.get(name)
    return fields


@pytest.mark.parametrize(("method", "version"), sorted(CLIENT_REQUESTS))
def test_every_text_of_a_request_of_the_sdk_has_a_maximum(method: str, version: str) -> None:
    paths = set(texts_in(CLIENT_REQUESTS[method, version])) - {("method",), ("jsonrpc",)}
    fields = fields_of({"method": method})

    assert {path for path in paths if not isinstance(most_of(fields, path), int | Region)} == set()


def test_a_new_text_field_without_a_maximum_is_found() -> None:
    class Params(BaseModel):
        nickname: str
        names: list[str] = []

    class Request(BaseModel):
        params: Params

    found = set(texts_in(Request))
    assert found == {("params", "nickname"), ("params", "names", ITEMS)}
    assert all(most_of(fields_of({"method": "x"}), path) is None for path in found)


# --- the fields that our wire modules read ------------------------------------------------------------


def names_read(module: ModuleType, source: str | None = None) -> set[str]:
    """The names under which a module looks into what a client sent: `x.get(NAME)`, `NAME in x`, `x[NAME]`."""
    found = set()
    for node in ast.walk(ast.parse(source or inspect.getsource(module))):
        match node:
            case ast.Call(func=ast.Attribute(attr="get"), args=[name, *_]):
                found.add(named(module, name))
            case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()]):
                found.add(named(module, name))
            case _:
                continue
    return {name for name in found if isinstance(name, str)}


def named(module: ModuleType, node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() as name):
            return name
        case ast.Name(id=name) if name.isupper():
            return getattr(module, name)
        case _:
            return None


def names_in(fields: Any) -> set[str]:
    if not isinstance(fields, Mapping):
        return set()
    return set(fields) | {name for inner in fields.values() for name in names_in(inner)}


KNOWN = names_in(fields_of({"method": "tools/call"})) | names_in(fields_of({}))


@pytest.mark.parametrize("module", [wire_2026, wire_2025, wire_common], ids=lambda module: module.__name__)
def test_every_name_that_a_wire_module_reads_has_a_maximum(module: ModuleType) -> None:
    assert names_read(module) - KNOWN - NO_TEXT == set()


def test_a_new_name_in_a_wire_module_is_found() -> None:
    source = inspect.getsource(wire_2026) + '\ndef new(params):\n    return params.get("nickname")\n'

    assert "nickname" in names_read(wire_2026, source) - KNOWN - NO_TEXT


# --- at the door --------------------------------------------------------------------------------------


def limited(fields: Any, path: Path_ = ()) -> Iterator[tuple[Path_, int]]:
    if isinstance(fields, int):
        yield path, fields
    elif isinstance(fields, Mapping):
        for name, inner in fields.items():
            yield from limited(inner, (*path, name))


def message_with(path: Path_, value: Any) -> Any:
    """A message that has a value at a path."""
    made: Any = value
    for name in reversed(path):
        made = [made] if name == ITEMS else {("other" if name == ANY else name): made}
    return made


MAXIMA = {
    *limited(field_limits.REQUEST_FIELDS),
    *limited(field_limits.CALL_FIELDS),
    *((path, most) for path, most in limited(field_limits.RESPONSE_FIELDS)),
}


@pytest.mark.parametrize("character", ["x", "ü", "💡"])
def test_each_field_takes_its_maximum_and_not_a_byte_more(character: str) -> None:
    for path, most in MAXIMA:
        size = len(character.encode())
        for length, fits in ((most // size, True), (most // size + 1, False)):
            message = message_with(path, character * length)
            if isinstance(message, dict) and path[0] != "id":
                message.setdefault("method", "tools/list")
            if path[:1] == ("id",) and most == field_limits.WORD:
                message["method"] = "tools/list"
            refused = refusal_of(message)
            assert (refused is None) is fits, (path, length, refused)
            if refused is not None:
                assert refused.data["limit"].split(".")[0] == path[0].replace(ANY, "other")
                assert refused.data["maximum"] == most
                assert refused.data["actual"] == length * size


def refusal_of(message: Any, limits: Limits = DEFAULT_LIMITS) -> Rejection | None:
    try:
        parse(json.dumps(message, ensure_ascii=False).encode(), limits, fields_of)
    except Rejection as rejection:
        return rejection
    return None


@pytest.mark.parametrize("name", ["id", "progressToken", "requestId"])
def test_numbers_that_are_repeated_are_bounded(name: str) -> None:
    def message(number: int) -> Any:
        if name == "id":
            return {"method": "x", "id": number}
        params = {"_meta": {name: number}} if name == "progressToken" else {name: number}
        return {"method": "x", "params": params}

    assert refusal_of(message(2**255)) is None
    assert (refused := refusal_of(message(-(2**300)))) is not None
    assert name in refused.message


def test_numbers_of_any_size_are_arguments() -> None:
    arguments = {"x": 10**300, "y": -(10**300)}

    assert refusal_of({"method": "tools/call", "params": {"arguments": arguments}}) is None


# --- over the transports ------------------------------------------------------------------------------


def greet(name: str) -> str:
    """Say hello."""
    return name


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(greet)


def test_a_token_that_is_too_long_is_refused_on_every_transport_and_nothing_is_kept_of_it(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    call = {"name": "greet", "arguments": {"name": "Ada"}}
    long = "x" * 1_900_000
    with serving(tools, settings(redis_url, tmp_path)) as port, WireClient(port) as client:
        refused = client.request("tools/call", {**call}, meta={"progressToken": long}).json["error"]
        with SessionClient([port]) as session:
            session.initialize()
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
            as_task = {**call, "task": {}, "_meta": {"progressToken": long}}
            reply = session.post({**message, "params": as_task})
            assert reply.status == 400
            refused_too = reply.json["error"]
            identified = session.post({**message, "id": long, "params": call})
            assert (identified.status, identified.json["id"]) == (400, long)
    with piped(tools, settings(redis_url, tmp_path)) as front_end:
        front_end.client.request(5, "initialize", clientInfo={"name": long})
        answer = front_end.client.answer(5)

    for error in (refused, refused_too):
        assert error["code"] == -32600
        assert error["message"] == (
            "Over the limit: params._meta.progressToken: 1900000 bytes, at most 256 allowed"
        )
    assert answer["id"] == 5
    assert answer["error"]["data"]["limit"] == "params.clientInfo.name"


def test_headers_that_are_too_long_are_refused_by_their_name(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    with serving(tools, settings(redis_url, tmp_path)) as port, WireClient(port) as client:
        for name, most in HEADERS.items():
            if name == "host":
                continue
            headers = {**client.headers("tools/list", {}), name: "x" * (most + 1)}
            reply = client.post(json.dumps(client.message("tools/list", {})).encode(), headers)
            assert (reply.status, name in reply.json["error"]["message"]) == (431, True), name
