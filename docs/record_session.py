"""Record the session of the README: two real terminals, a worker that is killed, as an animated SVG.

    make recording

In one terminal `tasks-service up` runs the README's example, in the other its tool is called; while it runs,
its worker gets SIGKILL. What the terminals show is read from them as it comes. Pauses, in which nothing
changes but a spinner and a clock, are cut to `LONGEST_PAUSE`; nothing else is touched. Needs `pyte`, a
terminal emulator, which `make recording` installs.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyte

from tasks_service.local.ports import free_port

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs/session.svg"
EXAMPLE = re.compile(r"^```python\n(# studio\.py\n.*?)^```$", re.MULTILINE | re.DOTALL)

COLUMNS, ROWS, LOG_ROWS = 98, 32, 8
#: Seconds for which nothing may change in the recording, and for which its end stays.
LONGEST_PAUSE, LAST_PAUSE = 1.2, 4.0
#: What changes meanwhile.
IDLE = re.compile(r"[\u2800-\u28ff]|\d:\d\d:\d\d")
#: Seconds for which a frame is seen, at least.
SHORTEST_FRAME = 0.12
TYPING_SECONDS = 0.04
#: Seconds until the recording fails.
PATIENCE = 120.0

CELL_WIDTH, LINE_HEIGHT, FONT_SIZE, MARGIN, TITLE = 8.0, 17.0, 13.0, 12.0, 24.0
COLOURS = {
    "default": "#d7dae0",
    "black": "#5c6370",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#ffffff",
}

Row = tuple["Run", ...]


class Run(NamedTuple):
    """Characters of one row that look alike."""

    column: int
    text: str
    colour: str
    bold: bool


class Frame(NamedTuple):
    """What all terminals show from a moment on."""

    at: float
    rows: tuple[Row, ...]


@dataclass
class Terminal:
    """A process in a terminal of its own, and what the terminal shows."""

    rows: int
    command: Sequence[str]
    directory: Path
    env: dict[str, str]
    descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        self.screen = pyte.Screen(COLUMNS, self.rows)
        self._stream = pyte.ByteStream(self.screen)
        self.descriptor, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            self.command,
            cwd=self.directory,
            env=self.env,
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(there)

    def read(self) -> None:
        """Show what has come."""
        self._stream.feed(os.read(self.descriptor, 65536))

    def shows(self, text: str) -> bool:
        """Whether a text is in sight."""
        return any(text in line for line in self.screen.display)

    def is_at_prompt(self) -> bool:
        """Whether its shell waits for a command."""
        return [line.strip() for line in self.screen.display if line.strip()][-1:] == ["$"]

    def picture(self) -> tuple[Row, ...]:
        """Its rows."""
        return tuple(_runs(self.screen.buffer[row]) for row in range(self.rows))


def _runs(cells: dict[int, pyte.screens.Char]) -> Row:
    found: list[Run] = []
    for column in range(COLUMNS):
        char = cells[column]
        colour = COLOURS.get(
            char.fg, f"#{char.fg}" if re.fullmatch("[0-9a-f]{6}", char.fg) else COLOURS["default"]
        )
        if found and (found[-1].colour, found[-1].bold) == (colour, char.bold):
            found[-1] = found[-1]._replace(text=found[-1].text + char.data)
        else:
            found.append(Run(column, char.data, colour, char.bold))
    return tuple(run for run in found if run.text.strip())


@dataclass
class Recording:
    """Terminals, and what they have shown when."""

    terminals: Sequence[Terminal]
    frames: list[Frame] = field(default_factory=list)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Record until something is the case."""
        give_up = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what} did not come; the terminals show:\n{self._text()}")
            self._step(0.05)

    def for_seconds(self, seconds: float) -> None:
        """Record for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "the time")

    def types(self, terminal: Terminal, line: str) -> None:
        """Type a line, and record it."""
        for character in line:
            os.write(terminal.descriptor, character.encode())
            self.for_seconds(TYPING_SECONDS)
        self.for_seconds(0.4)
        os.write(terminal.descriptor, b"\n")

    def _step(self, seconds: float) -> None:
        descriptors = [terminal.descriptor for terminal in self.terminals]
        ready, _, _ = select.select(descriptors, [], [], seconds)
        for terminal in self.terminals:
            if terminal.descriptor in ready:
                terminal.read()
        rows = tuple(row for terminal in self.terminals for row in terminal.picture())
        if not self.frames or self.frames[-1].rows != rows:
            self.frames.append(Frame(time.monotonic(), rows))

    def _text(self) -> str:
        return "\n".join(line for terminal in self.terminals for line in terminal.screen.display)


def record(directory: Path) -> list[Frame]:
    """Play the session in an empty directory; what the terminals have shown."""
    found = EXAMPLE.search((ROOT / "README.md").read_text(encoding="utf-8"))
    if found is None:
        raise LookupError("README.md has no example that begins with `# studio.py`")
    (directory / "studio.py").write_text(found[1], encoding="utf-8")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("TASKS_", "FLOWER_"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TASKS_DATA_DIR": str(directory / "data"),
        "TASKS_PORT": str(free_port()),
        "FLOWER_PORT": str(free_port()),
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "PYTHONWARNINGS": "ignore",
        "PS1": "$ ",
    }
    shell = Terminal(ROWS, ["bash", "--norc", "--noprofile"], directory, env)
    log = Terminal(LOG_ROWS, ["tasks-service", "up", "--app", "studio"], directory, env)
    recording = Recording([shell, log])
    try:
        recording.until(lambda: log.shows("ready: Flower"), "the service")
        recording.until(shell.is_at_prompt, "the prompt")
        recording.frames.clear()
        recording.for_seconds(0.5)
        recording.types(shell, "cat studio.py")
        recording.until(shell.is_at_prompt, "the end of the file")
        recording.for_seconds(2.0)
        recording.types(shell, "tasks-service call render --arg scene=kitchen")
        recording.until(lambda: shell.shows("37%") or shell.shows("50%"), "progress")
        os.kill(_worker(directory), signal.SIGKILL)
        recording.until(shell.is_at_prompt, "the result")
        recording.for_seconds(1.0)
        recording.types(shell, "tasks-service list")
        recording.until(lambda: shell.shows("completed") and shell.is_at_prompt(), "the list")
        recording.for_seconds(0.5)
    finally:
        log.process.terminate()
        with contextlib.suppress(OSError):
            while log.process.poll() is None:
                log.read()
        shell.process.kill()
        shell.process.wait()
    return recording.frames


def _worker(directory: Path) -> int:
    """The main process of the worker."""
    mark = f"TASKS_DATA_DIR={directory / 'data'}".encode()
    found = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and mark in _content(entry / "environ") and _is_worker(entry / "cmdline")
    ]
    return min(found)


def _is_worker(command: Path) -> bool:
    words = _content(command)
    return b"worker" in words and any(word.endswith(b"/celery") for word in words[1:2])


def _content(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []


def shortened(frames: Sequence[Frame]) -> list[Frame]:
    """The frames from 0 on, without long pauses and without those that nobody would see."""
    at, idle, found = 0.0, 0.0, list[Frame]()
    for before, frame in pairwise([frames[0], *frames]):
        passed = frame.at - before.at
        idle = idle + passed if _content_of(frame) == _content_of(before) else 0.0
        if idle > LONGEST_PAUSE:
            continue
        at += min(passed, LONGEST_PAUSE)
        if found and at - found[-1].at < SHORTEST_FRAME:
            found.pop()
        found.append(Frame(round(at, 2), frame.rows))
    return found


def _content_of(frame: Frame) -> list[str]:
    return [IDLE.sub("", "".join(run.text for run in row)) for row in frame.rows]


def svg(frames: Sequence[Frame], still: float | None = None) -> str:
    """The recording as an SVG: each row as often as it changes, shown while it is so.

    What cannot animate, and whoever prefers no motion, sees the end.

    Args:
        frames: From `shortened`.
        still: Show only this moment, in seconds.
    """
    total = frames[-1].at + LAST_PAUSE
    width = COLUMNS * CELL_WIDTH + 2 * MARGIN
    height = (ROWS + LOG_ROWS) * LINE_HEIGHT + 2 * TITLE + 3 * MARGIN
    styles: dict[tuple[float, float], str] = {}
    body: list[str] = []
    for row in range(ROWS + LOG_ROWS):
        for begin, end, runs in _spans(frames, row, total):
            if not runs:
                continue
            if still is not None:
                if begin <= still < end:
                    body.append(_row(row, runs, ""))
                continue
            name = "" if (begin, end) == (0.0, total) else styles.setdefault((begin, end), f"k{len(styles)}")
            body.append(_row(row, runs, name))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f"font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" "
            f'font-size="{FONT_SIZE:g}" fill="{COLOURS["default"]}">',
            "<title>A tool is called, its worker is killed, and a new one finishes the call</title>",
            f"<style>{''.join(_style(begin, end, total, name) for (begin, end), name in styles.items())}"
            "@media(prefers-reduced-motion:reduce){*{animation:none!important}}</style>",
            *_panes(width),
            *body,
            "</svg>\n",
        ]
    )


def _spans(frames: Sequence[Frame], row: int, total: float) -> Iterator[tuple[float, float, Row]]:
    begin, shown = frames[0].at, frames[0].rows[row]
    for frame in frames[1:]:
        if frame.rows[row] != shown:
            yield begin, frame.at, shown
            begin, shown = frame.at, frame.rows[row]
    yield begin, total, shown


def _style(begin: float, end: float, total: float, name: str) -> str:
    hidden, shown = "{visibility:hidden}", "{visibility:visible}"
    last = f"{100 * end / total:.2f}%{hidden}" if end < total else ""
    rest = "" if end < total else "visible"
    return (
        f"@keyframes {name}{{0%{hidden}{100 * begin / total:.2f}%{shown}{last}}}"
        f".{name}{{visibility:{rest or 'hidden'};animation:{name} {total:.2f}s step-end infinite}}"
    )


def _panes(width: float) -> Iterator[str]:
    top = 0.0
    for title, rows in (("a client", ROWS), ("tasks-service up --app studio", LOG_ROWS)):
        height = TITLE + rows * LINE_HEIGHT + MARGIN
        yield f'<rect y="{top:g}" width="{width:g}" height="{height:g}" rx="8" fill="#21252b"/>'
        yield f'<text x="{width / 2:g}" y="{top + 16:g}" text-anchor="middle" fill="#7f848e">{title}</text>'
        top += height + MARGIN


def _row(row: int, runs: Row, name: str) -> str:
    top = TITLE if row < ROWS else 2 * TITLE + 2 * MARGIN
    y = top + (row + 1) * LINE_HEIGHT - 4
    spans = "".join(
        f'<tspan x="{MARGIN + run.column * CELL_WIDTH:g}" '
        f'textLength="{len(run.text.rstrip()) * CELL_WIDTH:g}"'
        + (f' fill="{run.colour}"' if run.colour != COLOURS["default"] else "")
        + (' font-weight="bold"' if run.bold else "")
        + f">{escape(run.text.rstrip(), quote=False)}</tspan>"
        for run in runs
    )
    marked = f' class="{name}"' if name else ""
    return f'<text{marked} y="{y:g}" xml:space="preserve">{spans}</text>'


def main() -> None:
    """Record the session, and write the SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stills", type=Path, help="Also write an SVG of every second, to look at, into it.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="studio-") as directory:
        frames = shortened(record(Path(directory)))
    OUTPUT.write_text(svg(frames), encoding="utf-8")
    if arguments.stills is not None:
        arguments.stills.mkdir(parents=True, exist_ok=True)
        for second in range(int(frames[-1].at) + 1):
            (arguments.stills / f"{second:03}.svg").write_text(svg(frames, second), encoding="utf-8")


if __name__ == "__main__":
    main()
