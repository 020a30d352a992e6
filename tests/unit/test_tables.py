"""Tables of commands: nothing is cut off where there is no terminal."""

from __future__ import annotations

import pytest
from rich.table import Table

from tasks_service.cli.tables import age, print_table


@pytest.mark.parametrize("expand", [False, True])
def test_a_pipe_gets_every_cell_whole_and_no_padding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, expand: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table(box=None, pad_edge=False, expand=expand)
    for name in ("worker", "queues"):
        table.add_column(name, no_wrap=True)
    table.add_row("celery@" + "x" * 60, "tasks, " * 20 + "end")

    print_table(table)

    header, row = capsys.readouterr().out.splitlines()
    assert row.split()[0] == "celery@" + "x" * 60 and row.rstrip().endswith("end")
    assert len(header.rstrip()) < len(row) < 300


@pytest.mark.parametrize(
    ("age_ms", "told"),
    [(-5, "0 s"), (59_999, "59 s"), (60_000, "1 min"), (7_200_000, "2 h"), (200_000_000, "2 d")],
)
def test_an_age_is_told_in_its_largest_unit(age_ms: int, told: str) -> None:
    assert age(age_ms) == told
