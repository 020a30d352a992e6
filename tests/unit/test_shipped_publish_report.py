"""`publish_report`: it asks before it writes, does each thing once, and writes nowhere else."""

from __future__ import annotations

import stat
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks_service import Cancelled, Declined, Settings, TaskContext, TaskService, ToolError
from tasks_service.domain.errors import AnswerRefused
from tasks_service.domain.task import EntryKind
from tasks_service.testing import RESULT, Answer, Crash, ToolRun
from tests.unit.recording import RecordingAttempt
from workers.settings import ToolSettings
from workers.tools import publish_report
from workers.tools.profile_csv import profile
from workers.tools.publish_report import (
    Publication,
    file_name,
    html,
    markdown,
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


def run(
    root: Path, reports: Path | None, *crashes: Crash, path: str = "people.csv", answer: Answer | None = None
) -> ToolRun:
    """A call of the tool, until it has ended or asks."""
    service = TaskService("T", settings=Settings(redis_url=None))
    register(service, ToolSettings(tools_root=root, reports_dir=reports))
    arguments = {"path": path, "delay_seconds": 30, "answer_within_hours": 1}
    answers = {} if answer is None else {"approval": answer}
    return ToolRun(service, "publish_report", arguments, *crashes, answers=answers)


APPROVED = {"publish": True, "title": "Our people"}


def test_it_says_what_it_found_and_asks_before_it_writes(root: Path, reports: Path) -> None:
    asked = run(root, reports).questions["approval"]
    assert asked.message == "people.csv has 3 rows and 2 columns. Publish a report of it?"
    assert asked.schema["required"] == ["publish", "title"]
    assert not reports.exists()


def test_an_approved_report_is_written_after_the_delay_and_returned(root: Path, reports: Path) -> None:
    approved = run(root, reports, answer=APPROVED)
    publication = Publication.model_validate(approved.result)
    assert publication.file is not None
    assert [path.name for path in reports.iterdir()] == [publication.file]
    assert (reports / publication.file).read_text() == publication.report
    assert publication.file.startswith("our-people-")
    assert publication.summary == "Published 'Our people': people.csv has 3 rows and 2 columns."
    kinds = [(entry.kind, entry.name) for entry in approved.journal]
    assert kinds == [
        (EntryKind.STEP, "profile"),
        (EntryKind.ANSWER, "approval"),
        (EntryKind.TIMER, "delay"),
        (EntryKind.STEP, "write"),
    ]
    assert approved.progress is not None
    assert approved.progress.message == "Approved as 'Our people'; publishing in 30 s"


def test_without_a_directory_the_report_is_in_the_result_alone(root: Path) -> None:
    publication = run(root, None, answer={**APPROVED, "format": "html"}).result
    assert publication["file"] is None
    assert publication["report"].startswith("<!doctype html>")


@pytest.mark.parametrize("answer", [Declined(), Cancelled(), {"publish": False, "title": "Our people"}])
def test_a_no_writes_nothing_and_says_so(root: Path, reports: Path, answer: Answer) -> None:
    publication = run(root, reports, answer=answer).result
    assert not publication["published"]
    assert publication["summary"] == "Nothing was published: a report of people.csv was not approved."
    assert not reports.exists()


def test_silence_is_a_no(root: Path, reports: Path) -> None:
    silent = run(root, reports)
    silent.clock.advance(timedelta(hours=1))
    assert not silent.result["published"]


@pytest.mark.parametrize("title", ["", "   ", "x" * 121])
def test_a_title_that_is_none_is_refused_and_the_question_stays_open(root: Path, title: str) -> None:
    asking = run(root, None)
    with pytest.raises(AnswerRefused, match=r"approval\.content\.title"):
        asking.accept("approval", publish=True, title=title)
    assert set(asking.questions) == {"approval"}


def test_the_table_is_read_once_even_if_it_is_gone_when_the_answer_comes(root: Path, reports: Path) -> None:
    asking = run(root, reports)
    (root / "people.csv").unlink()
    asking.answer("approval", APPROVED)
    assert asking.result["published"]


@pytest.mark.parametrize(
    "crash",
    [
        *(Crash(before_recording=name) for name in ("profile", "write", RESULT)),
        *(Crash(after=name) for name in ("profile", "approval", "delay", "write")),
    ],
    ids=str,
)
def test_whichever_worker_dies_one_report_is_published(root: Path, reports: Path, crash: Crash) -> None:
    publication = run(root, reports, crash, answer=APPROVED).result
    assert [path.name for path in reports.iterdir()] == [publication["file"]]


def test_a_worker_that_dies_after_writing_does_not_write_again(
    root: Path, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def write(directory: Path, name: str, text: str) -> str:
        written.append(name)
        return write_report(directory, name, text)

    monkeypatch.setattr(publish_report, "write_report", write)
    publication = run(root, reports, Crash(after="write"), answer=APPROVED).result
    assert written == [publication["file"]]


def test_a_path_outside_the_root_is_refused_before_anybody_is_asked(root: Path) -> None:
    (root.parent / "secret.csv").write_text(TABLE)
    refused = run(root, None, path="../secret.csv")
    assert refused.error is not None and "outside" in refused.error


def test_values_from_the_file_never_become_markup(root: Path) -> None:
    rows = ["a|b,<b>c</b>", *["<script>alert(1)</script>,[x](http://evil.example)"] * 3]
    (root / "evil.csv").write_text("\n".join(rows))
    table = profile(root, "evil.csv", TaskContext(RecordingAttempt()))
    assert "<script>" not in html(table, "<i>T</i>")
    lines = markdown(table, "# T | `x`").splitlines()
    assert lines[0] == r"# \# T \| \`x\`"
    assert {line.replace(r"\|", "").count("|") for line in lines[4:]} == {7}
    assert "](http" not in markdown(table, "T").replace(r"\]", "")


def test_the_page_is_well_formed(root: Path) -> None:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.cells: list[str] = []

        def handle_data(self, data: str) -> None:
            self.cells.append(data.strip())

    parser = Cells()
    parser.feed(html(profile(root, "people.csv", TaskContext(RecordingAttempt())), "People & places"))
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


def test_the_result_holds_the_report_for_programs_and_for_people(root: Path, reports: Path) -> None:
    result = run(root, reports, answer=APPROVED).call_result()
    sentence, report = result["content"]
    assert sentence["text"].startswith("Published 'Our people'")
    assert report["resource"]["mimeType"] == "text/markdown"
    assert report["resource"]["uri"] == f"report:///{result['structuredContent']['file']}"
    assert report["resource"]["text"] == result["structuredContent"]["report"]
