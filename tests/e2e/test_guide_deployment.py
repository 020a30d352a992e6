"""The page "A deployment from end to end": its files of settings bring up what it says.

What it takes from other pages is tried by their tests: each user's rights by `test_acl.py`, the proxy by
`tests/proxies`.
"""

from __future__ import annotations

import json
import re
import secrets
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from redis import Redis

from tests.kit.pages import ROOT, blocks
from tests.kit.servers import RedisServer, free_port
from tests.kit.tls import Authority, TlsProxy
from tests.kit.waiting import wait_until

from .roles import GuardedRedis, Process, answers, command, password

PAGE = ROOT / "docs/guide-deployment.md"
PUBLIC = "https://tools.example.com"
ROLES = ("web", "worker", "beat", "flower", "operator")
SECRETS = {
    "=SECRET": f"={secrets.token_hex(32)}",
    "=MESSAGES": f"={secrets.token_hex(32)}",
    ":KEY": f":{b64encode(secrets.token_bytes(32)).decode()}",
}


def files(changes: dict[str, str]) -> dict[str, dict[str, str]]:
    """The variables of each file of settings of the page, with what is another here."""
    found = {}
    for block in blocks(PAGE, "ini"):
        path, _, text = block.text.partition("\n")
        for there, here in changes.items():
            text = text.replace(there, here)
        variables = dict(line.split("=", 1) for line in text.splitlines())
        found[path.removeprefix("# /etc/tasks/").removesuffix(".env")] = variables
    return found


def cells() -> dict[str, list[str]]:
    """The page's table of what each role has."""
    rows = re.findall(r"^\| `?(TASKS_\w+)`? \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: [cell.strip() for cell in row.split("|")] for name, row in rows}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page has under `/etc/tasks` and `/var/log/tasks`, and the module of the tools."""
    directory = tmp_path_factory.mktemp("deployment")
    (module,) = [block for block in blocks(ROOT / "docs/guide-authors.md") if block.file == "acme/service.py"]
    (directory / "acme").mkdir()
    (directory / "acme/service.py").write_text(module.text)
    return directory


@pytest.fixture(scope="module")
def roles(directory: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Redis as the page has it; yields the files of settings."""
    authority = Authority(directory)
    with closing(GuardedRedis(directory)) as server, closing(TlsProxy(server.port, authority.issue())) as tls:
        port = str(free_port())
        found = files(
            {
                "redis.example:6379": f"127.0.0.1:{tls.port}",
                "/etc/tasks": str(directory),
                "/var/log/tasks": str(directory),
                "TASKS_HOST=0.0.0.0": f"TASKS_HOST=127.0.0.1\nTASKS_PORT={port}",
                "TASKS_HOST=10.0.0.11": f"TASKS_HOST=127.0.0.1\nTASKS_PORT={port}",
                "TASKS_TRUSTED_PROXIES=10.0.0.2": "TASKS_TRUSTED_PROXIES=127.0.0.1",
                **SECRETS,
            }
        )
        for role, variables in found.items():
            variables["TASKS_REDIS_URL"] = variables["TASKS_REDIS_URL"].replace("PASSWORD", password(role))
        yield found


@pytest.fixture(scope="module")
def key(directory: Path) -> str:
    """Alice's, whose line is in the file of keys."""
    made = dict(re.findall(r"^(key|line): +(\S+)$", command("key", "alice").stdout, re.MULTILINE))
    (directory / "keys").write_text(f"{made['line']}\n")
    (directory / "keys").chmod(0o600)
    return made["key"]


@pytest.fixture(scope="module")
def front_end(roles: dict[str, dict[str, str]], directory: Path, key: str) -> Iterator[TlsProxy]:
    """A front end and a worker, with their files; yields what stands in for the proxy."""
    worker_command = next(
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `worker.env`")
    ).split("`")[3]
    with ExitStack() as ends:
        web = Process("", "web", ["tasks_service", "serve"], **roles["web"])
        ends.callback(web.teardown)
        worker = Process(
            "",
            "worker",
            [
                *worker_command.split(),
                "--concurrency",
                "1",
                "--loglevel",
                "INFO",
                "--hostname",
                "worker@test",
            ],
            **roles["worker"],
            PYTHONPATH=f"{directory}:{ROOT}",
        )
        ends.callback(worker.teardown)
        port = int(roles["web"]["TASKS_PORT"])
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), web.logs)
        assert worker.ready(), worker.logs()
        yield ends.enter_context(closing(TlsProxy(port, directory / "server.pem")))


def test_no_role_has_a_secret_that_the_page_says_it_does_not_need() -> None:
    given = files({})
    assert tuple(given) == ROLES
    for name, needed in cells().items():
        if "yes" in needed:
            assert [name in given[role] for role in ROLES] == [cell == "yes" for cell in needed], name


def test_redis_takes_the_configuration_of_the_page(tmp_path: Path) -> None:
    (block,) = blocks(PAGE, "conf")
    told = dict(line.split(" ", 1) for line in block.text.splitlines()[1:])
    elsewhere = {"port", "dir", "aclfile"}  # here they are the test's own
    with closing(RedisServer()) as server, server.client() as client:
        has_tls = client.info("server").get("server_name") != "valkey"  # that of the wheel is built without
    tls_port, certificate = free_port(), Authority(tmp_path).issue(host="localhost")
    here = {
        "tls-port": str(tls_port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(certificate),
        "tls-ca-cert-file": str(tmp_path / "ca.pem"),
    }
    options = {
        name: here.get(name, value).strip('"') for name, value in told.items() if name not in elsewhere
    }
    taken = {name: value for name, value in options.items() if has_tls or not name.startswith("tls-")}

    with closing(
        RedisServer(*(word for name, value in taken.items() for word in (f"--{name}", value)))
    ) as server:
        with server.client() as client:
            assert client.config_get("maxmemory-policy", "appendonly") == {
                "maxmemory-policy": "noeviction",
                "appendonly": "yes",
            }
        if has_tls:
            with Redis("localhost", tls_port, ssl=True, ssl_ca_certs=str(tmp_path / "ca.pem")) as encrypted:
                assert encrypted.ping()


def test_a_caller_with_a_key_gets_a_result_and_the_operator_finds_nothing_wrong(
    roles: dict[str, dict[str, str]], front_end: TlsProxy, directory: Path, key: str
) -> None:
    url = f"https://127.0.0.1:{front_end.port}/mcp"
    trusted = {"SSL_CERT_FILE": str(directory / "ca.pem")}

    called = command(
        *("call", "render", "--arg", "scene=kitchen", "--arg", "frames=2"),
        TASKS_URL=url,
        TASKS_KEY=key,
        **trusted,
    )

    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)[1] == "https://renders.example/kitchen/1.png"
    operator = {**roles["operator"], "PYTHONPATH": f"{directory}:{ROOT}"}
    examined = command("doctor", "--app", "acme.service", "--json", **operator)
    assert examined.returncode == 0, examined.stdout
    audit = directory / "audit"
    wait_until(lambda: '"tool":"render"' in audit.read_text(), audit.read_text)
    (task, *_) = re.findall(r'"task":"(\w+)"', audit.read_text())
    assert "kitchen" in command("inspect", "--json", task, **operator).stdout
    assert "kitchen" not in audit.read_text()


def test_who_signs_in_is_told_where(roles: dict[str, dict[str, str]], front_end: TlsProxy) -> None:
    port = roles["web"]["TASKS_PORT"]
    with urlopen(f"http://127.0.0.1:{port}/.well-known/oauth-protected-resource/mcp", timeout=10) as reply:
        told = json.load(reply)
    assert told["resource"] == f"{PUBLIC}/mcp"
    assert told["authorization_servers"] == ["https://login.example.com"]
