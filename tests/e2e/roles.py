"""A Redis with the users of docker/users.acl, and every process of a service as the user of its role."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import redis

from tests.kit.servers import RedisServer, free_port
from tests.kit.waiting import wait_until
from tests.kit.workers import ProcessContainer

REPOSITORY = Path(__file__).parents[2]
ROLES = ("web", "worker", "beat", "flower", "operator")
ADMIN = "an-administrator"
APP = "tests.e2e.asking_app"


def password(role: str) -> str:
    return f"the-password-of-{role}"


def users(*arguments: str) -> str:
    """What docker/users.sh prints."""
    passwords = {f"REDIS_PASSWORD_{role.upper()}": password(role) for role in ROLES}
    return subprocess.run(
        ["sh", REPOSITORY / "docker/users.sh", *arguments],
        env={**os.environ, **passwords},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout


class GuardedRedis(RedisServer):
    """A Redis on which each role may do what docker/users.acl allows, and the test itself everything."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        file = directory / "users.acl"
        file.write_text(users(*arguments) + f"user {ADMIN} on nopass allkeys allchannels allcommands\n")
        super().__init__("--aclfile", str(file), "--appendonly", "yes", "--maxmemory", "4gb")

    def client(self, role: str = ADMIN) -> Any:
        return redis.Redis(
            port=self.port, username=role, password=password(role), decode_responses=True, retry=None
        )

    def url_of(self, role: str, database: int = 0) -> str:
        return f"redis://{role}:{password(role)}@127.0.0.1:{self.port}/{database}"

    def denied(self) -> list[str]:
        """What was denied so far, and to whom."""
        with self.client() as admin:
            return [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in admin.acl_log()]


class Process(ProcessContainer):
    """A process of the service, as the user that its URL names."""

    def __init__(self, redis_url: str, name: str, command: list[str], **env: str) -> None:
        where = {"TASKS_REDIS_URL": redis_url, "TASKS_SWEEP_INTERVAL": "0.3"}
        super().__init__(name, [sys.executable, "-m", *command], {**where, **env})


SECRET = "the-secret-of-these-front-ends"
"""Front ends of one store have one secret, wherever their data is."""


class FrontEnd(Process):
    """`tasks-service serve`; without an app, it serves what workers announce."""

    def __init__(self, redis_url: str, directory: Path, app: str | None = APP, **env: str) -> None:
        self.port = free_port()
        where = {"TASKS_PORT": str(self.port), "TASKS_DATA_DIR": str(directory), "TASKS_SECRET": SECRET}
        command = ["tasks_service", "serve", *([] if app is None else ["--app", f"{app}:service"])]
        super().__init__(redis_url, "web", command, **{**where, **env})

    def is_ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self.port}/readyz")


class Flower(Process):
    """Flower, and what it shows."""

    def __init__(self, redis_url: str, app: str = APP, **env: str) -> None:
        self.port = free_port()
        command = ["celery", "-A", app, "flower", "--address=127.0.0.1", f"--port={self.port}"]
        # Its API wants a login, or to be told that it needs none.
        super().__init__(redis_url, "flower", command, **{"FLOWER_UNAUTHENTICATED_API": "true", **env})

    def shows(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return str(response.read().decode())


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `tasks-service`."""
    return subprocess.run(
        [sys.executable, "-m", "tasks_service", *arguments],
        env={**os.environ, "TASKS_APP": f"{APP}:service", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def operate(server: GuardedRedis, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `tasks-service` as the user `operator`."""
    return command(*arguments, **{"TASKS_REDIS_URL": server.url_of("operator"), **env})


def ready(process: FrontEnd | Flower, path: str) -> None:
    """Wait until it answers."""
    url = f"http://127.0.0.1:{process.port}{path}"
    wait_until(lambda: answers(url) or process.status == "exited", process.logs, seconds=90)
    assert process.status == "running", process.logs()
