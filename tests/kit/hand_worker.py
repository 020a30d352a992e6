"""A worker small enough to see through, and questions as it asks them."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import Any

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.errors import InvalidTransition, ProtocolError, TaskNotFound
from tasks_service.domain.events import Checkpoint, Claim, CompleteWithResult, FailWithError, RequestInput
from tasks_service.domain.events import Question as OpenQuestion
from tasks_service.domain.questions import encode
from tasks_service.domain.task import Failure, FailureKind, Task, new_token
from tasks_service.durable.questions import Question, question_digest
from tasks_service.store.redis import RedisTaskStore

from .waiting import wait_until


def asked(question: Question) -> OpenQuestion:
    """A question as a worker commits it."""
    recorded = question.recorded()
    return OpenQuestion(request=encode(recorded), digest=question_digest(recorded))


class Worker:
    """Plays the worker over the store's public face: by hand, or in a thread that runs every tool at once."""

    def __init__(self, redis_url: str, tools: ToolRegistry) -> None:
        self.store = RedisTaskStore(redis_url, pool=2)
        self.tools = tools
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pending(self) -> list[str]:
        names = self.store.pending("tasks", until_ms=self.store.now_ms() + 1_000, limit=100)
        return [self.store.inspect(name).task.task_id for name in names]

    def recorded(self) -> str:
        """Wait for a task to be pending; the id of the first."""
        return wait_until(self.pending, "a call is recorded")[0]

    def task(self, task_id: str) -> Task:
        return self.store.inspect(task_id).task

    def claim(self, task_id: str) -> tuple[Task, dict[str, Any]]:
        claimed = self.store.claim(task_id, Claim(lease_id=new_token(), worker="test"))
        return claimed.task, json.loads(claimed.arguments)

    def run(self, task_id: str) -> Task:
        """Take a task, run its tool, and write down what it returned or raised."""
        task, arguments = self.claim(task_id)
        assert task.lease is not None
        tool = self.tools.find(task.tool)
        assert tool.fn is not None
        try:
            by_position, by_name = tool.passed(tool.bind(arguments))
            rendered = tool.render(tool.fn(*by_position, **by_name))
        except ProtocolError as error:
            failure = Failure(kind=FailureKind.AUTHOR, message=error.message, code=error.code)
            return self.store.commit(task_id, FailWithError(lease_id=task.lease.lease_id, failure=failure))
        done = CompleteWithResult(
            lease_id=task.lease.lease_id, result=rendered.result, is_error=rendered.is_error
        )
        return self.store.commit(task_id, done)

    def run_next(self) -> Task:
        """Run whatever comes first."""
        return self.run(self.recorded())

    def ask(self, task_id: str, inputs: Any) -> Task:
        task, _ = self.claim(task_id)
        assert task.lease is not None
        return self.store.commit(task_id, RequestInput(lease_id=task.lease.lease_id, inputs=inputs))

    def note(self, task: Task, **notes: Any) -> Task:
        assert task.lease is not None
        return self.store.commit(task.task_id, Checkpoint(lease_id=task.lease.lease_id, **notes))

    def fail(self, task_id: str, failure: Failure) -> Task:
        task, _ = self.claim(task_id)
        assert task.lease is not None
        return self.store.commit(task_id, FailWithError(lease_id=task.lease.lease_id, failure=failure))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
        self.store.close()

    def _work(self) -> None:
        while not self._stop.wait(0.005):
            for task_id in self.pending():
                with suppress(InvalidTransition, TaskNotFound):
                    self.run(task_id)
