"""Tokens and time: when they begin and end, how long keys and answers are believed. The clock is moved, not "
"waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks_service.crypto.owners import owner_of
from tasks_service.frontend.access.fetching import Fetcher
from tasks_service.frontend.access.issuer_keys import (
    FRESH_SECONDS,
    MOST_STALE_SECONDS,
    PAUSE_SECONDS,
    RETRY_SECONDS,
    IssuerKeys,
    usable_key,
)
from tasks_service.frontend.access.json_web_tokens import SignedTokens
from tasks_service.frontend.access.refused_tokens import CannotVerify
from tasks_service.frontend.access.sign_in import opened_sign_in
from tasks_service.frontend.access.token_claims import SKEW_SECONDS
from tasks_service.frontend.access.verified_tokens import VerifiedTokens
from tests.kit.issuer import Issuer, issuing, signing_key
from tests.kit.serving import settings

from .signing_in import RESOURCE, introspecting

NOW = 1_800_000_000


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


@pytest.fixture(autouse=True)
def _as_it_was(issuer: Issuer) -> None:
    issuer.keys, issuer.down = [signing_key("first")], False
    issuer.asked.clear()


Test = Callable[[VerifiedTokens], Awaitable[None]]


def with_tokens(issuer: Issuer, directory: Path, clock: Clock, test: Test, **changes: Any) -> None:
    """Run a test with what verifies tokens of the issuer."""
    configured = {"oauth_issuers": (issuer.url,), "oauth_resource": RESOURCE, **changes}

    async def run() -> None:
        async with opened_sign_in(settings(None, directory, **configured), b"secret", clock) as tokens:
            assert tokens is not None
            await test(tokens)

    asyncio.run(run())


def token(issuer: Issuer, **changes: Any) -> bytes:
    return issuer.token(RESOURCE, **{"iat": NOW - 60, "exp": NOW + 600, **changes}).encode()


@pytest.mark.parametrize("after", [-1.0, -0.001, 0.0, 1.0])
@pytest.mark.parametrize("verified_before", [False, True])
def test_a_token_is_good_until_the_second_of_its_end_and_not_in_it(
    issuer: Issuer, tmp_path: Path, after: float, verified_before: bool
) -> None:
    clock, sent = Clock(), token(issuer, exp=NOW + 600)

    async def test(tokens: VerifiedTokens) -> None:
        if verified_before:
            assert await tokens.verify(sent) is not None
        clock.now = NOW + 600 + after
        assert (await tokens.verify(sent) is not None) is (after < 0)

    with_tokens(issuer, tmp_path, clock, test)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("ahead", [SKEW_SECONDS - 1, SKEW_SECONDS + 1])
def test_an_issuers_clock_may_be_ahead_by_half_a_minute(
    issuer: Issuer, tmp_path: Path, claim: str, ahead: float
) -> None:
    async def test(tokens: VerifiedTokens) -> None:
        found = await tokens.verify(token(issuer, **{claim: NOW + ahead}))
        assert (found is not None) is (ahead < SKEW_SECONDS)

    with_tokens(issuer, tmp_path, Clock(), test)


def test_a_token_is_verified_once_however_many_send_it(issuer: Issuer, tmp_path: Path) -> None:
    async def test(tokens: VerifiedTokens) -> None:
        sent = issuer.opaque(RESOURCE, "one", exp=NOW + 600, iat=NOW).encode()
        found = await asyncio.gather(*(tokens.verify(sent) for _ in range(50)))
        assert all(one is not None for one in found)
        assert await tokens.verify(sent) is not None
        assert issuer.asked == {"/introspect": 1}

    with_tokens(issuer, tmp_path, Clock(), test, **introspecting(issuer))


def test_an_answer_of_the_issuer_is_believed_for_a_minute_at_most(issuer: Issuer, tmp_path: Path) -> None:
    clock = Clock()

    async def test(tokens: VerifiedTokens) -> None:
        sent = issuer.opaque(RESOURCE, "revoked", exp=NOW + 600, iat=NOW).encode()
        assert await tokens.verify(sent) is not None
        issuer.answers["revoked"] = {"active": False}
        clock.now = NOW + 59
        assert await tokens.verify(sent) is not None
        clock.now = NOW + 60
        assert await tokens.verify(sent) is None
        issuer.down, clock.now = True, NOW + 200
        with pytest.raises(CannotVerify):
            await tokens.verify(sent)

    with_tokens(issuer, tmp_path, clock, test, **introspecting(issuer))


def test_a_token_whose_key_was_withdrawn_is_refused_also_if_it_was_verified(issuer: Issuer) -> None:
    elapsed = Clock(0)

    async def test() -> None:
        fetcher = Fetcher()
        signed = SignedTokens(
            issuers=[issuer.url],
            jwks_url=None,
            types=["at+jwt"],
            fetcher=fetcher,
            clock=Clock(),
            elapsed=elapsed,
        )
        tokens = VerifiedTokens(
            signed, owner_of=partial(owner_of, secret=b"secret"), binds_client=True, clock=Clock()
        )
        old, new = signing_key("first"), signing_key("second")
        sent = token(issuer, key=old)
        assert await tokens.verify(sent) is not None
        issuer.keys = [new]
        assert await tokens.verify(token(issuer, key=new)) is not None
        assert await tokens.verify(sent) is None
        await signed.aclose()
        await fetcher.aclose()

    asyncio.run(test())


# --- the keys of an issuer ---


@asynccontextmanager
async def keys_of(issuer: Issuer, clock: Clock) -> AsyncIterator[IssuerKeys]:
    fetcher = Fetcher()
    keys = IssuerKeys(issuer.url, None, fetcher, lambda: None, clock)
    try:
        yield keys
    finally:
        await keys.aclose()
        await fetcher.aclose()


async def until_read(keys: IssuerKeys) -> None:
    """Wait for what is being read in the background."""
    while pending := [task for task in asyncio.all_tasks() if task.get_name().startswith("keys of")]:
        await asyncio.wait(pending)


def test_keys_are_read_once_and_again_in_the_background_when_they_are_old(issuer: Issuer) -> None:
    clock = Clock(0)

    async def test() -> None:
        async with keys_of(issuer, clock) as keys:
            await asyncio.gather(*(keys.find("first", "RS256") for _ in range(20)))
            assert issuer.asked["/jwks"] == 1
            clock.now = FRESH_SECONDS + 1
            issuer.keys = [signing_key("second")]
            assert await keys.find("first", "RS256") is not None  # the old ones, without waiting
            await until_read(keys)
            assert issuer.asked["/jwks"] == 2
            assert await keys.find("second", "RS256") is not None
            assert await keys.find("first", "RS256") is None

    asyncio.run(test())


def test_unknown_keys_are_looked_for_once_in_a_minute_whatever_callers_send(issuer: Issuer) -> None:
    clock = Clock(0)

    async def test() -> None:
        async with keys_of(issuer, clock) as keys:
            assert await keys.find("first", "RS256") is not None
            for minute in (0, 1):
                clock.now = minute * PAUSE_SECONDS
                for number in range(200):
                    assert await keys.find(f"unknown-{number}", "RS256") is None
                assert issuer.asked["/jwks"] == 2 + minute

    asyncio.run(test())


def test_an_issuer_that_is_down_locks_nobody_out_for_a_day(issuer: Issuer) -> None:
    clock = Clock(0)

    async def test() -> None:
        async with keys_of(issuer, clock) as keys:
            assert await keys.find("first", "RS256") is not None
            issuer.down = True
            for clock.now in (FRESH_SECONDS + 1, MOST_STALE_SECONDS - 1):
                assert await keys.find("first", "RS256") is not None
                await until_read(keys)
            clock.now = MOST_STALE_SECONDS + 1
            with pytest.raises(CannotVerify):
                await keys.find("first", "RS256")

    asyncio.run(test())


def test_an_issuer_that_is_down_at_the_start_is_asked_again_soon(issuer: Issuer) -> None:
    clock = Clock(0)

    async def test() -> None:
        async with keys_of(issuer, clock) as keys:
            issuer.down = True
            for _ in range(50):
                with pytest.raises(CannotVerify):
                    await keys.find("first", "RS256")
            tried = dict(issuer.asked)
            assert max(tried.values()) == 1
            issuer.down, clock.now = False, RETRY_SECONDS
            assert await keys.find("first", "RS256") is not None

    asyncio.run(test())


@pytest.mark.parametrize(
    ("what", "jwk"),
    [
        ("a shared secret", {"kty": "oct", "k": "AAAA", "kid": "first"}),
        ("for encryption", {**signing_key("first").public, "use": "enc"}),
        ("not for verifying", {**signing_key("first").public, "key_ops": ["encrypt"]}),
        ("of another algorithm", {**signing_key("first").public, "alg": "RS512"}),
        ("too small", signing_key("small", bits=1024).public),
        ("too large", {**signing_key("first").public, "n": "_" * 1400}),
        ("no number", {**signing_key("first").public, "n": 7}),
        ("a text", "key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_published_key_that_tokens_must_not_be_signed_with_is_not_used(what: str, jwk: Any) -> None:
    assert usable_key(jwk) is None, what
    assert usable_key(signing_key("first").public) is not None


def test_owners_differ_by_issuer_subject_and_client_unless_the_settings_bind_the_user_alone(
    issuer: Issuer, tmp_path: Path
) -> None:
    async def owners(tokens: VerifiedTokens) -> set[str]:
        found = [
            await tokens.verify(token(issuer, sub=sub, client_id=client))
            for sub in ("ada", "grace")
            for client in ("one", "two")
        ]
        return {one.owner for one in found if one is not None}

    async def by_client(tokens: VerifiedTokens) -> None:
        assert len(await owners(tokens)) == 4

    async def by_user(tokens: VerifiedTokens) -> None:
        assert len(await owners(tokens)) == 2

    with_tokens(issuer, tmp_path, Clock(), by_client)
    with_tokens(issuer, tmp_path, Clock(), by_user, oauth_owner_binding="user")
