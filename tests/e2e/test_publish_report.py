"""`publish_report` through everything: the service is stopped and started while the question is open."""

from __future__ import annotations

import json
from pathlib import Path

from .running_up import RunningUp


def test_a_question_outlives_the_whole_service_and_its_answer_publishes_the_report(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    service = RunningUp(tmp_path / "up", TASKS_REPORTS_DIR=str(reports)).start()
    asked = service.call("publish_report", '{"path": "people.csv", "delay_seconds": 0.1}')
    assert asked.returncode == 3, asked.stderr
    assert "people.csv has 3 rows and 2 columns. Publish a report of it?" in asked.stderr
    (task,) = service.listed("--tool", "publish_report")
    assert service.stop() == 0, service.text()
    (service.directory / "files/people.csv").unlink()

    service.log.unlink()
    service.start()
    try:
        answers = ("--answer", "approval.publish=true", "--answer", "approval.title=Our people")
        done = service.call("publish_report", "--resume", task["task_id"], *answers)
        inspected = json.loads(service.run("inspect", "--json", task["task_id"]).stdout)
    finally:
        assert service.stop() == 0, service.text()

    assert done.returncode == 0, done.stderr
    publication = json.loads(done.stdout)
    assert (reports / publication["file"]).read_text() == publication["report"]
    assert publication["report"].startswith("# Our people\n")
    assert inspected["task"]["claims"] == 3
