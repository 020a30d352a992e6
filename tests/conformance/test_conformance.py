"""The official suite, and other clients, against the fixture: real front end, real worker, real Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WireClient

from .run import run
from .serve import serving
from .suite import SELECTIONS, NoSuite, Suite, install

REQUIRED = "TASKS_TEST_CONFORMANCE"
"""Set to `required`, it makes a suite that cannot be had a failure."""


@pytest.fixture(scope="module")
def suite() -> Suite:
    try:
        return install()
    except NoSuite as error:
        reason = f"NOT RUN: the official conformance suite cannot be had: {error}"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The fixture, served once for all tests."""
    with serving() as url:
        yield url


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_official_suite_finds_no_failure_and_checks_as_much_as_ever(
    suite: Suite, url: str, selection: str, tmp_path: Path
) -> None:
    report = run(suite, url, selection, tmp_path)

    assert report.is_good, f"{report.counts}\n{report.table}"


@pytest.fixture
def client(url: str) -> Iterator[WireClient]:
    capabilities = {**WITH_TASKS, "elicitation": {}, "sampling": {}}
    with WireClient(urlsplit(url).port or 0, capabilities=capabilities) as client:
        yield client


def text_of(client: WireClient, task_id: str) -> str:
    """What a task ended with."""

    def ended() -> Any:
        task = client.get(task_id)
        return task if task["status"] == "completed" else None

    return str(wait_until(ended, "the task ends", seconds=60)["result"]["content"][0]["text"])


def answer(client: WireClient, task_id: str, key: str, content: Any) -> None:
    """Answer one question of a task, once it asks it."""
    wait_until(lambda: key in client.get(task_id).get("inputRequests", {}), "it asks", seconds=60)
    client.update(task_id, {key: content})


def test_an_external_job_is_followed_to_its_end(client: WireClient) -> None:
    assert text_of(client, client.task("external_job", {"job_id": "7"})) == "7 is done."


def test_a_haiku_is_written_by_the_clients_model(client: WireClient) -> None:
    task_id = client.task("write_haiku", {"topic": "queues"})
    content = {"type": "text", "text": "An old silent queue"}
    answer(client, task_id, "sample", {"role": "assistant", "content": content, "model": "none"})

    assert text_of(client, task_id) == "Haiku:\nAn old silent queue"


def test_two_rounds_are_asked_one_after_the_other(client: WireClient) -> None:
    task_id = client.task("two_rounds")
    for key, name in (("first", "Ada"), ("second", "Lovelace")):
        answer(client, task_id, key, {"action": "accept", "content": {"name": name}})

    assert text_of(client, task_id) == "Answered: {'name': 'Ada'}, {'name': 'Lovelace'}"
