"""What `doctor` says of tools and workers."""

from __future__ import annotations

from tasks_service.cli.tool_findings import AnsweringWorker, ToolExamination, waiting_findings
from tasks_service.domain.task import Task
from tasks_service.domain.tools import ToolDefinition
from tasks_service.store.findings import Finding, Severity
from tasks_service.store.memory import MemoryTaskStore
from tasks_service.store.memory_registry import MemoryRegistry
from tasks_service.store.registry import AnnouncedTools, RegistryView, WorkerAnnouncement
from tests.kit.factories import creation

DRAW = ToolDefinition(name="draw", input_schema={"type": "object"})
PAINT = ToolDefinition(name="paint", input_schema={"type": "object"})


def announced(**workers: tuple[str, list[ToolDefinition]]) -> RegistryView:
    """Workers by their names, each with its release and its tools."""
    registry = MemoryRegistry()
    for node, (version, tools) in workers.items():
        having = AnnouncedTools.of(tools)
        registry.announce(
            WorkerAnnouncement(
                service="shop",
                node=node,
                tools=having.digest,
                version=version,
                library_version="1.0",
                queues=frozenset({"tasks"}),
            ),
            having,
        )
    return registry.read("shop")


def findings(view: RegistryView, **tasks: set[str]) -> list[Finding]:
    """What is found where workers that take the tools' queue answer that they have such Celery tasks."""
    workers = tuple(
        AnsweringWorker(node=node, queues=frozenset({"tasks"}), tasks=frozenset(names))
        for node, names in tasks.items()
    )
    tools = {"draw": DRAW, "paint": PAINT}
    return list(ToolExamination(tools=tools, view=view, workers=workers, command="celery -A shop").findings())


def test_nothing_is_wrong_where_every_worker_has_every_tool() -> None:
    view = announced(a=("1.0", [DRAW, PAINT]))
    assert findings(view, a={"draw", "paint", "else"}) == []
    assert findings(announced()) == []  # nobody answers, which is said elsewhere


def test_a_worker_of_another_module_is_named_with_what_it_lacks() -> None:
    found = findings(announced(), a={"shop.tasks.resize"})
    assert [finding.severity for finding in found] == [Severity.ERROR, Severity.ERROR]
    assert found[0].what == "No worker has these tools, so that calls of them wait: draw, paint."
    assert found[1].what == (
        "The worker a takes the messages of tools that it has not, and drops them: draw, paint. "
        "It seems to be started from another module. It does not announce itself."
    )
    assert "celery -A shop" in found[1].fix


def test_a_worker_that_lacks_a_tool_which_others_have_is_a_warning() -> None:
    view = announced(a=("1.0", [DRAW, PAINT]), b=("1.0", [DRAW]))
    (found,) = findings(view, a={"draw", "paint"}, b={"draw"})
    assert found.severity is Severity.WARNING
    assert found.what == "The worker b takes the messages of tools that it has not, and drops them: paint."


def test_different_definitions_and_releases_are_told() -> None:
    older = ToolDefinition(name="draw", input_schema={"type": "object"}, description="older")
    view = announced(a=("1.10", [DRAW, PAINT]), b=("1.9", [older, PAINT]))
    definitions, releases = findings(view, a={"draw", "paint"}, b={"draw", "paint"})
    assert "different definitions of the tool 'draw'" in definitions.what
    assert definitions.what.endswith("which these have not: b.")
    assert releases.what == "Workers run different releases of the service (1.10: a; 1.9: b)."


def test_tasks_that_no_worker_can_take_are_counted_with_the_reason() -> None:
    store = MemoryTaskStore()
    tools = ("draw", "gone", "gone")
    tasks: list[Task] = [store.create(creation(tool=tool, queue="tasks")).task for tool in tools]
    (found,) = waiting_findings(tasks, [announced(a=("1.0", [DRAW]))])
    assert found.what == "2 tasks of the tool 'gone' wait in the queue 'tasks': no worker has the tool."
