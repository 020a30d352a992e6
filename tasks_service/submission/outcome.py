"""How a task ended, as whoever submitted it in Python is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..authoring.results import Results, blocks_text
from ..domain.errors import TaskFailed, TaskWasCancelled
from ..domain.task import TaskStatus
from ..store.clients import TaskView


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a task. A tool that waited for it records it as JSON.

    Attributes:
        tool: The name of the tool.
        status: The final status.
        message: The status message, or what the error says.
        result: The recorded result, of a tool that has returned one.
        is_error: Whether that reports an error.
        kind: Why the task failed (`FailureKind`).
        code: The code of an author's `ProtocolError`.
        data: The data of an author's `ProtocolError`, decoded.
    """

    tool: str
    status: str
    message: str | None = None
    result: Mapping[str, Any] | None = None
    is_error: bool = False
    kind: str | None = None
    code: int | None = None
    data: Any = None

    @classmethod
    def of(cls, view: TaskView) -> Outcome:
        """The end of a task that is final."""
        task, failure = view.task, view.task.failure
        return cls(
            tool=task.tool,
            status=task.status.value,
            message=task.status_message if failure is None else failure.message,
            result=None if view.result is None else json.loads(view.result),
            is_error=task.is_error,
            kind=None if failure is None else failure.kind.value,
            code=None if failure is None else failure.code,
            data=None if failure is None or failure.data is None else json.loads(failure.data),
        )

    @classmethod
    def from_json(cls, recorded: Mapping[str, Any]) -> Outcome:
        """An outcome that `to_json` wrote."""
        return cls(**recorded)

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON."""
        return asdict(self)

    def value(self, results: Results | None) -> Any:
        """What the tool returned.

        Args:
            results: How the tool's results are read; None if its code is not here.

        Raises:
            TaskFailed: It failed.
            TaskWasCancelled: It was cancelled.
        """
        if self.status == TaskStatus.CANCELLED:
            raise TaskWasCancelled(self.message)
        if self.status == TaskStatus.FAILED or self.result is None:
            raise TaskFailed(self.message or "", kind=self.kind, code=self.code, data=self.data)
        if self.is_error:
            raise TaskFailed(blocks_text(self.result["content"]))
        return (results or _NO_PROMISE).read(self.result)


_NO_PROMISE = Results(None, wraps=False, _adapter=None)
