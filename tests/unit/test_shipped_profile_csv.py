"""`profile_csv`: what is said of a table, and what becomes of files that are none."""

from __future__ import annotations

import random
import statistics
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest

from tasks_service import TaskCancelled, TaskContext, ToolError
from tests.kit.waiting import quickest
from tests.unit.recording import RecordingAttempt
from workers.tools import profile_csv
from workers.tools.csv_profile import source
from workers.tools.csv_profile.report import ColumnProfile, CsvProfile
from workers.tools.profile_csv import profile


def profile_of(directory: Path, content: str | bytes, *, header: bool | None = None) -> CsvProfile:
    data = content.encode() if isinstance(content, str) else content
    (directory / "table.csv").write_bytes(data)
    return profile(directory, "table.csv", TaskContext(RecordingAttempt()), header=header)


def column_of(directory: Path, *cells: str) -> ColumnProfile:
    return profile_of(directory, "\n".join(["name,x", *(f"{cell},-" for cell in cells)])).columns[0]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", "+3", " 4 "], "integer"),
        (["1", "2.5"], "number"),
        (["1e3", "-.5", "7."], "number"),
        (["01099", "20095"], "text"),
        (["0", "0.5"], "number"),
        (["1_000"], "text"),
        (["1e999"], "text"),
        (["9" * 400], "text"),
        (["true", "No", "YES"], "boolean"),
        (["2024-02-29", "1999-12-31"], "date"),
        (["2023-02-29"], "text"),
        (["2024-02-29", "2024-02-29T10:00"], "datetime"),
        (["2024-02-29 10:00:00.5", "2024-02-29T10:00:00Z", "2024-02-29T10:00+02:00"], "datetime"),
        (["inf"], "text"),
        (["-"], "text"),
        (["1", "x"], "text"),
        (["", "NA", "null", "NaN"], "empty"),
    ],
)
def test_a_column_has_the_narrowest_type_that_fits_all_its_values(
    tmp_path: Path, cells: list[str], kind: str
) -> None:
    assert column_of(tmp_path, *cells).type == kind


def test_nulls_are_counted_and_are_no_values(tmp_path: Path) -> None:
    column = column_of(tmp_path, "1", "", "NA", "3", "null", "1")

    assert (column.type, column.nulls, column.distinct) == ("integer", 3, 2)
    assert (column.minimum, column.maximum) == (1, 3)
    assert column.mean == pytest.approx(5 / 3)


def test_the_statistics_of_numbers_are_those_of_the_whole_column(tmp_path: Path) -> None:
    values = [random.Random(5).gauss(100, 15) for _ in range(3000)]
    column = column_of(tmp_path, *(f"{value!r}" for value in values))

    assert column.mean == pytest.approx(statistics.fmean(values))
    assert column.standard_deviation == pytest.approx(statistics.stdev(values))
    assert (column.minimum, column.maximum) == (min(values), max(values))
    assert column.quantile_rank_error == 0
    assert {quantile.fraction: quantile.value for quantile in column.quantiles}[0.5] == sorted(values)[1499]


def test_integers_beyond_floating_point_keep_every_digit_in_the_extremes(tmp_path: Path) -> None:
    column = column_of(tmp_path, "9007199254740993", "-9007199254740993")

    assert (column.minimum, column.maximum) == (-9007199254740993, 9007199254740993)


def test_dates_have_quantiles_that_are_dates(tmp_path: Path) -> None:
    column = column_of(tmp_path, "2024-01-03", "2024-01-01", "2024-01-02")

    assert (column.minimum, column.maximum, column.mean) == ("2024-01-01", "2024-01-03", None)
    assert {quantile.fraction: quantile.value for quantile in column.quantiles}[0.5] == "2024-01-02"


def test_times_with_zones_are_compared_in_utc(tmp_path: Path) -> None:
    column = column_of(tmp_path, "2024-01-01T00:30:00+02:00", "2023-12-31T23:00:00Z")

    assert (column.minimum, column.maximum) == ("2023-12-31T22:30:00", "2023-12-31T23:00:00")


def test_top_values_come_most_frequent_first_and_only_if_they_repeat(tmp_path: Path) -> None:
    column = column_of(tmp_path, "b", "a", "c", "b", "a", "b")

    assert [(top.value, top.count) for top in column.top_values] == [("b", 3), ("a", 2)]
    assert column.top_values_error == 0


def test_the_value_that_spoils_a_column_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [str(row) for row in range(50_000)]  # more than one block
    rows[39_999] = "unknown"
    column = column_of(tmp_path, *rows)

    assert column.type == "text"
    assert column.widened == "integer until row 40000: 'unknown'"
    assert (column.minimum, column.maximum) == ("0", "unknown")
    assert not column.quantiles


def test_long_texts_are_cut(tmp_path: Path) -> None:
    column = column_of(tmp_path, "y" * 5000, "y" * 5000, "x" * 3)

    assert (column.shortest, column.longest) == (3, 5000)
    assert [len(top.value) for top in column.top_values] == [100]
    assert len(str(column.maximum)) == 100


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    lines = ["name;kind".replace(";", delimiter), *(f'"a,b;c|d"{delimiter}{n}' for n in range(20))]
    table = profile_of(tmp_path, "\n".join(lines))

    assert (table.delimiter, [column.name for column in table.columns]) == (delimiter, ["name", "kind"])


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_newline_ends_a_row(tmp_path: Path, newline: str) -> None:
    assert profile_of(tmp_path, newline.join(["a,b", "1,2", "3,4", ""])).rows == 2


def test_a_quoted_field_may_hold_delimiters_quotes_and_newlines(tmp_path: Path) -> None:
    table = profile_of(tmp_path, 'text,n\n"one\ntwo, ""three""",1\n"one\ntwo, ""three""",2\n')

    assert (table.rows, table.malformed_rows) == (2, 0)
    assert table.columns[0].top_values[0].value == 'one\ntwo, "three"'


def test_the_first_row_names_the_columns_unless_it_looks_like_data(tmp_path: Path) -> None:
    assert not profile_of(tmp_path, "a,1\nb,2\n").has_header
    assert [column.name for column in profile_of(tmp_path, "a,1\nb,2\n").columns] == ["column_1", "column_2"]
    assert profile_of(tmp_path, "a,b\nc,d\n").has_header
    assert profile_of(tmp_path, "a,b\nc,d\n", header=False).rows == 2
    assert profile_of(tmp_path, "2023,2024\n1,2\n", header=True).columns[0].name == "2023"


def test_malformed_rows_are_counted_and_described_but_not_fatal(tmp_path: Path) -> None:
    huge = "z" * 200_000
    table = profile_of(tmp_path, f'a,b\n1,2\n3\n\n4,5,6\n"{huge}",7\n8,9\n')

    assert (table.rows, table.malformed_rows, table.blank_lines) == (2, 3, 1)
    assert table.problems[:2] == ["line 3: 1 fields, expected 2", "line 5: 3 fields, expected 2"]
    assert table.columns[1].maximum == 9


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    table = profile_of(tmp_path, b"\xef\xbb\xbfname,n\nx,1\n")

    assert (table.encoding, table.columns[0].name) == ("utf-8-sig", "name")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        ("name,n\nx,1".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"PK\x03\x04rest", "Excel"),
        (b"a,b\n1,\0", "binary"),
        ("a,b\ncaf\xe9,1\n".encode("latin-1"), "not UTF-8.*byte 7"),
        (b"a,b\n" + b"x,1\n" * 100_000 + b"\xff\n", "not UTF-8.*byte 400004"),
        (b"a,b\n" + b"x" * 9_000_000, "no CSV file"),
    ],
)
def test_a_file_that_is_no_csv_in_utf8_is_refused_with_what_it_is(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    with pytest.raises(ToolError, match=sentence):
        profile_of(tmp_path, content)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="not a file"):
        profile(tmp_path, ".", TaskContext(RecordingAttempt()))


def test_progress_counts_the_bytes_of_the_file_and_ends_at_its_size(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n" + "some text,12345\n" * 100_000)
    attempt = RecordingAttempt()
    table = profile(tmp_path, "table.csv", TaskContext(attempt))
    done = [report.current for report in attempt.reports]

    assert len(done) > 3
    assert done == sorted(done)
    assert done[-1] == table.size_bytes == (tmp_path / "table.csv").stat().st_size
    assert attempt.reports[-1].message == "100,000 rows profiled"


def test_a_cancelled_profile_stops_at_the_next_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n" + "some text,12345\n" * 300_000)

    def longest_pause() -> float:
        attempt = RecordingAttempt(cancel_when=lambda attempt: len(attempt.reports) == 3)
        with pytest.raises(TaskCancelled):
            profile(tmp_path, "table.csv", TaskContext(attempt))
        assert attempt.reports[-1].current < 2_000_000
        return max(later - earlier for earlier, later in pairwise(attempt.checkpoints))

    assert quickest(longest_pause, 1) < 1


def peak_bytes(directory: Path, rows: int) -> int:
    """What profiling a file takes at most, in a process in which nothing else allocates.

    The buffers are an eighth of what they are, so that a small file fills them.
    """
    profile_csv.MAX_CAPACITY //= 8
    source.BLOCK //= 8
    lines = (f"{row},{row * 7919 % 10_007},name {row}\n" for row in range(rows))
    (directory / "table.csv").write_text("a,b,c\n" + "".join(lines))
    tracemalloc.start()
    profile(directory, "table.csv", TaskContext(RecordingAttempt()))
    return tracemalloc.get_traced_memory()[1]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        small, large = (processes.submit(peak_bytes, tmp_path, rows).result() for rows in (8_000, 32_000))
    assert large < 1.2 * small


def test_the_same_file_gives_the_same_profile(tmp_path: Path) -> None:
    content = "a,b\n" + "".join(f"{row},{row % 9000}\n" for row in range(20_000))

    assert profile_of(tmp_path, content) == profile_of(tmp_path, content)


def test_a_very_wide_table_is_profiled_in_part(tmp_path: Path) -> None:
    wide = ",".join(f"c{n}" for n in range(1000)) + "\n" + ",".join(str(n) for n in range(1000)) + "\n"
    table = profile_of(tmp_path, wide)

    assert (table.columns_total, len(table.columns)) == (1000, 256)
    assert len(table.model_dump_json()) < 500_000
