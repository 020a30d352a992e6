"""Releases to upgrade from and to, as directories with their code, and processes that run them."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.kit.servers import free_port
from tests.kit.workers import ProcessContainer

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).with_name("baseline")
"""Names the commit of the oldest release that today's must run beside."""


class NoBaseline(AssertionError):
    """The code of the baseline cannot be had here, so that nothing about upgrades can be said."""


def baseline(directory: Path) -> Path:
    """The oldest supported release.

    Raises:
        NoBaseline: Git, or the commit, is missing.
    """
    commit = BASELINE.read_text().strip()
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "tasks_service"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        raise NoBaseline(
            f"The code of commit {commit} (tests/upgrade/baseline) is needed and cannot be read: "
            f"{said.decode().strip()}. Fetch the whole history (git fetch --unshallow; fetch-depth: 0 in CI)."
        ) from error
    tree = directory / "baseline"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tree, filter="data")
    return tree


def today(directory: Path) -> Path:
    """The code as it is in the working tree."""
    return _copied(directory / "today")


def next_release(directory: Path) -> Path:
    """What a next release may do to a record: a field more, one renamed, one gone.

    It reads schema version 2, and writes 1, which today's release reads.
    """
    tree = _copied(directory / "next")
    _more(tree)
    _renamed(tree)
    _gone(tree)
    return tree


def release_after_next(directory: Path) -> Path:
    """The same, but it writes schema version 2, which the next release reads."""
    tree = next_release(directory / "made").rename(directory / "after")
    _replace(tree, "tasks_service/store/redis/schema.py", "], written=1)", "])")
    return tree


def _copied(tree: Path) -> Path:
    for part in ("tasks_service", "tests"):
        shutil.copytree(
            ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
        )
    return tree


SCHEMA = "tasks_service/store/redis/schema.py"
TASK = "tasks_service/domain/task.py"
DECIDE = "tasks_service/domain/decide.py"
IN_TASK, IN_DECIDE = '    trace: str = ""\n', "        trace=event.trace,\n"
IN_SCHEMA = '        Field("trace", "trace", ""),\n'
VERSIONS = """
from .documents import Step


def _moved(stored, old, new):
    if old in stored:
        stored[new] = stored.pop(old)
    return stored


RECORD_VERSIONS = Versions([
    Step(
        lift=lambda stored: _moved(stored, "entry_bytes", "journal_size"),
        lower=lambda stored: _moved(stored, "journal_size", "entry_bytes"),
    ),
], written=1)
"""


def _replace(tree: Path, file: str, old: str, new: str) -> None:
    path = tree / file
    text = path.read_text()
    if text.count(old) != 1:
        raise LookupError(
            f"{file} has {old!r} {text.count(old)} times; the next release must follow the code"
        )
    path.write_text(text.replace(old, new))


def _more(tree: Path) -> None:
    """A task says which release has made it; one that does not say was made by an older one."""
    _replace(tree, TASK, IN_TASK, IN_TASK + '    origin: str = ""\n')
    _replace(tree, DECIDE, IN_DECIDE, IN_DECIDE + '        origin="next",\n')
    _replace(tree, SCHEMA, IN_SCHEMA, IN_SCHEMA + '        Field("origin", "origin", ""),\n')


def _renamed(tree: Path) -> None:
    """`journal_bytes`, stored as `entry_bytes`, is called `journal_size` in both places."""
    for path in tree.rglob("*.py"):
        text = path.read_text()
        if "journal_bytes" in text and "upgrade" not in path.parts:
            path.write_text(re.sub(r"\bjournal_bytes\b", "journal_size", text))
    _replace(tree, SCHEMA, 'Field("entry_bytes", ', 'Field("journal_size", ')
    _replace(tree, SCHEMA, "RECORD_VERSIONS = Versions()\n", VERSIONS)


def _gone(tree: Path) -> None:
    """Nobody records the trace of the creating call any more, or reads it."""
    for file, text in ((TASK, IN_TASK), (DECIDE, IN_DECIDE), (SCHEMA, IN_SCHEMA)):
        _replace(tree, file, text, "")
    for path in (tree / "tasks_service").rglob("*.py"):
        path.write_text(re.sub(r"\b(self\._attempt\.task|task|shown)\.trace\b", '""', path.read_text()))


class Process(ProcessContainer):
    """A process of one release.

    Args:
        tree: The release.
        name: For its log.
        command: After `python -m`.
        env: What it is told beyond the environment.
    """

    def __init__(self, tree: Path, name: str, command: list[str], **env: str) -> None:
        self._tree = tree
        path = os.pathsep.join((str(tree), str(Path(__file__).parent)))
        own = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "TASKS_SWEEP_INTERVAL": "0.3"}
        super().__init__(f"{tree.name} {name}", [sys.executable, "-m", *command], {**own, **env})

    def start(self) -> None:
        # The working directory comes first on the path of Python, and on Celery's.
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._tree,
                env={**os.environ, **self._env},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Release:
    """A front end and a worker of one release, on a store that others use as well."""

    def __init__(self, tree: Path, redis_url: str, data_dir: Path) -> None:
        self.tree, self.name, self.port = tree, tree.name, free_port()
        env = {
            "TASKS_REDIS_URL": redis_url,
            "TASKS_DATA_DIR": str(data_dir),
            "TASKS_PORT": str(self.port),
            # The first step of docs/upgrading.md; a release that does not sign takes no notice.
            "TASKS_MESSAGE_SECRET": "the-secret-of-these-messages",
            "TASKS_MESSAGE_SIGNING": "accept",
        }
        self._env = env
        self.processes = [
            Process(tree, "serve", ["tasks_service", "serve", "--app", "upgrade_app:service"], **env)
        ]
        # More than the releases of a chain, each of which leaves a task that holds a thread until the end.
        self.add_worker("tasks", concurrency=12)

    def add_worker(self, queue: str, concurrency: int = 1) -> None:
        """Start a worker for a queue."""
        command = [
            *(
                "celery",
                "-A",
                "upgrade_app",
                "worker",
                "--pool",
                "threads",
                "--concurrency",
                str(concurrency),
            ),
            *("-Q", queue, "--hostname", f"{self.name}-{queue}@test", "--loglevel", "INFO"),
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
        ]
        self.processes.append(Process(self.tree, f"worker {queue}", command, **self._env))

    def logs(self) -> str:
        """What its processes have said."""
        return "\n".join(f"--- {process.name}\n{process.logs()[-3000:]}" for process in self.processes)

    def stop(self) -> None:
        """End it as a rolling upgrade does."""
        for process in self.processes:
            process.kill("SIGTERM")
        for process in self.processes:
            process.stop(30)

    def teardown(self) -> None:
        """End it at once."""
        for process in self.processes:
            process.teardown()
