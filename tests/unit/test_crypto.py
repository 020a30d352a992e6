"""Keys and seals: what opens what, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from tasks_service.crypto.keys import KeyRing, derive_key, load_keys
from tasks_service.crypto.sealing import SealBroken, Sealer
from tasks_service.domain.errors import ConfigurationError
from tasks_service.settings import Settings

OLD, NEW = b"the-old-secret-of-this-deployment", b"the-new-secret-of-this-deployment"
CONTENT = {"task": "0042", "answers": {"name": ["digest", "Ada \ud800"]}, "number": 1.5, "nothing": None}


def sealer(*secrets: bytes, purpose: str = "cursor") -> Sealer:
    return Sealer(KeyRing(secrets or (OLD,)), purpose)


def test_what_was_sealed_opens_for_the_same_binding() -> None:
    assert sealer().open(sealer().seal(CONTENT, "ada", "call"), "ada", "call") == CONTENT


def test_the_same_content_is_sealed_differently_each_time_and_cannot_be_read() -> None:
    texts = {sealer().seal("a-task", "ada-lovelace") for _ in range(100)}
    assert len(texts) == 100
    assert len({len(text) for text in texts}) == 1
    assert not any("a-task" in text or "ada-love" in text for text in texts)


@pytest.mark.parametrize(
    "binding", [(), ("bob",), ("ada", ""), ("a", "da"), ("call", "ada"), ('ada","call',)]
)
def test_another_binding_does_not_open(binding: tuple[str, ...]) -> None:
    text = sealer().seal(CONTENT, "ada", "call")
    with pytest.raises(SealBroken, match="another"):
        sealer().open(text, *binding)


def test_a_foreign_purpose_does_not_open() -> None:
    text = sealer(purpose="question").seal(CONTENT)
    with pytest.raises(SealBroken, match="another use"):
        sealer(purpose="cursor").open(text)


def test_after_the_secret_was_changed_the_previous_one_still_opens_and_the_new_one_seals() -> None:
    before, during, after = sealer(OLD), sealer(NEW, OLD), sealer(NEW)
    assert during.open(before.seal(CONTENT)) == CONTENT
    assert after.open(during.seal(CONTENT)) == CONTENT
    with pytest.raises(SealBroken, match="another secret"):
        after.open(before.seal(CONTENT))


def test_before_the_secret_is_changed_the_next_one_opens_already() -> None:
    assert sealer(OLD, NEW).open(sealer(NEW, OLD).seal(CONTENT)) == CONTENT


def test_an_expired_one_does_not_open() -> None:
    assert sealer().open(sealer().seal(CONTENT, seconds=60)) == CONTENT
    with pytest.raises(SealBroken, match="expired"):
        sealer().open(sealer().seal(CONTENT, seconds=0))


def test_a_changed_character_does_not_open_whichever_it_is() -> None:
    text = sealer().seal("content", "ada")
    for index, character in enumerate(text):
        for other in ("A", "B", "_", "=", "é", ""):
            if other != character:
                with pytest.raises(SealBroken):
                    sealer().open(text[:index] + other + text[index + 1 :], "ada")


@pytest.mark.parametrize("text", ["", "A", "AAAA", "v1.AAAA", "A" * 36, "é", "{}", " "])
def test_what_is_no_sealed_text_does_not_open(text: str) -> None:
    with pytest.raises(SealBroken, match="not a sealed text"):
        sealer().open(text)


def test_each_purpose_and_each_secret_has_a_key_of_its_own() -> None:
    keys = {derive_key(secret, purpose) for secret in (OLD, NEW, b"") for purpose in ("a", "b", "")}
    assert len(keys) == 9
    assert {len(key) for key in keys} == {32}


# --- the secrets of a deployment ---


def test_owners_stay_under_the_owner_secret_while_the_sealing_secret_changes(tmp_path: Path) -> None:
    old, new = (SecretStr(secret.decode()) for secret in (OLD, NEW))

    before = load_keys(old, (), None, tmp_path)
    after = load_keys(new, (old,), old, tmp_path)

    assert before.sealing.secrets == (OLD,)
    assert after.sealing.secrets == (NEW, OLD)
    assert before.owner_secret == after.owner_secret == OLD


@pytest.mark.parametrize("variable", ["TASKS_ACCEPTED_SECRETS", "TASKS_OWNER_SECRET"])
def test_a_short_secret_is_refused_by_the_name_of_its_variable(tmp_path: Path, variable: str) -> None:
    short, long = SecretStr("short"), SecretStr("long-enough-to-be-a-secret")
    accepted = (short,) if variable == "TASKS_ACCEPTED_SECRETS" else ()

    with pytest.raises(ConfigurationError, match=f"{variable}.*at least 16"):
        load_keys(long, accepted, short if not accepted else long, tmp_path)


def test_accepted_secrets_are_read_from_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_ACCEPTED_SECRETS", "first-secret-of-some, second-secret-of-some")
    monkeypatch.setenv("TASKS_OWNER_SECRET", "first-secret-of-some")

    accepted = Settings(_env_file=None).accepted_secrets

    assert [secret.get_secret_value() for secret in accepted] == [
        "first-secret-of-some",
        "second-secret-of-some",
    ]


def test_a_change_of_the_secret_that_would_orphan_every_task_is_refused() -> None:
    with pytest.raises(ValidationError, match="Set TASKS_OWNER_SECRET"):
        Settings(_env_file=None, accepted_secrets=(SecretStr("the-previous-secret"),))
