"""What a tool asks, as a test looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..domain.questions import FormQuestion, LinkQuestion, RecordedQuestion, parse
from ..domain.task import InputRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """A question that waits for its answer.

    Attributes:
        asked: All of it, as it is recorded.
        deadline: Until when it can be answered.
        has_default: Whether the tool goes on with an answer of its own if none comes in time.
    """

    asked: RecordedQuestion
    deadline: datetime
    has_default: bool

    @property
    def kind(self) -> str:
        """`form`, `url`, `sampling` or `roots`."""
        return self.asked.kind.value

    @property
    def message(self) -> str:
        """What the person reads; empty for what no person is asked."""
        return self.asked.message if isinstance(self.asked, FormQuestion | LinkQuestion) else ""

    @property
    def schema(self) -> Mapping[str, Any]:
        """The form, as the client gets it; empty for what is no form."""
        return self.asked.schema if isinstance(self.asked, FormQuestion) else {}

    @property
    def url(self) -> str:
        """The page, as in `elicit_url`; empty for any other question."""
        return self.asked.url if isinstance(self.asked, LinkQuestion) else ""


def open_question(recorded: InputRequest) -> OpenQuestion:
    """A question of the record."""
    return OpenQuestion(
        asked=parse(recorded.request),
        deadline=datetime.fromtimestamp(recorded.deadline_ms / 1000, UTC),
        has_default=recorded.default is not None,
    )
