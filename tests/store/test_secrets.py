"""A store keeps the fingerprints of the front ends' secrets, and refuses who has others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, closing

import pytest

from tasks_service.broker.signature import with_messages
from tasks_service.crypto.keys import Fingerprints
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tests.kit.secrets import keys, secrets_problems, signer_of
from tests.kit.servers import RedisServer

KEY = "ts:{00}:secrets"
OLD, NEW, OTHER = "the-secret-of-the-beginning", "the-secret-of-next-year", "the-secret-of-somebody"


def test_the_first_front_end_has_its_secret_noted_and_another_one_is_refused(redis_url: str) -> None:
    assert secrets_problems(redis_url, OLD) == []
    assert secrets_problems(redis_url, OLD) == []

    (problem,) = secrets_problems(redis_url, OTHER)

    assert "another secret than the front ends that have used this store" in problem
    assert "Set TASKS_SECRET to the same secret for every front end" in problem
    assert f"redis-cli DEL '{KEY}'" in problem


def test_what_the_refusal_says_makes_the_next_secret_the_stores(
    redis_url: str, redis_server: RedisServer
) -> None:
    secrets_problems(redis_url, OLD)
    with redis_server.client() as admin:
        admin.delete(KEY)

    assert secrets_problems(redis_url, NEW) == []
    assert secrets_problems(redis_url, OLD) != []


def test_the_store_keeps_no_secret_and_no_key_that_is_made_of_one(
    redis_url: str, redis_server: RedisServer
) -> None:
    secrets_problems(redis_url, OLD)

    with redis_server.client() as admin:
        noted = admin.hgetall(KEY)

    own = keys(OLD)
    assert noted == {"owners": own.fingerprints.owners, "sealing": own.fingerprints.sealing[0]}
    assert own.fingerprints.owners != own.fingerprints.sealing[0], "each use has its own"
    assert all(len(value) == 16 and OLD not in value for value in noted.values())


def test_a_secret_that_is_changed_as_the_guide_says_is_never_refused(redis_url: str) -> None:
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (OLD, NEW), (NEW, OLD), (NEW,)]

    assert [secrets_problems(redis_url, OLD, *ring) for ring in steps] == [[]] * len(steps)


def test_a_front_end_that_was_left_behind_is_refused_when_the_old_secret_is_given_up(redis_url: str) -> None:
    for ring in [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]:
        secrets_problems(redis_url, OLD, *ring)

    (problem,) = secrets_problems(redis_url, OLD, OLD)

    assert "seals with another secret" in problem


def test_a_secret_that_has_leaked_is_replaced_at_once_where_the_operator_says_so(
    redis_url: str, redis_server: RedisServer
) -> None:
    secrets_problems(redis_url, OLD)
    (problem,) = secrets_problems(redis_url, OLD, NEW)
    assert f"redis-cli HDEL '{KEY}' sealing" in problem

    with redis_server.client() as admin:
        admin.hdel(KEY, "sealing")

    assert secrets_problems(redis_url, OLD, NEW) == []


def test_of_many_that_are_first_at_once_those_of_one_secret_start(redis_url: str) -> None:
    async def start_all() -> list[tuple[str, bool]]:
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(aclosing(AsyncRedisTaskStore(redis_url, deadline=60.0)))
                for _ in range(12)
            ]
            pairs = list(zip([OLD, NEW, OTHER] * 4, stores, strict=True))
            found = await asyncio.gather(*(store.check(keys(secret).fingerprints) for secret, store in pairs))
        refused = [any("another secret" in finding.what for finding in each) for each in found]
        return [(secret, no) for (secret, _), no in zip(pairs, refused, strict=True)]

    started = {secret for secret, refused in asyncio.run(start_all()) if not refused}

    assert len(started) == 1


def test_who_only_looks_notes_nothing(redis_url: str, redis_server: RedisServer) -> None:
    with closing(RedisTaskStore(redis_url)) as store, redis_server.client() as admin:
        assert store.check_secrets(keys(OLD).fingerprints) == []
        assert not admin.exists(KEY)
        secrets_problems(redis_url, OLD)
        (finding,) = store.check_secrets(keys(OTHER).fingerprints)
        assert "another secret" in finding.what


def test_what_cannot_be_a_list_of_fingerprints_is_said_and_repaired(
    redis_url: str, redis_server: RedisServer
) -> None:
    with closing(RedisTaskStore(redis_url)) as store, redis_server.client() as admin:
        admin.set(KEY, "text")
        (problem,) = secrets_problems(redis_url, OLD)
        assert "Run tasks-service repair" in problem

        (done,) = store.repair()

        assert done.fixed
        assert secrets_problems(redis_url, OLD) == []


@pytest.fixture
def web(redis_url: str, redis_server: RedisServer) -> Iterator[str]:
    """The URL of a user that may do what `docker/users.acl` lets front ends do with hashes."""
    with redis_server.client() as admin:
        admin.acl_setuser("web", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all"])
        yield redis_url.replace("//", "//web:any@")
        admin.acl_deluser("web")


def test_a_user_that_may_not_note_a_secret_is_told_which_right_is_missing(
    web: str, redis_server: RedisServer
) -> None:
    with redis_server.client() as admin:
        admin.acl_setuser("web", enabled=True, commands=["-hsetnx"])

    (problem,) = secrets_problems(web, OLD)

    assert "may not run HSETNX" in problem
    with redis_server.client() as admin:
        assert not admin.exists(KEY)


def test_a_process_that_signs_otherwise_or_not_at_all_is_refused(
    redis_url: str, redis_server: RedisServer
) -> None:
    def problems(*secrets: str, requires: bool = True, as_worker: bool = False) -> list[str]:
        signer = signer_of(*secrets, requires=requires) if secrets else None
        ours = with_messages(Fingerprints(), signer, as_worker=as_worker)
        with closing(RedisTaskStore(redis_url)) as store:
            return [f"{f.what} {f.fix}" for f in store.check_secrets(ours, notes=True)]

    assert problems() == []
    # Who accepts what is not signed leaves those alone that do not sign yet.
    assert problems(OLD, requires=False, as_worker=True) == []
    assert problems() == []
    (problem,) = problems(OTHER)
    assert "signs messages with another secret" in problem and "TASKS_ACCEPTED_MESSAGE_SECRETS" in problem

    assert problems(OLD, as_worker=True) == []
    (problem,) = problems()
    assert "has no TASKS_MESSAGE_SECRET" in problem and f"HDEL '{KEY}' messages unsigned" in problem
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (OLD, NEW), (NEW, OLD), (NEW,)]
    assert [problems(*ring, as_worker=True) for ring in steps] == [[]] * len(steps)
    assert len(problems(OLD)) == 1

    with redis_server.client() as admin:
        noted = admin.hgetall(KEY)
        assert set(noted) == {"messages", "unsigned"}
        assert NEW not in str(noted)
        admin.hdel(KEY, "messages", "unsigned")
    assert problems() == []
    assert secrets_problems(redis_url, OLD) == [], "the other secrets have nothing to do with it"
