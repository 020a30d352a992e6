"""Neighbouring releases run side by side on one store, in both directions, and then only one of them.

Each release of a chain starts beside the one before it, which has left tasks in every phase. Both work on all
of them, and on a load of their own. Then the older one of the pair stops, and the other finishes everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks_service.domain.names import task_hash
from tests.e2e.roles import answers
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WireClient

from .releases import NoBaseline, Release, baseline, next_release, release_after_next, today

LOAD = int(os.environ.get("TASKS_TEST_UPGRADE_CALLS", "4"))
"""Calls that each pair of neighbours gets while both run."""

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
META = {"traceparent": TRACE}

AUDIT = """
import sys
from tests.kit.audit import audit, told

print(told(audit(sys.argv[1], beside=[r"ts:mq:.*"])))
"""

FORWARD = (baseline, today, next_release)
BACK = (next_release, today)
# What the release after next has written, only its neighbour reads: from there it goes back one step.
LONG = (baseline, today, next_release, release_after_next, next_release)
LONG_BACK = (next_release, today, baseline)


def client_of(release: Release) -> WireClient:
    return WireClient(release.port, capabilities={**WITH_TASKS, "elicitation": {"form": {}}})


class Story:
    """All tasks of a chain: who has made each, which tool it calls, and what became of it."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, str]] = {}
        self.pairs: set[tuple[str, str]] = set()
        self.read_twice: dict[str, Any] = {}

    def call(self, release: Release, tool: str, **arguments: Any) -> str:
        with client_of(release) as client:
            task_id = client.task(tool, arguments, meta=META)
        self.made[task_id] = release.name, tool
        return task_id

    def status(self, release: Release, task_id: str) -> str:
        return str(self.view(release, task_id)["status"])

    def view(self, release: Release, task_id: str) -> Any:
        """What a front end shows; never fewer news than another one has shown before."""
        with client_of(release) as client:
            view = client.get(task_id)
        before = self.read_twice.get(task_id)
        assert before is None or view["lastUpdatedAt"] >= before["lastUpdatedAt"], (before, view)
        self.read_twice[task_id] = view
        return view

    def reaches(self, release: Release, task_id: str, status: str) -> None:
        """Wait until a front end shows a status."""
        wait_until(
            lambda: self.status(release, task_id) == status,
            lambda: (
                f"{self.made[task_id]} is to be {status}: {self.view(release, task_id)}\n{release.logs()}"
            ),
        )

    def answer(self, release: Release, task_id: str) -> None:
        view = self.view(release, task_id)
        yes = {"action": "accept", "content": {"yes": True}}
        with client_of(release) as client:
            assert client.update(task_id, dict.fromkeys(view["inputRequests"], yes)).result is not None

    def cancel(self, release: Release, task_id: str) -> None:
        with client_of(release) as client:
            assert client.request("tasks/cancel", {"taskId": task_id}).result is not None


@contextmanager
def chain(redis_url: str, tmp_path: Path) -> Iterator[Callable[[Callable[[Path], Path]], Release]]:
    """Starts releases; each is ready when it is there."""
    started: list[Release] = []
    trees: dict[str, Path] = {}

    def start(make: Callable[[Path], Path]) -> Release:
        if make.__name__ not in trees:
            trees[make.__name__] = make(tmp_path)
        release = Release(trees[make.__name__], redis_url, tmp_path / "data")
        started.append(release)
        url = f"http://127.0.0.1:{release.port}/readyz"
        wait_until(lambda: answers(url) or release.processes[0].status == "exited", release.logs)
        assert release.processes[0].status == "running", release.logs()
        assert release.processes[1].ready(), release.logs()
        return release

    try:
        yield start
    except BaseException:
        print("\n".join(release.logs() for release in started))
        raise
    finally:
        for release in started:
            release.teardown()


@pytest.mark.parametrize("releases", [FORWARD, BACK], ids=["forward", "back"])
def test_neighbouring_releases_share_a_store_and_either_may_stay(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, releases: tuple[Callable[[Path], Path], ...]
) -> None:
    upgrade(redis_server, redis_url, tmp_path, releases)


@pytest.mark.upgrade
@pytest.mark.parametrize("releases", [LONG, LONG_BACK], ids=["forward", "back"])
def test_a_store_goes_through_all_releases(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, releases: tuple[Callable[[Path], Path], ...]
) -> None:
    upgrade(redis_server, redis_url, tmp_path, releases)


def upgrade(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, releases: tuple[Callable[[Path], Path], ...]
) -> None:
    story = Story()
    with chain(redis_url, tmp_path) as start:
        gate = tmp_path / "gate"
        running = start(releases[0])
        for make in releases[1:]:
            left = in_every_phase(story, running, gate)
            other = start(make)
            beside(story, running, other, left)
            running.stop()
            running = other
        gate.touch()
        running.add_worker("late")
        ended(story, running)
        stored_as_made(redis_server, story)
        assert (said := audited(running.tree, redis_url)) == "", said


def in_every_phase(story: Story, release: Release, gate: Path) -> dict[str, str]:
    """Leave a task in each phase that lasts, some that ended, and some that wait for the next release."""
    waiting = ("gated", "asking", "sleeping", "retrying")
    left = {tool: story.call(release, tool, gate=str(gate)) for tool in waiting}
    left |= {tool: story.call(release, tool) for tool in ("quick", "failing", "late")}
    left["cancelled"] = story.call(release, "late")
    story.cancel(release, left["cancelled"])
    wanted = {"asking": "input_required", "quick": "completed", "failing": "failed", "late": "working"}
    for tool, status in wanted.items():
        story.reaches(release, left[tool], status)
    return left


def beside(story: Story, one: Release, other: Release, left: dict[str, str]) -> None:
    """Both work: what one has left, the other shows, answers and cancels; and a load for both."""
    assert story.status(other, left["cancelled"]) == "cancelled"
    assert story.status(other, left["late"]) == "working"
    story.answer(other, left["asking"])
    failures: list[BaseException] = []

    def loaded(maker: Release, reader: Release) -> None:
        try:
            for number in range(LOAD):
                load(story, maker, reader, number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=loaded, args=pair) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    # Front end and worker of different releases have met, both ways.
    wanted = {(one.name, other.name), (other.name, one.name)}
    for number in range(200):
        if wanted <= story.pairs:
            break
        load(story, one, other, 4 * number)
        load(story, other, one, 4 * number)
    assert wanted <= story.pairs, story.pairs


def load(story: Story, maker: Release, reader: Release, number: int) -> None:
    """One call by way of one release, seen to its end by way of the other."""
    if number % 4 == 1:
        task_id = story.call(maker, "asking", gate="")
        story.reaches(reader, task_id, "input_required")
        story.answer(reader, task_id)
        return
    if number % 4 == 2:
        story.cancel(reader, story.call(maker, "late"))
        return
    task_id = story.call(maker, "quick")
    story.reaches(reader, task_id, "completed")
    story.pairs.add((maker.name, said(story.view(reader, task_id))))


def said(view: Any) -> str:
    return str(view["result"]["content"][0]["text"])


def ended(story: Story, release: Release) -> None:
    """Everything has come to its end, by way of the release that is left."""
    until = time.monotonic() + 60
    for task_id, (_, tool) in story.made.items():
        while (view := story.view(release, task_id))["status"] in ("working", "input_required"):
            if view["status"] == "input_required":
                story.answer(release, task_id)
            assert time.monotonic() < until, (tool, view, release.logs())
            time.sleep(0.05)
        allowed = {"late": ("completed", "cancelled"), "failing": ("failed",)}.get(tool, ("completed",))
        assert view["status"] in allowed, (tool, view)
        if tool == "asking":
            assert said(view).split()[1] == "True", view


def stored_as_made(redis_server: RedisServer, story: Story) -> None:
    """What only one release knows was kept by all that have written the record since."""
    with redis_server.client() as client:
        for task_id, (maker, tool) in story.made.items():
            state = json.loads(client.hget(f"ts:{{00}}:t:{task_hash(task_id)}", "state"))
            own = ("origin", "next") if maker in ("next", "after") else ("trace", TRACE)
            assert state.get(own[0]) == own[1], (maker, tool, state)


def audited(tree: Path, redis_url: str) -> str:
    """What the audit of a release says; today's, where the release has none."""
    where = tree if (tree / "tests").exists() else Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, redis_url], cwd=where, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_without_the_code_of_the_baseline_it_fails_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "baseline-commit"
    missing.write_text("0" * 40 + "\n")
    monkeypatch.setattr("tests.upgrade.releases.BASELINE", missing)
    with pytest.raises(NoBaseline, match="Fetch the whole history"):
        baseline(tmp_path)
