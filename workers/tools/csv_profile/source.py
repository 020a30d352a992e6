"""The reading of a CSV file's rows in bounded memory; finds out encoding, delimiter and header."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks_service import ToolError

from .values import looks_typed

BLOCK = 256 * 1024
"""Bytes that are read at a time: a batch of rows, between two checkpoints."""

LONGEST_LINE = 8 * 1024 * 1024
"""Most characters of one line; a file with longer lines is hardly CSV, and would need too much memory."""

DELIMITERS = (",", ";", "\t", "|")
"""The delimiters that are tried; of equally good ones, the first is taken."""

SHOWN_PROBLEMS = 5
"""Most malformed rows that are described; all are counted."""

_SIGNATURES = {
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "encoded as UTF-16",
    b"\xfe\xff": "encoded as UTF-16",
    b"%PDF": "a PDF document",
}


@dataclass(slots=True)
class Batch:
    """Rows of the right width.

    Attributes:
        rows: The rows, each as long as the header.
        first_row: The number of the first, among the rows of data, from 1.
    """

    rows: list[list[str]]
    first_row: int


@dataclass(slots=True)
class Tally:
    """The counts of what was read so far.

    Attributes:
        bytes_read: Bytes.
        rows: Rows of data.
        malformed: Rows that were left out because of their width or quotes.
        blank: Empty lines, which are no rows.
        problems: The first malformed rows: where, and what is wrong.
    """

    bytes_read: int = 0
    rows: int = 0
    malformed: int = 0
    blank: int = 0
    problems: list[str] = field(default_factory=list)

    def refuse(self, line: int, problem: str) -> None:
        """Count a malformed row."""
        self.malformed += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(f"line {line}: {problem}")


class CsvSource:
    """A CSV file that is being read.

    Args:
        file: The file, open for reading, unbuffered, at its beginning; stays open.
        name: The file's name for the client.
        header: Whether the first row names the columns; None: find out.

    Raises:
        ToolError: The file is empty, is not CSV, or is not UTF-8; the message says what it seems to be.
    """

    def __init__(self, file: io.FileIO, name: str, *, header: bool | None = None) -> None:
        self._file, self._name = file, name
        self.tally = Tally()
        self._blocks = self._decoded_blocks()
        self._first = next(self._blocks, "")
        if not self._first.strip():
            raise ToolError(f"{name!r} is empty.")
        self.delimiter = _find_delimiter(self._first)
        self._reader = csv.reader(self._lines(), delimiter=self.delimiter)
        first_row = self._first_row()
        self.has_header = not any(map(looks_typed, first_row)) if header is None else header
        self._pushed_back = [] if self.has_header else [first_row]
        self.columns = (
            [cell.strip() or f"column_{n}" for n, cell in enumerate(first_row, start=1)]
            if self.has_header
            else [f"column_{n}" for n in range(1, len(first_row) + 1)]
        )

    @property
    def encoding(self) -> str:
        """The encoding: `utf-8`, or `utf-8-sig` if the file starts with a byte order mark."""
        return self._encoding

    def batches(self) -> Iterator[Batch]:
        """The rows of the file, about `BLOCK` bytes at a time.

        Raises:
            ToolError: Something in the file is not UTF-8, or a line is longer than `LONGEST_LINE`.
        """
        for rows in self._batches_of_any_width():
            width = len(self.columns)
            good = [row for _, row in rows if len(row) == width]
            if len(good) < len(rows):
                self._count_others(rows)
            self.tally.rows += len(good)
            yield Batch(good, self.tally.rows - len(good) + 1)

    def _batches_of_any_width(self) -> Iterator[list[tuple[int, list[str]]]]:
        reader = self._reader
        rows = [(1, row) for row in self._pushed_back]
        read = self.tally.bytes_read
        while True:
            try:
                for row in reader:
                    rows.append((reader.line_num, row))
                    if self.tally.bytes_read != read:
                        read = self.tally.bytes_read
                        yield rows
                        rows = []
                break
            except csv.Error as error:
                yield rows
                rows = []
                self.tally.refuse(reader.line_num, str(error))
        yield rows

    def _count_others(self, rows: list[tuple[int, list[str]]]) -> None:
        width = len(self.columns)
        for line, row in rows:
            if not row:
                self.tally.blank += 1
            elif len(row) != width:
                self.tally.refuse(line, f"{len(row)} fields, expected {width}")

    def _first_row(self) -> list[str]:
        while True:
            try:
                for row in self._reader:
                    if row:
                        return row
                    self.tally.blank += 1
                raise ToolError(f"{self._name!r} has no rows.")
            except csv.Error as error:
                self.tally.refuse(self._reader.line_num, str(error))

    def _lines(self) -> Iterator[str]:
        rest = ""
        block: str | None = self._first
        self._first = ""
        while block is not None:
            lines = (rest + block).split("\n")
            rest = lines.pop()
            if len(rest) > LONGEST_LINE:
                raise ToolError(
                    f"{self._name!r} has a line of more than {LONGEST_LINE} characters: it is no CSV file."
                )
            for line in lines:
                # The reader keeps the line's end if it is inside a quoted field.
                yield line + "\n"
            block = next(self._blocks, None)
        if rest:
            yield rest

    def _decoded_blocks(self) -> Iterator[str]:
        block = self._file.read(BLOCK) or b""
        self._check_signature(block)
        self._encoding = "utf-8-sig" if block.startswith(codecs.BOM_UTF8) else "utf-8"
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(self._encoding)(), translate=True)
        while True:
            read = self.tally.bytes_read
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise self._not_utf8(read, error) from None
            self.tally.bytes_read += len(block)
            if text:
                yield text
            if not block:
                return
            block = self._file.read(BLOCK) or b""

    def _check_signature(self, block: bytes) -> None:
        for signature, kind in _SIGNATURES.items():
            if block.startswith(signature):
                raise ToolError(
                    f"{self._name!r} is {kind}. Only CSV text in UTF-8 can be profiled; convert it first."
                )
        if b"\0" in block:
            raise ToolError(f"{self._name!r} is a binary file, not CSV text.")

    def _not_utf8(self, read: int, error: UnicodeDecodeError) -> ToolError:
        return ToolError(
            f"{self._name!r} is not UTF-8: there is an invalid byte at or shortly before byte "
            f"{read + error.start}. Convert it first (for example with `iconv -f WINDOWS-1252 -t UTF-8`)."
        )


def _find_delimiter(text: str) -> str:
    sample = text[: 64 * 1024]
    lines = sample.split("\n")
    whole = lines[:-1] or lines
    return max(DELIMITERS, key=lambda delimiter: _regularity(whole, delimiter))


def _regularity(lines: list[str], delimiter: str) -> tuple[float, int]:
    widths: Counter[int] = Counter()
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
    while True:
        try:
            widths.update(len(row) for row in reader if row)
            break
        except csv.Error:
            continue
    widths_of_tables = Counter({width: n for width, n in widths.items() if width > 1})
    if not widths_of_tables:
        return (0.0, 0)
    width, n = widths_of_tables.most_common(1)[0]
    return (n / widths.total(), width)
