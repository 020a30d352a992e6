"""Asking Redis what its user may do: it finds each lack, and does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tasks_service.store.redis import RedisTaskStore, Role
from tests.kit.servers import RedisServer


@pytest.fixture
def limited(redis_url: str, redis_server: RedisServer) -> Iterator[RedisTaskStore]:
    """The store of a user that may do everything but what a test takes from it."""
    with redis_server.client() as admin:
        admin.acl_setuser("limited", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all"])
        with closing(RedisTaskStore(redis_url.replace("//", "//limited:any@"))) as store:
            yield store
        admin.acl_deluser("limited")


@pytest.mark.parametrize("role", Role)
def test_a_user_that_may_do_everything_lacks_nothing_and_nothing_is_written(
    limited: RedisTaskStore, redis_server: RedisServer, role: Role
) -> None:
    assert limited.check_permissions(role) == []
    with redis_server.client() as admin:
        assert admin.dbsize() == 0


@pytest.mark.parametrize("command", ["multi", "exec", "discard", "watch", "unwatch", "info", "time", "hset"])
@pytest.mark.parametrize("role", Role)
def test_each_command_that_is_denied_is_named_and_nothing_is_written(
    limited: RedisTaskStore, redis_server: RedisServer, role: Role, command: str
) -> None:
    with redis_server.client() as admin:
        admin.acl_setuser("limited", enabled=True, commands=[f"-{command}"])
        (finding,) = limited.check_permissions(role)
        assert admin.dbsize() == 0
    assert f"'limited' of this {role} may not run {command.upper()}." in finding.what
    assert f"ACL SETUSER limited +{command}," in finding.fix


def test_all_lacks_are_told_at_once(limited: RedisTaskStore, redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        admin.acl_setuser(
            "limited", enabled=True, commands=["-zadd", "-publish"], reset_keys=True, keys=["ts:{*"]
        )
        (finding,) = limited.check_permissions(Role.WORKER)
    assert "may not run ZADD, PUBLISH, nor use ts:shards, ts:registry:*, ts:lock:*, ts:swept." in finding.what
    assert "ACL SETUSER limited +zadd +publish ~ts:shards ~ts:registry:* ~ts:lock:* ~ts:swept," in finding.fix


def test_a_user_of_another_role_is_told_from_one_that_lacks_something(
    redis_url: str, redis_server: RedisServer
) -> None:
    with redis_server.client() as admin:
        admin.acl_setuser(
            "web", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-hset"]
        )
        try:
            with closing(RedisTaskStore(redis_url.replace("//", "//web:any@"))) as store:
                (finding,) = store.check_permissions(Role.WORKER)
        finally:
            admin.acl_deluser("web")
    assert finding.what == "The Redis user 'web' of this worker may not run HSET."
    assert finding.fix == "It is the user of another role: let TASKS_REDIS_URL log in as 'worker'."


@pytest.mark.parametrize("role", Role)
def test_workers_write_the_registry_and_all_others_read_it(
    limited: RedisTaskStore, redis_server: RedisServer, role: Role
) -> None:
    others = [
        f"~ts:{name}" for name in ("{*", "shards", "lock:*", "swept", "session:*", "floor:*", "interview:*")
    ]
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "resetkeys", *others, "%R~ts:registry:*")
        found = limited.check_permissions(role)
    if role is Role.WORKER:
        assert "may not use ts:registry:*." in found[0].what
    else:
        assert found == []
