"""`publish_report`: it asks before it writes, does each thing once, and writes nowhere else."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks_service import Settings, TaskContext, TaskService, ToolError
from tasks_service.domain.errors import AnswerRefused, Parked
from tasks_service.domain.task import EntryKind, Phase
from tests.unit.replay import Life
from workers.settings import ToolSettings
from workers.tools.profile_csv import profile
from workers.tools.publish_report import (
    Publication,
    file_name,
    html,
    markdown,
    publish,
    register,
    write_report,
)

TABLE = "name,height\nann,1.70\nbob,1.82\ncleo,\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    (files / "people.csv").write_text(TABLE)
    return files


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return tmp_path / "reports"


@pytest.fixture
def life() -> Life:
    return Life()


def run(life: Life, root: Path, reports: Path | None, path: str = "people.csv") -> Publication | None:
    """One attempt; None if the task waits."""
    attempt = life.attempt()
    try:
        return publish(
            root,
            reports,
            path,
            TaskContext(attempt),
            delay=timedelta(seconds=30),
            within=timedelta(hours=1),
        )
    except Parked:
        return None


def pass_time(life: Life, delta: timedelta) -> None:
    life.now_ms += round(delta.total_seconds() * 1000)


def finish(life: Life, root: Path, reports: Path | None, **answer: Any) -> Publication:
    """The whole life of a task whose report is approved."""
    assert run(life, root, reports) is None
    life.accept("approval", **{"publish": True, "title": "Our people", **answer})
    assert run(life, root, reports) is None
    assert life.phase is Phase.PENDING
    pass_time(life, timedelta(seconds=31))
    published = run(life, root, reports)
    assert published is not None
    return published


def test_it_says_what_it_found_and_asks_before_it_writes(life: Life, root: Path, reports: Path) -> None:
    assert run(life, root, reports) is None
    assert life.asked == {"approval"}
    asked = json.loads(life.task.inputs["approval"].request)
    assert asked["message"] == "people.csv has 3 rows and 2 columns. Publish a report of it?"
    assert asked["schema"]["required"] == ["publish", "title"]
    assert not reports.exists()


def test_an_approved_report_is_written_after_the_delay_and_returned(
    life: Life, root: Path, reports: Path
) -> None:
    publication = finish(life, root, reports)
    assert publication.file is not None
    assert [path.name for path in reports.iterdir()] == [publication.file]
    assert (reports / publication.file).read_text() == publication.report
    assert publication.file.startswith("our-people-")
    assert publication.summary == "Published 'Our people': people.csv has 3 rows and 2 columns."
    kinds = [(entry.kind, entry.name) for entry in life.journal]
    assert kinds == [
        (EntryKind.STEP, "profile"),
        (EntryKind.ANSWER, "approval"),
        (EntryKind.TIMER, "delay"),
        (EntryKind.STEP, "write"),
    ]


def test_without_a_directory_the_report_is_in_the_result_alone(life: Life, root: Path) -> None:
    publication = finish(life, root, None, format="html")
    assert publication.file is None
    assert publication.report is not None
    assert publication.report.startswith("<!doctype html>")


@pytest.mark.parametrize(
    "answer",
    [
        {"action": "decline"},
        {"action": "cancel"},
        {"action": "accept", "content": {"publish": False, "title": "Our people"}},
    ],
)
def test_a_no_writes_nothing_and_says_so(life: Life, root: Path, reports: Path, answer: Any) -> None:
    run(life, root, reports)
    life.answer({"approval": answer})
    publication = run(life, root, reports)
    assert publication is not None
    assert not publication.published
    assert publication.summary == "Nothing was published: a report of people.csv was not approved."
    assert not reports.exists()


def test_silence_is_a_no(life: Life, root: Path, reports: Path) -> None:
    run(life, root, reports)
    pass_time(life, timedelta(hours=1, seconds=1))
    publication = run(life, root, reports)
    assert publication is not None
    assert not publication.published


@pytest.mark.parametrize("title", ["", "   ", "x" * 121])
def test_a_title_that_is_none_is_refused_and_the_question_stays_open(
    life: Life, root: Path, title: str
) -> None:
    run(life, root, None)
    with pytest.raises(AnswerRefused, match=r"approval\.content\.title"):
        life.accept("approval", publish=True, title=title)
    assert life.asked == {"approval"}


def test_the_table_is_read_once_even_if_it_is_gone_when_the_answer_comes(
    life: Life, root: Path, reports: Path
) -> None:
    run(life, root, reports)
    (root / "people.csv").unlink()
    life.accept("approval", publish=True, title="Our people")
    run(life, root, reports)
    pass_time(life, timedelta(seconds=31))
    publication = run(life, root, reports)
    assert publication is not None
    assert publication.published


def test_a_worker_that_dies_after_writing_does_not_write_again(life: Life, root: Path, reports: Path) -> None:
    publication = finish(life, root, reports)
    assert publication.file is not None
    (reports / publication.file).write_text("seen")
    lease = life.task.lease
    assert lease is not None
    life.lose_lease(lease.lease_id)
    assert run(life, root, reports) == publication
    assert (reports / publication.file).read_text() == "seen"


def test_a_path_outside_the_root_is_refused_before_anybody_is_asked(life: Life, root: Path) -> None:
    (root.parent / "secret.csv").write_text(TABLE)
    with pytest.raises(ToolError, match="outside"):
        run(life, root, None, "../secret.csv")
    assert not life.asked


def test_values_from_the_file_never_become_markup(life: Life, root: Path) -> None:
    rows = ["a|b,<b>c</b>", *["<script>alert(1)</script>,[x](http://evil.example)"] * 3]
    (root / "evil.csv").write_text("\n".join(rows))
    table = profile(root, "evil.csv", TaskContext(life.attempt()))
    assert "<script>" not in html(table, "<i>T</i>")
    lines = markdown(table, "# T | `x`").splitlines()
    assert lines[0] == r"# \# T \| \`x\`"
    assert {line.replace(r"\|", "").count("|") for line in lines[4:]} == {7}
    assert "](http" not in markdown(table, "T").replace(r"\]", "")


def test_the_page_is_well_formed(life: Life, root: Path) -> None:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.cells: list[str] = []

        def handle_data(self, data: str) -> None:
            self.cells.append(data.strip())

    parser = Cells()
    parser.feed(html(profile(root, "people.csv", TaskContext(life.attempt())), "People & places"))
    assert {"People & places", "height", "1.7 to 1.82"} <= set(parser.cells)


@pytest.mark.parametrize(
    ("title", "start"),
    [
        ("../../etc/passwd", "etc-passwd-"),
        ("Größe: über alles", "groe-uber-alles-"),
        ("日本", "report-"),
        ("x" * 500, "x" * 60 + "-"),
        ("\0.\n", "report-"),
    ],
)
def test_a_title_becomes_a_plain_name(title: str, start: str) -> None:
    name = file_name(title, "task", "md")
    assert Path(name).name == name
    assert name.isascii()
    assert len(name) < 80
    assert name.startswith(start)


def test_two_tasks_of_one_title_write_two_files() -> None:
    assert file_name("Same", "one", "md") != file_name("Same", "two", "md")
    assert file_name("Same", "one", "md") == file_name("Same", "one", "md")


def test_a_link_in_the_directory_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "a.md").symlink_to(victim)
    (reports / ".a.md.part").symlink_to(victim)
    write_report(reports, "a.md", "theirs")
    assert victim.read_text() == "mine"
    assert (reports / "a.md").read_text() == "theirs"
    assert not stat.S_ISLNK((reports / "a.md").lstat().st_mode)


def test_a_directory_that_cannot_be_written_is_the_tools_error_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match=r"cannot be written|cannot be opened") as refused:
        write_report(tmp_path / "file", "a.md", "text")
    assert str(tmp_path) not in str(refused.value)


def test_the_result_holds_the_report_for_programs_and_for_people(
    life: Life, root: Path, reports: Path
) -> None:
    service = TaskService("T", settings=Settings(redis_url=None))
    register(service, ToolSettings(tools_root=root, reports_dir=reports))
    tool = service.tools["publish_report"]
    assert tool.fn is not None
    for _ in range(2):
        with pytest.raises(Parked):
            tool.fn("people.csv", TaskContext(life.attempt()))
        if life.asked:
            life.accept("approval", publish=True, title="Our people")
    pass_time(life, timedelta(seconds=3))
    result = json.loads(tool.render(tool.fn("people.csv", TaskContext(life.attempt()))).result)
    sentence, report = result["content"]
    assert sentence["text"].startswith("Published 'Our people'")
    assert report["resource"]["mimeType"] == "text/markdown"
    assert report["resource"]["uri"] == f"report:///{result['structuredContent']['file']}"
    assert report["resource"]["text"] == result["structuredContent"]["report"]
