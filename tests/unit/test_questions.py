"""What can be asked, what clients are shown of it, and which answers are let in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, Optional

import pytest
from mcp_types import CreateMessageResult, SamplingMessage, TextContent
from mcp_types import Root as SDKRoot
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.networks import AnyUrl

from tasks_service import (
    Cancelled,
    ClientError,
    ConfigurationError,
    Declined,
    Form,
    Image,
    Link,
    Message,
    ModelReply,
    ResourceLink,
    Root,
    Roots,
    Sampling,
    Text,
)
from tasks_service.domain.errors import AnswerRefused, LimitExceeded
from tasks_service.domain.questions import encode, headline, parse
from tasks_service.durable.forms import lower
from tasks_service.durable.questions import Question, check_answer, default_text, question_digest

HI = Message("Hi")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Point(BaseModel):
    x: int


class Tree(BaseModel):
    child: Optional[Tree] = None  # noqa: UP045 - the other spelling is tested as well


class Everything(BaseModel):
    """A bit of everything."""

    text: str
    count: int
    share: float = 0.5
    sure: bool = False
    colour: Colour = Colour.RED
    shade: Literal["light", "dark"] | None = None
    colours: Annotated[list[Colour], Field(min_length=1)] = [Colour.BLUE]
    day: date | None = Field(None, description="When.")


def digest_of(question: Question) -> str:
    return question_digest(question.recorded())


def shown(kind: Any) -> dict[str, Any]:
    """What clients are shown of one property."""
    model: type[BaseModel] = type("Asked", (BaseModel,), {"__annotations__": {"x": kind}})
    asked: dict[str, Any] = lower(model.model_json_schema())["properties"]["x"]
    return asked


def written(question: Question) -> dict[str, Any]:
    """What the record has of a question."""
    record: dict[str, Any] = json.loads(encode(question.recorded()))
    return record


def accepted(question: Question, answer: Any) -> Any:
    """What the tool reads of an answer that went through the check and the record."""
    return question.read(json.loads(check_answer("key", question.recorded(), answer)))


def refusal(question: Question, answer: Any) -> AnswerRefused:
    with pytest.raises(AnswerRefused) as refused:
        check_answer("key", question.recorded(), answer)
    return refused.value


def filled(**values: Any) -> dict[str, Any]:
    return {"action": "accept", "content": values}


# --- what clients are shown ---------------------------------------------------------------------------


def test_a_model_is_shown_as_a_flat_object_of_what_clients_can_render() -> None:
    assert lower(Everything.model_json_schema()) == {
        "type": "object",
        "title": "Everything",
        "description": "A bit of everything.",
        "required": ["text", "count"],
        "properties": {
            "text": {"type": "string", "title": "Text"},
            "count": {"type": "integer", "title": "Count"},
            "share": {"type": "number", "title": "Share", "default": 0.5},
            "sure": {"type": "boolean", "title": "Sure", "default": False},
            "colour": {"type": "string", "title": "Colour", "enum": ["red", "blue"], "default": "red"},
            "shade": {"type": "string", "title": "Shade", "enum": ["light", "dark"]},
            "colours": {
                "type": "array",
                "title": "Colours",
                "items": {"type": "string", "enum": ["red", "blue"]},
                "minItems": 1,
                "default": ["blue"],
            },
            "day": {"type": "string", "title": "Day", "format": "date", "description": "When."},
        },
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Literal["only"], {"type": "string", "enum": ["only"]}),
        (list[Literal["only"]], {"type": "array", "items": {"type": "string", "enum": ["only"]}}),
        (Literal["a", None], {"type": "string", "enum": ["a"]}),
        (Optional[int], {"type": "integer"}),  # noqa: UP045
        (Annotated[str, Field(pattern="^a+$", max_length=9)], {"type": "string", "maxLength": 9}),
        (Annotated[int, Field(gt=0, lt=10)], {"type": "integer"}),
        (Annotated[float, Field(ge=0, le=1)], {"type": "number", "minimum": 0, "maximum": 1}),
        (datetime, {"type": "string", "format": "date-time"}),
        (AnyUrl, {"type": "string", "format": "uri", "minLength": 1}),
        (Literal[True], {"type": "boolean"}),
    ],
)
def test_what_clients_do_not_understand_is_left_out(kind: Any, expected: dict[str, Any]) -> None:
    prop = shown(kind)
    prop.pop("title", None)
    assert prop == expected


@pytest.mark.parametrize(
    "kind",
    [Point, list[str], list[int], dict[str, int], int | str, Size, list[Size], Literal["a", 1], Any, None],
)
def test_what_clients_cannot_ask_for_is_refused_by_name(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot ask for 'x'"):
        shown(kind)


def test_a_form_does_not_ask_for_secrets_and_says_what_does() -> None:
    with pytest.raises(ConfigurationError, match=r"'x'.*secrets.*elicit_url"):
        shown(SecretStr)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array"}, "must be an object"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, "a refers to '#/\\$defs/b'"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/a"}}}, "refers to"),
        ({"type": "object", "properties": {"a": True}}, "cannot ask for 'a'"),
        ({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}, "cannot ask for 'a'"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "no JSON schema: properties.a.type"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}, "no JSON schema"),
        ({"type": "object", "properties": {}, "required": ["b"]}, "requires 'b'"),
        (
            {"properties": {"a": {"type": "array", "items": {"anyOf": [{"type": "string"}]}}}},
            "cannot ask for 'a'",
        ),
        (Tree.model_json_schema(), "cannot ask for 'child'"),
    ],
)
def test_a_schema_that_cannot_be_asked_is_refused_when_it_is_made(
    schema: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Form("?", schema).recorded()


def test_choices_with_titles_stay_as_they_are() -> None:
    titled = [{"const": "r", "title": "Red"}, {"const": "b", "title": "Blue"}]
    schema = {
        "type": "object",
        "properties": {
            "one": {"type": "string", "oneOf": titled},
            "many": {"type": "array", "items": {"anyOf": titled}},
        },
    }
    assert lower(schema) == schema


def test_a_model_behind_a_reference_is_not_an_empty_form() -> None:
    schema = {"$ref": "#/$defs/Point", "$defs": {"Point": Point.model_json_schema()}}
    assert list(lower(schema)["properties"]) == ["x"]


def test_a_question_is_recorded_in_our_own_words() -> None:
    assert written(Link("Pay", "https://example.org/pay")) == {
        "kind": "url",
        "message": "Pay",
        "url": "https://example.org/pay",
    }
    assert written(Roots()) == {"kind": "roots"}
    assert written(Sampling([HI], 10)) == {
        "kind": "sampling",
        "messages": [{"role": "user", "content": {"type": "text", "text": "Hi"}}],
        "max_tokens": 10,
    }
    assert written(Sampling([HI], 10, "Be kind"))["system_prompt"] == "Be kind"


@pytest.mark.parametrize(
    "question",
    [
        Form("?", Point),
        Form("?", Everything, model_may_answer=True),
        Link("Pay", "https://a.example"),
        Sampling([HI], 10, "Be kind"),
        Roots(),
    ],
    ids=repr,
)
def test_a_recorded_question_reads_back_as_it_was(question: Question) -> None:
    assert parse(encode(question.recorded())) == question.recorded()
    assert question.recorded().kind == question.needs


def test_what_a_newer_version_adds_to_a_question_is_passed_over() -> None:
    text = json.dumps({**written(Form("?", Point)), "theme": "dark"})
    assert parse(text) == Form("?", Point).recorded()


def test_a_schema_that_lost_nothing_is_recorded_once() -> None:
    plain = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert "check" not in written(Form("?", plain))
    assert "check" in written(Form("?", Everything))


def test_that_a_model_may_answer_is_recorded_and_does_not_make_it_another_question() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    for_humans, for_models = Form("Word?", schema), Form("Word?", schema, model_may_answer=True)

    assert "model_may_answer" not in written(for_humans)
    assert written(for_models) == {**written(for_humans), "model_may_answer": True}
    assert digest_of(for_models) == digest_of(for_humans)


def test_the_tasks_status_says_what_is_asked() -> None:
    assert headline(Form("Publish it?", Point).recorded()) == "Publish it?"
    assert headline(Roots().recorded())


def test_a_question_that_is_too_large_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        encode(Form("?" * 70_000, Point).recorded())


# --- which changes matter -----------------------------------------------------------------------------


class Before(BaseModel):
    """Say."""

    title: str = Field(description="What it is called.")
    description: int = 1


class Reworded(BaseModel):
    """Please say."""

    title: str = Field(title="Heading", description="What it shall be called.", examples=["Sales"])
    description: int = 2


class Retyped(BaseModel):
    title: str
    description: str = "1"


class Renamed(BaseModel):
    heading: str
    description: int = 1


def test_a_question_may_be_reworded_while_it_is_open() -> None:
    digest = digest_of(Form("Title?", Before))
    assert digest_of(Form("And what is the title?", Before)) == digest
    assert digest_of(Form("Title?", Reworded)) == digest
    assert digest_of(Link("Go", "https://a.example")) == digest_of(Link("Do go", "https://b.example"))


@pytest.mark.parametrize(
    "changed",
    [
        Form("Title?", Retyped),
        Form("Title?", Renamed),
        Form("Title?", {"type": "object", "properties": {}}),
        Link("Title?", "https://example.org"),
        Roots(),
    ],
)
def test_another_schema_or_kind_is_another_question(changed: Question) -> None:
    assert digest_of(changed) != digest_of(Form("Title?", Before))


def test_a_bound_that_clients_do_not_see_belongs_to_the_schema() -> None:
    def with_pattern(pattern: str) -> Form:
        return Form("?", {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}})

    assert digest_of(with_pattern("^a")) != digest_of(with_pattern("^b"))


# --- answers ------------------------------------------------------------------------------------------


def test_an_answer_becomes_the_model_that_was_asked_for() -> None:
    answer = filled(text="hi", count=2, colour="blue", shade=None, colours=["red", "blue"], day="2026-02-28")
    assert accepted(Form("?", Everything), answer) == Everything(
        text="hi", count=2, colour=Colour.BLUE, colours=[Colour.RED, Colour.BLUE], day=date(2026, 2, 28)
    )


def test_an_answer_to_a_plain_schema_is_a_dict_and_may_hold_more_than_was_asked() -> None:
    form = Form("?", {"type": "object", "properties": {"a": {"type": "integer"}}})
    assert accepted(form, filled(a=1, b="more")) == {"a": 1, "b": "more"}


def test_a_person_may_say_no_or_nothing() -> None:
    for question in (Form("?", Everything), Link("?", "https://example.org")):
        assert accepted(question, {"action": "decline"}) == Declined()
        assert accepted(question, {"action": "cancel", "content": {"text": 1}}) == Cancelled()


def test_accepting_a_link_is_consent() -> None:
    assert accepted(Link("?", "https://example.org"), {"action": "accept"}) is True


@pytest.mark.parametrize(
    ("answer", "path", "said"),
    [
        ("yes", "", "expected an object"),
        (None, "", "expected an object"),
        ({}, "action", "expected accept, decline or cancel"),
        ({"action": "agree"}, "action", "expected accept, decline or cancel"),
        ({"action": ["accept"]}, "action", "expected accept, decline or cancel"),
        ({"action": "accept"}, "content", "expected an object"),
        ({"action": "accept", "content": []}, "content", "expected an object"),
        (filled(text="hi"), "content", "'count' is a required property"),
        (filled(text="hi", count="2"), "content.count", "is not of type 'integer'"),
        (filled(text="hi", count=True), "content.count", "is not of type 'integer'"),
        (filled(text="hi", count=2, colour="green"), "content.colour", "is not one of"),
        (filled(text="hi", count=2, colours=["red", "green"]), "content.colours.1", "is not one of"),
        (filled(text="hi", count=2, colours=[]), "content.colours", "should be non-empty"),
        (filled(text="hi", count=2, day="tomorrow"), "content.day", "is not a 'date'"),
        (filled(text="hi", count=2, day="20260228"), "content.day", "is not a 'date'"),
        (filled(text="hi", count=2, day="2026-02-30"), "content.day", "is not a 'date'"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_with_key_path_and_reason(
    answer: Any, path: str, said: str
) -> None:
    refused = refusal(Form("?", Everything), answer)
    assert (refused.key, refused.path) == ("key", path)
    assert said in refused.problem


class Bounded(BaseModel):
    code: Annotated[str, Field(pattern="^[a-z]{3}$")] = "abc"
    amount: Annotated[int, Field(gt=0)] = 1
    agreed: Literal[True] = True
    at: datetime | None = None
    page: AnyUrl | None = None
    rank: Annotated[int, Field(gt=3)] | None = None


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"code": "abcd"}, "content.code"),
        ({"code": "abc\n"}, "content.code"),
        ({"amount": 0}, "content.amount"),
        ({"agreed": False}, "content.agreed"),
        ({"at": "soon"}, "content.at"),
        ({"at": "1700000000"}, "content.at"),
        ({"page": "not a page"}, "content.page"),
        ({"rank": 3}, "content.rank"),
    ],
)
def test_what_clients_are_not_shown_is_checked_all_the_same(values: dict[str, Any], path: str) -> None:
    assert refusal(Form("?", Bounded), filled(**values)).path == path


@pytest.mark.parametrize(
    "values",
    [{"at": "2026-02-28T10:00:00Z"}, {"at": "2026-02-28T10:00:00.5+01:00"}, {"page": "https://a.example/b"}],
)
def test_whatever_is_let_in_can_be_read(values: dict[str, Any]) -> None:
    assert isinstance(accepted(Form("?", Bounded), filled(**values)), Bounded)


def test_a_pattern_and_a_malicious_answer_do_not_stop_the_front_end() -> None:
    form = Form("?", {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    assert refusal(form, filled(a="a" * 5_000 + "!")).path == "content.a"


def test_a_refusal_does_not_repeat_a_whole_book() -> None:
    assert len(refusal(Form("?", Everything), filled(text="hi", count="2" * 50_000)).problem) <= 300


def test_an_answer_over_the_limit_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        check_answer("key", Form("?", Everything).recorded(), filled(text="x" * 70_000, count=1))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


def test_a_model_may_forbid_more_than_was_asked() -> None:
    assert refusal(Form("?", Strict), filled(a=1, b=2)).path == "content"


def test_an_answer_of_the_clients_model_comes_back_as_it_was() -> None:
    answer = {
        "role": "assistant",
        "content": {"type": "text", "text": "Hello"},
        "model": "some-model",
        "stopReason": "endTurn",
        "later": "added",
    }
    reply = accepted(Sampling("Hi", 10), answer)
    assert reply == ModelReply((Text("Hello"),), "some-model", stop_reason="endTurn")
    assert reply.text == "Hello"


def test_the_clients_model_may_say_several_things() -> None:
    image = {"type": "image", "data": "aW1n", "mimeType": "image/png"}
    said = [{"type": "text", "text": "A cat"}, image, {"type": "text", "text": "!"}]
    reply = accepted(Sampling("Hi", 10), {"role": "assistant", "content": said, "model": "some-model"})
    assert reply.content == (Text("A cat"), Image(data=b"img"), Text("!"))
    assert reply.text == "A cat!"


@pytest.mark.parametrize(
    ("answer", "path"),
    [
        ({"role": "assistant"}, "content"),
        ({"role": "assistant", "model": "m", "content": {"type": "tool_use"}}, "content.0"),
        (
            {"role": "assistant", "model": "m", "content": {"type": "image", "mimeType": "image/png"}},
            "content",
        ),
        ({"role": "robot", "model": "m", "content": {"type": "text", "text": "Hi"}}, "role"),
    ],
)
def test_what_no_model_says_is_refused(answer: dict[str, Any], path: str) -> None:
    assert refusal(Sampling("Hi", 10), answer).path.startswith(path)


@pytest.mark.parametrize(
    "messages",
    ["Hi", ["Hi"], [HI], [SamplingMessage(role="user", content=TextContent(type="text", text="Hi"))]],
)
def test_a_model_is_told_texts_or_messages_of_ours_or_of_the_sdk(messages: Any) -> None:
    assert written(Sampling(messages, 10)) == written(Sampling([HI], 10))


def test_a_message_that_is_none_is_refused_in_the_tool() -> None:
    with pytest.raises(TypeError, match="expected text or a content block, not int"):
        Sampling([3], 10).recorded()  # type: ignore[list-item]
    with pytest.raises(TypeError, match="a text, an image or audio, not a resource"):
        Sampling([Message(ResourceLink("a://b", "b"))], 10).recorded()


def test_roots_come_back_as_a_list() -> None:
    (root,) = accepted(Roots(), {"roots": [{"uri": "file:///home/ann", "name": "home"}]})
    assert root == Root("file:///home/ann", "home")
    assert refusal(Roots(), {"roots": [{"name": "home"}]}).path == "roots.0.uri"
    assert refusal(Roots(), {"roots": [{"uri": "https://a.example"}]}).path == "roots.0.uri"
    assert refusal(Roots(), {"action": "accept"}).path == "roots"


@pytest.mark.parametrize("question", [Form("?", Everything), Link("?", "https://a.example"), Roots()])
def test_an_error_of_the_client_is_raised_in_the_tool(question: Question) -> None:
    with pytest.raises(ClientError) as raised:
        accepted(question, {"error": {"code": -32603, "message": "No user here"}})
    assert (raised.value.code, raised.value.message) == (-32603, "No user here")


@pytest.mark.parametrize("error", ["boom", {}, {"code": "x", "message": "y"}, None])
def test_an_error_that_is_none_is_refused(error: Any) -> None:
    assert refusal(Roots(), {"error": error}).path.startswith("error")


# --- defaults -----------------------------------------------------------------------------------------


class Named(BaseModel):
    title: str = Field(alias="the-title")
    pages: int | None = 3


@pytest.mark.parametrize(
    ("question", "value"),
    [
        (Form("?", Everything), Everything(text="hi", count=1, day=date(2026, 1, 1))),
        (Form("?", Named), Named(**{"the-title": "Sales", "pages": None})),
        (Form("?", {"type": "object", "properties": {"a": {"type": "integer"}}}), {"a": 1}),
        (Form("?", Everything), Declined()),
        (Link("?", "https://a.example"), True),
        (Link("?", "https://a.example"), Cancelled()),
        (Roots(), [Root(uri="file:///a")]),
        (Sampling([], 10), ModelReply((Text("Hello"),), "some-model")),
        (Sampling([], 10), ModelReply((Text("Hello"), Image(data=b"img")), "some-model")),
    ],
)
def test_silence_means_what_the_default_says(question: Question, value: Any) -> None:
    assert question.read(json.loads(default_text("key", question, value))) == value


def test_a_default_may_be_an_object_of_the_sdk() -> None:
    hello = TextContent(type="text", text="Hello")
    said = CreateMessageResult(role="assistant", content=hello, model="some-model")
    assert default_text("key", Sampling([], 10), said) == default_text(
        "key", Sampling([], 10), ModelReply((Text("Hello"),), "some-model")
    )
    root = SDKRoot(uri="file:///a")
    assert default_text("key", Roots(), [root]) == default_text("key", Roots(), [Root("file:///a")])


@pytest.mark.parametrize(
    ("question", "value"),
    [
        (Form("?", Everything), {"text": "hi"}),
        (Form("?", Everything), Point(x=1)),
        (Form("?", Everything), "hi"),
        (Roots(), 3),
    ],
)
def test_a_default_that_would_be_refused_as_an_answer_is_refused_when_it_is_given(
    question: Question, value: Any
) -> None:
    with pytest.raises(ConfigurationError, match="default of question 'key'"):
        default_text("key", question, value)


class Picky(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": {"type": "string"}}}

    a: int


def test_what_no_schema_says_is_found_by_the_model_when_the_tool_reads() -> None:
    with pytest.raises(ValidationError):
        accepted(Form("?", Picky), filled(a="x"))
