"""The tool `publish_report`: a task that asks a person, waits, goes on, and survives every restart.

Its work is in steps; whichever process stops in between, the person is asked once and the report is published
once.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from html import escape as html_escape
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks_service import (
    Cancelled,
    Declined,
    EmbeddedResource,
    TaskContext,
    TaskService,
    ToolAnnotations,
    ToolError,
    ToolResult,
)

from ..settings import ToolSettings
from .confine import open_directory
from .csv_profile.report import ColumnProfile, CsvProfile
from .profile_csv import profile

LONGEST_DELAY = 7 * 24 * 3600
"""Most seconds between approval and publication."""

LONGEST_CELL = 40
"""Most characters of a value or a name in the report."""

LONGEST_NAME = 60
"""Most characters of a title in a file's name."""

_TYPES = {"markdown": ("md", "text/markdown"), "html": ("html", "text/html")}

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<h1>{title}</h1>
<p>{summary}</p>
<table>
{rows}
</table>
</html>
"""


class Approval(BaseModel):
    """Whether the report is published, and how."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    publish: bool
    """Publish it?"""
    title: Annotated[str, Field(min_length=1, max_length=120, pattern=r"\S")]
    """The heading of the report."""
    format: Literal["markdown", "html"] = "markdown"
    """What to write."""


class Publication(BaseModel):
    """The result of the tool."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    published: bool
    """Whether there is a report."""
    summary: str
    """In one sentence: what was published, or why nothing was."""
    title: str | None = None
    """Its heading."""
    file: str | None = None
    """Its name in the directory for reports, if the service has one."""
    report: str | None = None
    """Its text."""


def register(service: TaskService, settings: ToolSettings) -> None:
    """Add the tool to a service."""

    @service.tool(
        title="Publish a report of a CSV file",
        annotations=ToolAnnotations(
            read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
        ),
        poll_interval=timedelta(seconds=0.5),
        timeout=timedelta(hours=6),
    )
    def publish_report(
        path: Annotated[str, Field(description="The file, relative to the tools' data directory.")],
        ctx: TaskContext,
        delay_seconds: Annotated[
            float,
            Field(
                ge=0,
                le=LONGEST_DELAY,
                description="How long to wait between the approval and the publication; up to 7 days.",
            ),
        ] = 2.0,
        answer_within_hours: Annotated[
            float,
            Field(gt=0, le=14 * 24, description="When silence counts as no."),
        ] = 24.0,
    ) -> Annotated[ToolResult, Publication]:
        """Profile a CSV file, ask a person for approval and a title, wait, and publish a report of it.

        The person is asked through the client (elicitation, form), which must have declared that it can be
        asked. The task waits for the answer, even while everything is restarted, and then goes on where it
        was. Nothing is written if the person declines or does not answer in time. The report
        is a table of the columns, as Markdown or HTML, in the result and, if the service has a directory for
        reports, in a file there.
        """
        publication = publish(
            settings.tools_root,
            settings.reports_dir,
            path,
            ctx,
            delay=timedelta(seconds=delay_seconds),
            within=timedelta(hours=answer_within_hours),
        )
        return _result(publication)


def publish(
    root: Path, reports: Path | None, path: str, ctx: TaskContext, *, delay: timedelta, within: timedelta
) -> Publication:
    """Profile a file, ask, wait, write.

    Args:
        root: The directory that `path` may not leave; only read.
        reports: The directory for reports, created if it is missing; None: no file is written.
        path: The path from the client.
        ctx: The context, for steps, the question and the sleep.
        delay: The time between the approval and the publication.
        within: How long the question stays open; then it counts as declined.

    Raises:
        ToolError: There is no such CSV file beneath the root, or the report cannot be written.
        AttemptEnded: The attempt must stop.
    """

    def profile_file() -> CsvProfile:
        return profile(root, path, ctx)

    def write() -> str | None:
        return None if reports is None else write_report(reports, name, text)

    table = ctx.step("profile", profile_file)
    facts = summary(table)
    question = f"{facts} Publish a report of it?"
    approval = ctx.elicit(question, Approval, name="approval", within=within, default=Declined())
    if isinstance(approval, Declined | Cancelled) or not approval.publish:
        refused = f"Nothing was published: a report of {table.path} was not approved."
        return Publication(published=False, summary=refused)
    ctx.progress(0, None, f"Approved as {approval.title!r}; publishing in {delay.total_seconds():g} s")
    ctx.sleep(delay, name="delay")
    title = " ".join(approval.title.split())
    text = markdown(table, title) if approval.format == "markdown" else html(table, title)
    name = file_name(title, ctx.task_id, _TYPES[approval.format][0])
    file = ctx.step("write", write)
    return Publication(
        published=True, summary=f"Published {title!r}: {facts}", title=title, file=file, report=text
    )


def summary(table: CsvProfile) -> str:
    """The size of a table, in one sentence."""
    malformed = f" {table.malformed_rows:,} malformed rows were left out." if table.malformed_rows else ""
    return f"{table.path} has {table.rows:,} rows and {table.columns_total:,} columns.{malformed}"


def markdown(table: CsvProfile, title: str) -> str:
    """The report as Markdown."""
    heading = ["column", "type", "nulls", "distinct", "range", "most frequent"]
    rows = [
        heading,
        ["---"] * len(heading),
        *([_markdown_text(cell) for cell in row] for row in _rows(table)),
    ]
    lines = [f"# {_markdown_text(title)}", "", _markdown_text(summary(table)), ""]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def html(table: CsvProfile, title: str) -> str:
    """The report as a page of HTML."""
    heading = "<tr><th>column<th>type<th>nulls<th>distinct<th>range<th>most frequent"
    rows = ["<tr>" + "".join(f"<td>{_html_text(cell)}" for cell in row) for row in _rows(table)]
    return _PAGE.format(
        title=_html_text(title), summary=_html_text(summary(table)), rows="\n".join([heading, *rows])
    )


def file_name(title: str, task_id: str, suffix: str) -> str:
    """A recognisable file name that no other task uses, and that is the same in every attempt."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:LONGEST_NAME].strip("-") or "report"
    return f"{slug}-{hashlib.sha256(task_id.encode()).hexdigest()[:12]}.{suffix}"


def write_report(reports: Path, name: str, text: str) -> str:
    """Write a file completely or not at all; writing it again changes nothing.

    Args:
        reports: The directory; its own path may contain links, but links in it are never followed.
        name: The file's name.
        text: Its contents.

    Returns:
        The name.

    Raises:
        ToolError: The directory cannot be written to.
    """
    partial = f".{name}.part"
    try:
        reports.mkdir(parents=True, exist_ok=True)
        directory = open_directory(reports, reports.resolve())
        try:
            with suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, 0o644, dir_fd=directory), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ToolError(f"The report cannot be written: {os.strerror(error.errno or 0)}.") from None
    return name


def _result(publication: Publication) -> ToolResult:
    content: list[str | EmbeddedResource] = [publication.summary]
    if publication.report is not None:
        content.append(_resource(publication.report, publication.file))
    return ToolResult(content, structured_content=publication.model_dump(mode="json"))


def _resource(text: str, file: str | None) -> EmbeddedResource:
    suffix, media_type = _TYPES["html" if text.startswith("<!doctype") else "markdown"]
    uri = f"report:///{file or f'report.{suffix}'}"
    return EmbeddedResource(uri, text, mime_type=media_type)


def _rows(table: CsvProfile) -> Iterator[list[str]]:
    for column in table.columns:
        top = next(iter(column.top_values), None)
        yield [
            _short(column.name),
            column.type,
            f"{column.nulls:,}",
            f"{'about ' if column.distinct_is_estimate else ''}{column.distinct:,}",
            _range(column),
            f"{_short(top.value)} ({top.count:,})" if top else "",
        ]


def _range(column: ColumnProfile) -> str:
    if column.minimum is None or column.maximum is None:
        return ""
    return f"{_short(str(column.minimum))} to {_short(str(column.maximum))}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _markdown_text(text: str) -> str:
    # Text from a file must not become markup.
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split()))


def _html_text(text: str) -> str:
    return html_escape(" ".join(text.split()))
