"""Pages of the documentation as a reader uses them: examples copied in order, commands typed in order."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?P<path>[\w/]+\.py)\n")
ANYTHING = "…"
"""In an output that a page shows: whatever stands there."""


class Block(NamedTuple):
    """What stands between two fences.

    Attributes:
        page: The page.
        line: Its first line in the page, from 1.
        language: As the fence says.
        text: What a reader copies.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file whose contents it is, if its first line says so: `# acme/service.py`."""
        found = _FILE.match(self.text)
        return found["path"] if found else None

    @property
    def where(self) -> str:
        """The page and the line."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page, in order; of some languages only, if any are given."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text[: match.start("text")].count("\n") + 1, match["language"], match["text"])
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def run_as_one_module(page: Path, name: str, skip: Collection[str] = (), **given: Any) -> Mapping[str, Any]:
    """Run all Python of a page in order, as one module.

    Args:
        page: The page.
        name: The module's name.
        skip: Files that the page has too, and which are other modules.
        given: What the page says that the reader has already.
    """
    module: dict[str, Any] = {"__name__": name, **given}
    for block in blocks(page, "python"):
        if block.file in skip:
            continue
        # As many empty lines before it as there are in the page, so that a traceback shows its place there.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        exec(code, module)
    return module


class Command(NamedTuple):
    """A line that a reader types."""

    where: str
    words: tuple[str, ...]


def commands(page: Path) -> list[Command]:
    """The lines of a page's shell blocks, without comments; those that a backslash ends are one."""
    return [
        Command(block.where, tuple(words))
        for block in blocks(page, "sh")
        for line in block.text.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def is_shown(output: str, shown: str) -> bool:
    """Whether an output is what a page shows of it."""
    pattern = re.escape(shown.strip()).replace(re.escape(ANYTHING), ".*")
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


class Reader:
    """Somebody who follows a page in a directory of their own, with two terminals.

    Args:
        page: The page.
        directory: Theirs.
        env: The environment of their terminals.
        changes: Texts that are others for them, such as the address of their Redis.
    """

    def __init__(
        self, page: Path, directory: Path, env: Mapping[str, str], changes: Mapping[str, str]
    ) -> None:
        self.page, self.directory, self.env, self.changes = page, directory, dict(env), changes
        self.background: list[subprocess.Popen[bytes]] = []
        self.log = directory / "terminal.log"

    def copies(self, block: Block) -> None:
        """Save a file."""
        assert block.file is not None, f"{block.where}: its first line must name its file"
        path = self.directory / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._as_theirs(block.text))

    def types(self, block: Block) -> str:
        """Type a block's commands; what they print."""
        return subprocess.run(
            ["bash", "-euc", self._as_theirs(block.text)],
            cwd=self.directory,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        ).stdout

    def starts(self, block: Block) -> None:
        """Type a command that runs until Ctrl-C, in a terminal of its own."""
        with self.log.open("ab") as log:
            self.background.append(
                subprocess.Popen(
                    ["bash", "-euc", f"exec {self._as_theirs(block.text)}"],
                    cwd=self.directory,
                    env=self.env,
                    stdout=log,
                    stderr=log,
                )
            )

    def said(self) -> str:
        """What the other terminal shows."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def has_ended(self) -> bool:
        """Whether something in the other terminal has ended by itself."""
        return any(process.poll() is not None for process in self.background)

    def ends(self) -> None:
        """Press Ctrl-C in the other terminal."""
        for process in self.background:
            process.terminate()
        for process in self.background:
            process.wait(120)

    def _as_theirs(self, text: str) -> str:
        for written, theirs in self.changes.items():
            text = text.replace(written, theirs)
        return text
