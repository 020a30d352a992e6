"""Answers to questions: whether one fits, how it is recorded, and how a question is asked again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...domain.errors import AnswerRefused, InvalidTransition, LimitExceeded, NotJson
from ...domain.events import AnswerInput
from ...domain.limits import Limits, to_json, truncate
from ...domain.questions import FormQuestion, LinkQuestion, RecordedQuestion
from ...domain.task import JsonText, Owner, Task
from ...durable.questions import check_answer
from ...store.clients import AsyncClientStore

logger = logging.getLogger(__name__)

PROBLEM_BYTES = 512
"""Longest reason for which a question is asked again."""


@dataclass(frozen=True, slots=True)
class CheckedAnswers:
    """Answers, told apart by whether they fit their questions.

    Attributes:
        fitting: Those that fit, by key, as they are recorded.
        refused: Why the others do not, by key.
    """

    fitting: dict[str, JsonText] = field(default_factory=dict)
    refused: dict[str, AnswerRefused | LimitExceeded | NotJson] = field(default_factory=dict)

    @property
    def problems(self) -> dict[str, str]:
        """The reasons why the others do not fit, by key, as the client is told when it is asked again."""
        return {key: _problem(error) for key, error in self.refused.items()}


def check_answers(
    questions: Mapping[str, RecordedQuestion], answers: Mapping[str, Any], limits: Limits
) -> CheckedAnswers:
    """Tell answers that fit from those that do not.

    Args:
        questions: What is asked, by key.
        answers: By key, as they came; those to no question are ignored.
        limits: How large and how deep one answer may be.
    """
    checked = CheckedAnswers()
    for key in [key for key in questions if key in answers]:
        try:
            to_json("answer", answers[key], maximum=limits.answers_bytes, depth=limits.depth)
            checked.fitting[key] = check_answer(key, questions[key], answers[key])
        except (AnswerRefused, LimitExceeded, NotJson) as error:
            checked.refused[key] = error
    return checked


def asked_again(question: RecordedQuestion, problem: str | None) -> RecordedQuestion:
    """The question, with what was wrong with the last answer to it, where the question has a text."""
    if not problem or not isinstance(question, FormQuestion | LinkQuestion):
        return question
    refused = f"The last answer was refused: {truncate(problem, PROBLEM_BYTES)}"
    return replace(question, message=f"{question.message}\n\n{refused}")


async def record_answers(
    store: AsyncClientStore,
    owner: Owner,
    task_id: str,
    answers: Mapping[str, JsonText],
    *,
    hidden: bool = False,
) -> Task | None:
    """Record answers that fit their questions.

    What has been answered since the questions were read is ignored, so that answers may arrive twice, or at
    the same time.

    Args:
        store: Where the task is.
        owner: Whose task it is.
        task_id: Which.
        answers: By key; if there are none, nothing is written.
        hidden: Whether it may be a task whose handle nobody has.

    Returns:
        The task after that; None if it did not change.

    Raises:
        TaskNotFound: Unknown, foreign or expired.
        StoreUnavailable: They may not have been recorded.
    """
    if not answers:
        return None
    try:
        return await store.apply(owner, task_id, AnswerInput(answers=answers), hidden=hidden)
    except InvalidTransition:
        logger.debug("answers to what is not asked any more were dropped")
        return None


def _problem(error: AnswerRefused | LimitExceeded | NotJson) -> str:
    if isinstance(error, AnswerRefused):
        return f"{error.path}: {error.problem}" if error.path else error.problem
    return str(error)
