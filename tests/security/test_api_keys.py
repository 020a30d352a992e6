"""API keys: a file of hashes that is read again, a limit of guesses, and nobody let in for no key at all."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tasks_service.crypto.key_file import line_of, new_key
from tasks_service.frontend.access.api_keys import LOOK_SECONDS, Authenticator
from tasks_service.frontend.access.caller_address import address_of
from tasks_service.frontend.access.key_guesses import MOST_GUESSES, NETWORKS, WINDOW_SECONDS, KeyGuesses
from tasks_service.settings import Settings
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import VERSION as HANDSHAKE
from tests.kit.wire import WireClient

from .conftest import KEY, greet

OTHER = "Hn8vT4sJd6pGq1Wf"
HERE, ELSEWHERE = address_of("192.0.2.7"), address_of("192.0.2.8")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write(file: Path, *lines: str) -> None:
    """As an editor does: another file under the same name."""
    draft = file.with_suffix(".draft")
    draft.write_text("\n".join(lines) + "\n")
    draft.replace(file)


def keys_of(file: Path, clock: Clock, **changes: object) -> Authenticator:
    configuration = Settings(_env_file=None, api_keys_file=file, **changes)  # type: ignore[arg-type]
    return Authenticator(configuration, b"owner secret", clock=clock, timer=clock)


def header(key: str) -> bytes:
    return f"Bearer {key}".encode()


def owner(keys: Authenticator, key: str) -> str | None:
    found = keys.caller(header(key))
    return None if found is None else found.identity.subject


# --- keys ---


def test_all_keys_of_a_name_are_good_until_their_ends(clock: Clock, file: Path) -> None:
    drawn = [new_key() for _ in range(3)]
    ends = ["2027-01-15T09:00:00Z", "2027-01-15T10:00:00Z", None]
    write(file, *(line_of("ann", key, end) for key, end in zip(drawn, ends, strict=True)))
    keys = keys_of(file, clock, api_keys=f"ann:{KEY}")
    clock.now = 1_800_003_599.0  # a second before the first end

    owners = {found.owner for key in (*drawn, KEY) if (found := keys.caller(header(key))) is not None}
    assert len(owners) == 1
    assert [owner(keys, key) for key in drawn] == ["ann", "ann", "ann"]

    clock.now += 1
    assert [owner(keys, key) for key in drawn] == [None, "ann", "ann"]
    clock.now += 3600
    assert [owner(keys, key) for key in drawn] == [None, None, "ann"]


def test_the_file_is_read_again_when_it_has_changed(clock: Clock, file: Path) -> None:
    old, new = new_key(), new_key()
    write(file, line_of("ann", old))
    keys = keys_of(file, clock)
    assert (owner(keys, old), owner(keys, new)) == ("ann", None)

    write(file, line_of("bob", new))
    assert owner(keys, old) == "ann"
    clock.now += LOOK_SECONDS
    assert (owner(keys, old), owner(keys, new)) == (None, "bob")


def test_streams_of_a_key_that_is_no_longer_in_the_file_end(clock: Clock, file: Path) -> None:

    old, new = new_key(), new_key()
    write(file, line_of("ann", old))
    found = keys_of(file, clock).caller(header(old))
    assert found is not None
    assert found.still_holds is not None
    assert found.may_end
    assert asyncio.run(found.still_holds())  # type: ignore[arg-type]

    write(file, line_of("ann", new))

    assert not asyncio.run(found.still_holds())  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["nonsense\n", None])
def test_a_file_that_cannot_be_used_leaves_the_keys_as_they_were_and_says_so_once(
    clock: Clock, file: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    write(file, line_of("ann", key))
    keys = keys_of(file, clock)

    if damage is None:
        file.unlink()
    else:
        write(file, line_of("bob", key), damage)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            clock.now += LOOK_SECONDS
            assert owner(keys, key) == "ann"

    (told,) = caplog.messages
    assert "stay those that were read before" in told
    assert "nonsense" not in told

    write(file, line_of("bob", key))
    clock.now += LOOK_SECONDS
    assert owner(keys, key) == "bob"


def test_a_file_that_others_may_write_later_is_not_believed(clock: Clock, file: Path) -> None:
    key = new_key()
    write(file, line_of("ann", key))
    keys = keys_of(file, clock)

    write(file, line_of("eve", key))
    file.chmod(0o666)
    clock.now += LOOK_SECONDS

    assert owner(keys, key) == "ann"


# --- guesses ---


def test_a_network_has_so_many_guesses_and_others_notice_nothing(clock: Clock) -> None:
    guesses = KeyGuesses(clock)
    for _ in range(MOST_GUESSES):
        assert guesses.seconds_to_wait(HERE) == 0
        guesses.wrong(HERE)

    assert guesses.seconds_to_wait(HERE) == WINDOW_SECONDS
    assert guesses.seconds_to_wait(ELSEWHERE) == 0
    clock.now += WINDOW_SECONDS
    assert guesses.seconds_to_wait(HERE) == 0


def test_guesses_are_logged_at_a_bounded_rate_with_their_number(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    guesses = KeyGuesses(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            guesses.wrong(HERE)
        clock.now += WINDOW_SECONDS
        guesses.wrong(ELSEWHERE)

    assert len(caplog.messages) == 2
    assert "1000 since the last" in caplog.messages[1]
    assert ELSEWHERE.address in caplog.messages[1]


def test_guesses_from_everywhere_take_a_bounded_memory(clock: Clock) -> None:
    guesses = KeyGuesses(clock)
    for _ in range(MOST_GUESSES):
        guesses.wrong(HERE)
    for number in range(NETWORKS):
        assert guesses.seconds_to_wait(HERE) > 0
        guesses.wrong(address_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))

    assert guesses.seconds_to_wait(HERE) == 0, "whoever guessed longest ago is forgotten"


def test_over_http_guessing_ends_and_neither_a_right_guess_nor_a_neighbour_is_told(
    redis_url: str, tmp_path: Path
) -> None:
    configuration = settings(redis_url, tmp_path, api_keys=f"alice:{KEY},bob:{OTHER}")
    with serving(registry(greet), configuration) as port:
        with WireClient(port, key=KEY) as alice, WireClient(port, key="guess") as eve:
            assert alice.request("tools/list").status == 200
            answers = [eve.request("tools/list").status for _ in range(MOST_GUESSES + 5)]
            assert answers == [401] * MOST_GUESSES + [429] * 5
            refused = eve.request("tools/list", mcp_protocol_version=HANDSHAKE)
            assert (refused.status, int(refused.headers["retry-after"]) <= 60) == (429, True)

            assert alice.request("tools/list").status == 200
        with WireClient(port, key=OTHER) as guessed_right, WireClient(port) as keyless:
            assert guessed_right.request("tools/list").status == 429
            assert keyless.request("tools/list").status == 401


# --- one user ---


@pytest.mark.parametrize(
    "name", ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"]
)
@pytest.mark.parametrize("version", [None, HANDSHAKE])
def test_without_keys_what_a_proxy_passes_on_is_refused(
    steady_port: int, steady_port_with_key: int, name: str, version: str | None
) -> None:
    changes = {name: "for=203.0.113.9"} | ({} if version is None else {"mcp_protocol_version": version})
    with WireClient(steady_port) as client, WireClient(steady_port_with_key, key=KEY) as known:
        answer = client.request("tools/list", **changes)

        assert answer.status == 403
        assert "everybody behind it would be the one user" in answer.error["message"]
        assert known.request("tools/list", **changes).status != 403
