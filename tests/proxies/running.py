"""The service as behind a proxy: Redis, a worker, two front ends; and the proxies of the guide."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.kit.servers import RedisServer, free_port
from tests.kit.waiting import wait_until
from tests.kit.workers import ProcessContainer, worker_node

GUIDE = Path(__file__).parents[2] / "docs" / "guide-proxies.md"
MODULE = "tests.proxies.service"
HOST = "tools.example.com"
KEY = "a-key-of-sixteen-characters"
DRAIN_SECONDS = 3
CHECK_SECONDS = 1.0
"""How often the proxies of the guide look."""


class FrontEnd(ProcessContainer):
    """A front end that is served by its own command."""

    def __init__(self, redis_url: str, directory: Path) -> None:
        self.port = free_port()
        settings = {
            "TASKS_REDIS_URL": redis_url,
            "TASKS_DATA_DIR": str(directory),
            "TASKS_PORT": str(self.port),
            "TASKS_ALLOWED_HOSTS": HOST,
            "TASKS_API_KEYS": f"tester:{KEY}",
            "TASKS_DRAIN_DELAY": str(DRAIN_SECONDS),
            "TASKS_TRUSTED_PROXIES": "127.0.0.1",
        }
        command = [sys.executable, "-m", "tasks_service", "serve", "--app", MODULE]
        super().__init__("front end", command, settings)

    def is_ready(self) -> bool:
        with suppress(URLError, OSError), urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
        return False


@dataclass
class Deployment:
    """What runs behind a proxy.

    Attributes:
        front_ends: Two of them.
        restarts: How often one was stopped and started.
    """

    front_ends: Sequence[FrontEnd]
    restarts: int = 0

    @contextmanager
    def restarting(self) -> Iterator[None]:
        """Restart one front end after the other, as the guide says, while this lasts."""
        over = threading.Event()

        def restart() -> None:
            while not over.is_set():
                front_end = self.front_ends[self.restarts % len(self.front_ends)]
                assert front_end.stop() in (0, -15), front_end.logs()
                front_end.start()
                wait_until(front_end.is_ready, front_end.logs)
                self.restarts += 1
                over.wait(2 * CHECK_SECONDS)

        thread = threading.Thread(target=restart)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def deployed(directory: Path) -> Iterator[Deployment]:
    """Start everything; it ends with the block."""
    with ExitStack() as stack:
        redis = RedisServer()
        stack.callback(redis.close)
        worker = worker_node(
            redis.url, app=MODULE, pool="threads", concurrency=16, TASKS_DATA_DIR=str(directory)
        )
        stack.callback(worker.teardown)
        front_ends = [FrontEnd(redis.url, directory) for _ in range(2)]
        for front_end in front_ends:
            stack.callback(front_end.teardown)
        for front_end in front_ends:
            wait_until(front_end.is_ready, front_end.logs)
        assert worker.ready(), worker.logs()
        yield Deployment(front_ends)


def configuration(language: str) -> str:
    """The configuration in the guide."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def nginx(directory: Path, port: int, ports: Sequence[int]) -> list[str]:
    """The command of nginx, with the guide's server in the rest of a configuration."""
    site = at_ports(configuration("nginx"), ports).replace("listen 80;", f"listen 127.0.0.1:{port};")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{user}daemon off;\npid {directory}/pid;\nerror_log {directory}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{site}}}\n"
    )
    return [program("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")]


def haproxy(directory: Path, port: int, ports: Sequence[int]) -> list[str]:
    """The command of HAProxy."""
    text = at_ports(configuration("haproxy"), ports).replace("bind :80", f"bind 127.0.0.1:{port}")
    (directory / "haproxy.cfg").write_text(text)
    return [program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")]


def caddy(directory: Path, port: int, ports: Sequence[int]) -> list[str]:
    """The command of Caddy, without certificates and without its own port for administrators."""
    site = at_ports(configuration("caddyfile"), ports).replace(f"{HOST} {{", f"http://{HOST}:{port} {{", 1)
    (directory / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{site}")
    return [program("caddy"), "run", "--config", str(directory / "Caddyfile"), "--adapter", "caddyfile"]


def at_ports(text: str, ports: Sequence[int]) -> str:
    """A configuration whose front ends are at ports of this machine."""
    for number, port in zip((11, 12), ports, strict=True):
        assert f"10.0.0.{number}:8787" in text
        text = text.replace(f"10.0.0.{number}:8787", f"127.0.0.1:{port}")
    return text


def program(name: str) -> str:
    """A program of Debian's, whose administrators' programs are not on everybody's PATH."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert found is not None, f"{name} is not installed: apt-get install {name}"
    return found


PROXIES = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy}


@contextmanager
def proxied(name: str, directory: Path, ports: Sequence[int]) -> Iterator[int]:
    """Run a proxy in front of two ports; yields its own."""
    port = free_port()
    command = PROXIES[name](directory, port, ports)
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        yield port
    finally:
        process.terminate()
        process.wait(30)


def listens(port: int) -> bool:
    """Whether anybody takes connections at a port of this machine."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
