"""The deployment that ships: its tools, as front end and workers see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beat_schedule import BEAT_SCHEDULE
from tasks_service import TaskContext
from tasks_service.domain.errors import InvalidArguments
from tasks_service.domain.limits import DEFAULT_LIMITS, size
from tests.unit.recording import RecordingAttempt
from workers.app import app, service
from workers.tools.fractal.colour import Palette
from workers.tools.profile_csv import profile
from workers.tools.render_fractal import View, render

TOOLS = service.tools


def test_four_tools_ship_and_each_says_what_a_model_must_know() -> None:
    assert list(TOOLS) == ["checksum_tree", "profile_csv", "publish_report", "render_fractal"]
    for tool in TOOLS.values():
        assert len(tool.definition.description) > 100
        assert tool.definition.annotations is not None
        assert tool.definition.annotations["readOnlyHint"] is (tool.name != "publish_report")
        assert tool.definition.output_schema is not None
        assert all(
            "description" in argument for argument in tool.definition.input_schema["properties"].values()
        )


def test_celery_finds_the_app_with_the_schedule_and_the_tools() -> None:
    assert app is service.celery
    assert app.conf.beat_schedule == BEAT_SCHEDULE
    assert set(TOOLS) <= set(app.tasks)
    for entry in BEAT_SCHEDULE.values():
        assert app.tasks[entry["task"]].run.__doc__, "each says what it does"


@pytest.mark.parametrize(
    ("tool", "arguments", "field"),
    [
        ("render_fractal", {"width": 4096}, "width"),
        ("render_fractal", {"palette": "beige"}, "palette"),
        ("render_fractal", {"scale": 0}, "scale"),
        ("checksum_tree", {"algorithm": "crc32"}, "algorithm"),
        ("checksum_tree", {"pattern": ""}, "pattern"),
        ("profile_csv", {}, "path"),
    ],
)
def test_arguments_that_cannot_work_are_refused_by_name(
    tool: str, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        TOOLS[tool].check_arguments(arguments)

    assert [path for path, _ in refusal.value.problems] == [field]


@pytest.mark.parametrize("filler", ["w", "\N{GRINNING FACE}", "\x01", "\\"])
def test_the_profile_of_a_very_wide_and_wordy_table_fits_into_a_result(tmp_path: Path, filler: str) -> None:
    rows = [[f"{row % 40} {column} " + filler * 100 for column in range(300)] for row in range(80)]
    (tmp_path / "wide.csv").write_text("\n".join(",".join(row) for row in rows))
    table = profile(tmp_path, "wide.csv", TaskContext(RecordingAttempt()))
    rendered = TOOLS["profile_csv"].render(table)

    assert size(rendered.result) < DEFAULT_LIMITS.result_bytes


def test_a_picture_becomes_image_content_and_a_summary() -> None:
    view = View(width=64, height=48, center=-0.6 + 0j, scale=3.4, max_iterations=50)
    rendered = TOOLS["render_fractal"].render(render(view, Palette.EMBER, TaskContext(RecordingAttempt())))
    result = json.loads(rendered.result)

    assert [block["type"] for block in result["content"]] == ["text", "image"]
    assert result["structuredContent"]["width"] == 64
