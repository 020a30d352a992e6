"""What `doctor` says of tools and workers: who lacks what, who differs from whom, which tasks wait for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..domain.task import Phase, Slot, Task, Wait
from ..domain.tools import ToolDefinition
from ..store.findings import Finding, Severity
from ..store.registered_tools import registered_tools
from ..store.registry import RegistryView
from ..store.wait_reasons import WaitReasons


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweringWorker:
    """A worker, as it answers Celery's remote control.

    Attributes:
        node: Its name.
        queues: The queues that it takes.
        tasks: The names of the Celery tasks that it can run.
    """

    node: str
    queues: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolExamination:
    """What is known of the tools of a service.

    Attributes:
        tools: Those of the code that `doctor` has loaded, by name.
        view: What the registry knows of the service.
        workers: Those that answer, whatever they run.
        command: What starts a worker of the service.
    """

    tools: Mapping[str, ToolDefinition]
    view: RegistryView
    workers: tuple[AnsweringWorker, ...]
    command: str

    def findings(self) -> Iterator[Finding]:
        """All that is wrong, or ought to be known."""
        yield from self._missing_tools()
        yield from self._lacking_workers()
        yield from self._different_definitions()
        yield from self._releases()

    def takers_of(self, queue: str) -> list[AnsweringWorker]:
        """The workers that answer and take a queue."""
        return [worker for worker in self.workers if queue in worker.queues]

    def _missing_tools(self) -> Iterator[Finding]:
        """Tools whose queue is taken, by workers that all lack them; of other queues `queues` tells."""
        missing = sorted(
            name
            for name, tool in self.tools.items()
            if (takers := self.takers_of(tool.queue)) and not any(name in worker.tasks for worker in takers)
        )
        if missing:
            yield _finding(
                Severity.ERROR,
                f"No worker has these tools, so that calls of them wait: {', '.join(missing)}.",
                f"Start workers from the module that registers them: {self.command}",
            )

    def _lacking_workers(self) -> Iterator[Finding]:
        announced = {worker.node for worker in self.view.workers}
        for worker in self.workers:
            wanted = {name for name, tool in self.tools.items() if tool.queue in worker.queues}
            if not (lacks := sorted(wanted - worker.tasks)):
                continue
            module = "" if wanted & worker.tasks else " It seems to be started from another module."
            heard = "" if worker.node in announced else " It does not announce itself."
            yield _finding(
                Severity.WARNING if wanted & worker.tasks else Severity.ERROR,
                f"The worker {worker.node} takes the messages of tools that it has not, and drops them: "
                f"{', '.join(lacks)}.{module}{heard}",
                f"Start it as: {self.command}; or let it take other queues (-Q).",
            )

    def _different_definitions(self) -> Iterator[Finding]:
        for name, tool in registered_tools(self.view).items():
            if tool.others:
                nodes = sorted(node for nodes in tool.others.values() for node in nodes)
                yield _finding(
                    Severity.WARNING,
                    f"Workers have different definitions of the tool {name!r}. That of the newest release "
                    f"holds, which these have not: {', '.join(nodes)}.",
                    "Roll the newest release out to them.",
                )

    def _releases(self) -> Iterator[Finding]:
        kinds = {
            "the service": {worker.node: worker.version for worker in self.view.workers},
            "tasks-service": {worker.node: worker.library_version for worker in self.view.workers},
        }
        for what, versions in kinds.items():
            if len(set(versions.values())) > 1:
                told = "; ".join(
                    f"{version or 'without a version'}: {', '.join(sorted(_having(versions, version)))}"
                    for version in sorted(set(versions.values()))
                )
                yield _finding(
                    Severity.WARNING,
                    f"Workers run different releases of {what} ({told}).",
                    "Nothing is wrong while you roll out; see docs/upgrading.md.",
                )


def waiting_findings(tasks: Iterable[Task], views: Iterable[RegistryView]) -> Iterator[Finding]:
    """What is said of pending tasks that no worker can take now.

    Args:
        tasks: Tasks that have waited for a while.
        views: What the registry knows, of each service.
    """
    reasons = WaitReasons(views)
    waiting = Counter(
        (task.tool, task.queue, reasons.of(task))
        for task in tasks
        if task.phase is Phase.PENDING and task.slot is not Slot.WAITING
    )
    for (tool, queue, waits), number in sorted(waiting.items()):
        if waits is not Wait.QUEUED:
            yield _finding(
                Severity.WARNING,
                f"{number} tasks of the tool {tool!r} wait in the queue {queue!r}: {_WHY[waits]}.",
                "Start such a worker, or cancel them: tasks-service list --phase pending",
            )


_WHY: Mapping[Wait, str] = {
    Wait.NO_WORKER: "no worker that has the tool takes the queue",
    Wait.NO_TOOL: "no worker has the tool",
    Wait.REMOVED: "the tool was removed, and no worker has it any more",
}


def _having(versions: Mapping[str, str], version: str) -> list[str]:
    return [node for node, other in versions.items() if other == version]


def _finding(severity: Severity, what: str, fix: str) -> Finding:
    return Finding(severity=severity, what=what, fix=fix)
