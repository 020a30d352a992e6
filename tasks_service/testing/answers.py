"""What a test answers, as a client would send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pydantic_core
from pydantic import BaseModel

from ..domain.errors import ClientError
from ..durable.questions import Cancelled, Declined
from ..durable.replies import ModelReply, Root, recorded_reply, recorded_root
from .failures import RunError

Answer: TypeAlias = (
    BaseModel | Mapping[str, Any] | Declined | Cancelled | ModelReply | Sequence[Root] | ClientError | bool
)
"""An answer to a question of any kind; see `ANSWERS`."""

ANSWERS = (
    "a model or a mapping of values for a form, True for a page, a ModelReply for sample, a list of Root for "
    "list_roots, and for each of them Declined(), Cancelled() or a ClientError"
)
"""What can be answered, in words."""


def as_sent(answer: Answer) -> dict[str, Any]:
    """An answer as a client sends it.

    Raises:
        RunError: It is none.
    """
    given: Any = answer
    match given:
        case Declined():
            return {"action": "decline"}
        case Cancelled():
            return {"action": "cancel"}
        case ClientError():
            return {"error": {"code": given.code, "message": given.message}}
        case True:
            return {"action": "accept"}
        case ModelReply():
            return recorded_reply(given)
        case BaseModel():
            return {"action": "accept", "content": given.model_dump(mode="json", by_alias=True)}
        case Mapping():
            return {"action": "accept", "content": pydantic_core.to_jsonable_python(dict(given))}
        case [*roots]:
            return {"roots": [recorded_root(root) for root in roots]}
    raise RunError(f"{answer!r} answers no question: expected {ANSWERS}")
