"""The processes of a service, as a Procfile lists them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from ..domain.errors import ConfigurationError

#: The processes of an author's own service; the repository's `Procfile` has the same, with its own names.
DEFAULT_PROCFILE = Template("""\
web: tasks-service serve --app $app
worker: celery -A $celery_app worker --task-events --without-mingle --without-gossip$worker_options
beat: celery -A $celery_app beat --scheduler $scheduler --enable-remote-control
flower: celery -A $celery_app flower --address=$${FLOWER_ADDRESS:-127.0.0.1} --read_only
""")

#: The scheduler of beat: Celery's own, which keeps no file.
DEFAULT_SCHEDULER = "celery.beat:Scheduler"

#: The order in which processes are stopped: first those that create work, then those that do it.
STOP_ORDER = ("web", "beat", "worker", "flower")

#: Seconds that a process may take to stop before it is killed; a worker lets its tools finish.
STOP_SECONDS: Mapping[str, float] = {"web": 15.0, "worker": 30.0}
DEFAULT_STOP_SECONDS = 10.0

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One line of a Procfile.

    Attributes:
        name: The name, printed in front of its output.
        command: The shell command.
    """

    name: str
    command: str

    @property
    def arguments(self) -> list[str]:
        """The program and arguments that run the command, with `exec` so that no shell stays."""
        return ["/bin/sh", "-c", f"exec {self.command}"]

    @property
    def runs_code(self) -> bool:
        """Whether it runs the author's code, and not only looks at those that do."""
        return _kind(self.name) != "flower"

    @property
    def stop_seconds(self) -> float:
        """Seconds that it may take to stop."""
        return STOP_SECONDS.get(_kind(self.name), DEFAULT_STOP_SECONDS)


def parse_procfile(text: str) -> list[ProcessSpec]:
    """Parse a Procfile: lines of `name: command`, and `#` comments.

    Raises:
        ConfigurationError: A line is neither, or a name comes twice; the message shows the line.
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
    """The rank of a process in the order of stopping; smaller is earlier."""
    kind = _kind(name)
    return STOP_ORDER.index(kind) if kind in STOP_ORDER else len(STOP_ORDER)


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of the processes: ours, with the directory of our Python on PATH, and changes."""
    own_commands = str(Path(sys.executable).parent)
    path = os.pathsep.join([own_commands, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **changes}


def _kind(name: str) -> str:
    """The kind of a process: that of `worker-2` is `worker`."""
    return name.partition("-")[0]
