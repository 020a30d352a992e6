"""The processes that make a service, as a Procfile lists them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from ..domain.errors import ConfigurationError

#: The process list for an author's own service; the repository's `Procfile` is this with its own names.
DEFAULT_PROCFILE = Template("""\
web: tasks-service serve --app $app
worker: celery -A $celery_app worker --task-events --without-mingle --without-gossip
beat: celery -A $celery_app beat --scheduler celery.beat:Scheduler --enable-remote-control
flower: celery -A $celery_app flower --address=$${FLOWER_ADDRESS:-127.0.0.1} --read_only
""")

#: The order in which processes are told to stop: first those that bring in work, then those that do it.
STOP_ORDER = ("web", "beat", "worker", "flower")

#: Seconds that a process may take to stop before it is killed; a worker drains its tools.
STOP_SECONDS: Mapping[str, float] = {"web": 15.0, "worker": 30.0}
DEFAULT_STOP_SECONDS = 10.0

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One line of a Procfile.

    Attributes:
        name: Shown in front of its output.
        command: A shell command.
    """

    name: str
    command: str

    @property
    def arguments(self) -> list[str]:
        """The command as a program and its arguments: the shell replaces itself by it."""
        return ["/bin/sh", "-c", f"exec {self.command}"]

    @property
    def stop_seconds(self) -> float:
        """How long it may take to stop."""
        return STOP_SECONDS.get(_kind(self.name), DEFAULT_STOP_SECONDS)


def parse_procfile(text: str) -> list[ProcessSpec]:
    """Read a Procfile: one `name: command` a line, `#` comments.

    Raises:
        ConfigurationError: A line is something else, or a name comes twice; says which.
    """
    found: dict[str, ProcessSpec] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or match[1] in found:
            raise ConfigurationError(
                f"Procfile, line {number}: expected a new `name: command`, found {line!r}"
            )
        found[match[1]] = ProcessSpec(name=match[1], command=match[2])
    return list(found.values())


def stop_rank(name: str) -> int:
    """When a process is stopped: smaller is earlier."""
    kind = _kind(name)
    return STOP_ORDER.index(kind) if kind in STOP_ORDER else len(STOP_ORDER)


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of the processes: ours, the commands beside our Python, and some changes."""
    own_commands = str(Path(sys.executable).parent)
    path = os.pathsep.join([own_commands, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **changes}


def _kind(name: str) -> str:
    """`worker-2` is a worker."""
    return name.partition("-")[0]
