"""What is refused when a function is registered, and why: the one list, of which the guide's table is made.

Every function that an author writes either behaves as if it were called with the Python values that pydantic
makes of the JSON arguments, or is refused here: early, with a sentence that names the function, its file and
line, the parameter, and what to write instead.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason to refuse a function.

    Attributes:
        example: What somebody may write.
        why: Why it cannot work, a clause.
        instead: What to write instead, an imperative.
    """

    example: str
    why: str
    instead: str


class Refusal(Enum):
    """What is refused, in the order of the guide's table."""

    METHOD = Reason(
        "a method with `self` or `cls`",
        "a worker has no instance to call it on",
        "register a bound method, as in service.tool()(Shop().order), or write a function",
    )
    CLASS = Reason(
        "a class",
        "what it makes is an object, not a result",
        "write a function that returns what clients get",
    )
    NOT_CALLABLE = Reason(
        "a `classmethod`, or anything else that cannot be called",
        "it cannot be called",
        "register the bound method, as in service.tool()(Shop.order)",
    )
    CELERY_TASK = Reason(
        "`@service.tool()` over `@app.task`",
        "it is a Celery task, which Celery calls in its own way",
        "take the decorator away and call service.expose() with the Celery task's name",
    )
    ASYNC_GENERATOR = Reason(
        "an async generator", "a tool has one result", "collect the items in a list and return that"
    )
    NO_SIGNATURE = Reason(
        "a built-in such as `max`",
        "Python cannot say which parameters it has",
        "write a function that calls it",
    )
    NAMELESS = Reason(
        "a `lambda`, a `partial` or a callable object without `name=`",
        "it has no name that clients could call it by",
        "give name=",
    )
    CONTEXT_WITHOUT_HINT = Reason(
        "`def f(x: int, ctx)`",
        "it looks like a context, but without a hint it is an argument that clients would have to send",
        "annotate it {context}, or give it another name or a hint",
    )
    TWO_CONTEXTS = Reason("two parameters for contexts", "one context is enough", "take one of them away")
    SYNC_CONTEXT = Reason(
        "a `TaskContext` in an `async def`",
        "an async tool takes AsyncTaskContext, whose methods are awaited",
        "annotate it AsyncTaskContext",
    )
    ASYNC_CONTEXT = Reason(
        "an `AsyncTaskContext` in a `def`",
        "a sync tool takes TaskContext, whose methods are not awaited",
        "annotate it TaskContext, or make the function async",
    )
    FOREIGN_CONTEXT = Reason(
        "the `Context` of the MCP SDK or of FastMCP",
        "there is no session of theirs in a worker",
        "annotate it {context}",
    )
    TASK_CONTEXT = Reason(
        "a `TaskContext` in a prompt, resource or completion",
        "only a tool has a task, and so a TaskContext",
        "take a RequestContext, or make it a tool",
    )
    EXPOSED_CONTEXT = Reason(
        "a `TaskContext` in an exposed Celery task",
        "Celery calls it too, and has no context to give",
        "use update_state for progress, or make it a tool of its own",
    )
    UNDEFINED_NAME = Reason(
        "a hint that names what is not defined",
        "its hint cannot be read: {problem}",
        "define or import it before the function, and not only under TYPE_CHECKING",
    )
    NO_SCHEMA = Reason(
        "a hint without a JSON schema: `Callable`, `type[X]`, a class that is no model or dataclass",
        "its hint has no JSON schema: {problem}",
        "take a plain type, a dataclass or a pydantic model, and make the object in the function",
    )
    ITERATOR = Reason(
        "a parameter that is an `Iterator` or `Generator`",
        "arguments are not read one by one",
        "take a list",
    )
    KEYS = Reason(
        "`dict` with keys that no text becomes, such as tuples",
        "keys of JSON objects are texts, and none becomes such a key",
        "take a list of pairs, or keys that are str, int, a date, an enum of texts and the like",
    )
    PARAM_SPEC = Reason(
        "`*args: P.args, **kwargs: P.kwargs`",
        "its real parameters are hidden",
        "use functools.wraps in the decorator that made the function",
    )
    ALIAS_CHOICES = Reason(
        "`Field(validation_alias=AliasChoices(...))`, an `AliasPath`",
        "an argument has one name",
        "take one text as alias=",
    )
    SAME_NAME = Reason(
        "two parameters with one alias", "another parameter takes that argument", "give it another alias="
    )
    UNFIT_DEFAULT = Reason(
        "`n: int = '7'`",
        "its default {default} does not fit its hint: {problem}",
        "give a default of the hint's type, or another hint",
    )
    STRANGE_DEFAULT = Reason(
        "`o=object()`",
        "its default {default} cannot be written as JSON, so that clients cannot be told of it",
        "let the default be None and make the object in the function",
    )
    POSITIONAL = Reason(
        "`*args` or positional-only parameters with `input_schema=`, or in an exposed Celery task",
        "arguments are passed by name there",
        "take it by name",
    )
    NOT_TEXT = Reason(
        "a list, `dict` or model as the argument of a prompt or resource",
        "what clients send is one text, which cannot become this type",
        "take a str, a number, a bool, an enum or a date",
    )
    TOO_MANY_NAMES = Reason(
        "`*args` or `**kwargs` in a prompt, resource or completion",
        "all of its arguments are listed by name",
        "take each by name",
    )
    RESULT_SCHEMA = Reason(
        "a return hint without a JSON schema",
        "its return hint has no JSON schema: {problem}",
        "return plain types, a dataclass or a pydantic model, or leave the hint away",
    )
    RESULT_STREAM = Reason(
        "`-> AsyncIterator[...]`", "a tool has one result", "collect the items in a list and return that"
    )
    RESULT_QUESTION = Reason(
        "`-> InputRequiredResult`",
        "a tool asks through its context, it does not return a question",
        "call ctx.elicit, or declare the question with ask=",
    )


@dataclass(frozen=True, slots=True)
class Place:
    """A function that is being registered.

    Attributes:
        what: What it becomes, as in "Tool 'draw'".
        fn: The function.
    """

    what: str
    fn: Callable[..., Any]

    def refuse(self, refusal: Refusal, parameter: str | None = None, **facts: object) -> ConfigurationError:
        """The error that refuses the function.

        Args:
            refusal: Why.
            parameter: The parameter that is to blame, if one is.
            facts: What the reason's sentences leave open.
        """
        reason = refusal.value
        blamed = "" if parameter is None else f" parameter {parameter!r}:"
        why, instead = reason.why.format(**facts), reason.instead.format(**facts)
        return ConfigurationError(f"{self}:{blamed} {why}. Instead: {instead}.")

    def __str__(self) -> str:
        return f"{self.what} ({where(self.fn)})"


def where(fn: Any) -> str:
    """The name of a function, its file and its line."""
    inner = underlying(fn)
    name = getattr(inner, "__qualname__", None) or type(fn).__name__
    code = getattr(inner, "__code__", None)
    return f"{name}, {code.co_filename}:{code.co_firstlineno}" if code is not None else str(name)


def underlying(fn: Any) -> Any:
    """The function that somebody wrote: inside decorators, partials, bound methods and callable objects."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif inspect.ismethod(fn) or isinstance(fn, staticmethod | classmethod):
            fn = fn.__func__
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        elif inspect.isroutine(fn) or isinstance(fn, type) or not callable(fn):
            return fn
        else:
            fn = type(fn).__call__


def refusal_table() -> str:
    """The guide's table of what is refused, in Markdown."""
    rows = [
        f"| {reason.example} | {_plain(reason.why)} | {_plain(reason.instead)} |"
        for reason in (refusal.value for refusal in Refusal)
    ]
    return "\n".join(["| what you write | why it is refused | write instead |", "|---|---|---|", *rows])


def _plain(sentence: str) -> str:
    """A reason's sentence without what only one case fills in."""
    return (
        sentence.format(context="`TaskContext`", problem="…", default="")
        .replace(": …", "")
        .replace("  ", " ")
    )
