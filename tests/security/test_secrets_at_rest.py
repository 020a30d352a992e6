"""What Redis holds of a task is sealed: without the key nobody reads it, moves it or changes a byte of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import random
import string
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tasks_service import ConfigurationError, TaskService
from tasks_service.cli import commands
from tasks_service.cli.doctor import Examination, check_records
from tasks_service.crypto.envelope import NO_ENVELOPE, EncryptionKey, Envelope, Mode
from tasks_service.crypto.keys import Fingerprints
from tasks_service.crypto.owners import LOCAL_USER, owner_of
from tasks_service.domain.errors import CorruptRecord, RecordSealed, TaskNotFound
from tasks_service.domain.events import AnswerInput, Cancel, Claim, DeadlinePassed, Expire, Reap, Redispatch
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.domain.reports import LogLevel, LogMessage
from tasks_service.domain.task import JsonText, Owner, Policy, Progress, Task, TaskStatus, new_token
from tasks_service.log_privacy import put_words_into_logs
from tasks_service.settings import Settings
from tasks_service.store.changes import Reported
from tasks_service.store.findings import Severity
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tasks_service.store.redis.codec import open_field
from tasks_service.store.redis.publications import parse_reported
from tests.kit.factories import ALICE, BOB, Clock, creation
from tests.kit.records import CANARY, SAID, configured, ended, everything, parked, ring, store_of
from tests.kit.servers import RedisServer
from tests.kit.serving import SECRET, registry, serving, settings
from tests.kit.wire import WireClient

TAMPERED = int(os.environ.get("TASKS_TEST_TAMPERED", "300"))
"""How many changes of one character are tried; 0: each character of each field."""

RECORDS = int(os.environ.get("TASKS_TEST_REENCRYPTED", "300"))
"""How many records are encrypted anew beside live traffic."""

MOST_SECONDS = 20.0
"""How long 10,000 of them may take."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(redis_url: str, clock: Clock) -> Iterator[RedisTaskStore]:
    store = store_of(redis_url, ring("new"), clock=clock)
    yield store
    store.close()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    with redis_server.client() as client:
        yield client


def record_key(task: Task) -> str:
    return f"ts:{{00}}:t:{task_hash(task.task_id)}"


def sealed_fields(client: Any, key: str) -> dict[str, str]:
    return {name: text for name, text in client.hgetall(key).items() if "~1." in text}


def read_whole(store: RedisTaskStore, task: Task) -> None:
    """Read all of a record, as its owner, a worker and an operator do."""
    store.get(task.owner, task.task_id)
    store.inspect(task.task_id)


def test_nothing_that_a_caller_or_a_tool_has_written_is_in_redis(store: RedisTaskStore, client: Any) -> None:
    task = parked(store)
    completed, failed = ended(store)
    assert [text for text in everything(client) if CANARY in text] == []

    assert task.progress is not None
    assert (task.status_message, task.progress.message, task.inputs["q"].default) == (CANARY, CANARY, SAID)
    assert store.get(ALICE, completed.task_id).result == SAID
    record = store.inspect(failed.task_id)
    assert record.exception is not None
    assert record.task.failure is not None
    assert {record.exception.traceback, record.task.failure.message, record.caller.subject} == {CANARY}
    assert (record.task.variables, record.task.failure.data) == ({CANARY: SAID}, SAID)
    assert [entry.value for entry in record.journal] == [SAID, SAID]


def test_every_field_of_a_record_that_holds_more_than_numbers_is_sealed(
    store: RedisTaskStore, client: Any
) -> None:
    names = set()
    for task in (parked(store), *ended(store)):
        names |= {name.partition(":")[0] for name in sealed_fields(client, record_key(task))}
    assert names == {"state", "vars", "inputs", "failure", "arguments", "caller", "result", "exception", "j"}


def test_a_task_that_nobody_has_said_anything_of_is_polled_without_a_key(
    store: RedisTaskStore, redis_url: str
) -> None:
    task = store.create(creation()).task
    assert store_of(redis_url, NO_ENVELOPE).get(ALICE, task.task_id).task.status is TaskStatus.WORKING


def test_whatever_is_changed_of_a_sealed_text_it_is_refused(store: RedisTaskStore, client: Any) -> None:
    """A text begins with its key's name: changed there, the key is not known; anywhere else it is broken."""
    tasks = (parked(store), *ended(store))
    places = [
        (task, name, text, at)
        for task in tasks
        for name, text in sealed_fields(client, record_key(task)).items()
        for at in range(text.index("~1."), len(text))
        if name != "state" or at < text.index('"', text.index("~1."))
    ]
    choose = random.Random(7)
    for task, name, text, at in choose.sample(places, TAMPERED) if TAMPERED else places:
        other = choose.choice([letter for letter in "AQgw09+/=.~" if letter != text[at]])
        client.hset(record_key(task), name, text[:at] + other + text[at + 1 :])
        with pytest.raises(CorruptRecord):
            read_whole(store, task)
        client.hset(record_key(task), name, text)
    for task in tasks:
        read_whole(store, task)


@pytest.mark.parametrize("length", range(4))
def test_no_other_text_stands_for_the_same_bytes(length: int) -> None:
    seal = ring("new").of("alice", "t")
    text = seal.seal("result", "x" * length)
    letters = string.ascii_letters + string.digits + "+/="
    for at in range(len(text) - 4, len(text)):
        for letter in letters.replace(text[at], ""):
            with pytest.raises(CorruptRecord):
                open_field(seal, "result", text[:at] + letter + text[at + 1 :])
    for more in ("=", "A", "\n", " ", "===="):
        with pytest.raises(CorruptRecord):
            open_field(seal, "result", text + more)
    assert open_field(seal, "result", text) == "x" * length


def test_a_sealed_text_opens_in_its_own_place_only(store: RedisTaskStore, client: Any) -> None:
    tasks = [*ended(store), *ended(store, BOB)]
    fields = [
        (task, name, text)
        for task in tasks
        for name, text in sealed_fields(client, record_key(task)).items()
        if name != "state"
    ]
    refused = 0
    for (task, name, text), (_, _, foreign) in itertools.permutations(fields, 2):
        client.hset(record_key(task), name, foreign)
        with pytest.raises(CorruptRecord):
            read_whole(store, task)
        client.hset(record_key(task), name, text)
        refused += 1
    assert refused == len(fields) * (len(fields) - 1)


@pytest.mark.damages
def test_whoever_writes_another_owner_into_a_record_cannot_have_it_read(
    store: RedisTaskStore, client: Any
) -> None:
    task, _ = ended(store)
    record, stolen = client.hgetall(record_key(task)), new_task_id(BOB)
    mine = record["state"].replace('"owner":"alice"', '"owner":"bob"')
    client.hset(record_key(task), "state", mine)
    with pytest.raises(TaskNotFound):  # its id says whose it is
        store.get(BOB, task.task_id)
    record["state"] = mine.replace(task.task_id, stolen)
    assert record["state"] != mine
    client.hset(f"ts:{{00}}:t:{task_hash(stolen)}", mapping=record)
    with pytest.raises(CorruptRecord) as refusal:
        store.get(BOB, stolen)
    assert CANARY not in str(refusal.value)


def test_what_is_plain_is_refused_where_encryption_is_required_and_read_where_not(redis_url: str) -> None:
    plain = store_of(redis_url, NO_ENVELOPE)
    tasks = (parked(plain), *ended(plain))
    for task in tasks:
        with pytest.raises(RecordSealed, match="TASKS_ENCRYPTION=accept"):
            read_whole(store_of(redis_url, ring("new")), task)
        read_whole(store_of(redis_url, ring("new", mode=Mode.ACCEPT)), task)
        read_whole(store_of(redis_url, ring("new", mode=Mode.PREPARE)), task)


@pytest.mark.parametrize("lacking", [NO_ENVELOPE, ring("other")], ids=["no key", "another key"])
def test_without_its_key_a_record_is_not_read_and_can_still_end(
    store: RedisTaskStore, redis_url: str, clock: Clock, lacking: Envelope
) -> None:
    keyless = store_of(redis_url, lacking, clock=clock)
    asking, pending = parked(store), store.create(creation(arguments=SAID)).task
    done, _ = ended(store)
    running = store.create(creation(policy=Policy(lease_ms=1_000))).task
    store.claim(running.task_id, Claim(lease_id=new_token(), worker="w"))

    for task in (asking, done):
        with pytest.raises(RecordSealed, match="under the key 'new"):
            keyless.get(ALICE, task.task_id)
    with pytest.raises(RecordSealed):
        keyless.claim(pending.task_id, Claim(lease_id=new_token(), worker="w"))
    with pytest.raises(RecordSealed):
        keyless.apply(ALICE, asking.task_id, AnswerInput(answers={"q": SAID}))
    assert {task.task_id for task in keyless.page(ALICE).tasks} == {pending.task_id, running.task_id}
    assert len(keyless.tasks([task_hash(task.task_id) for task in (asking, pending, done)])) == 3
    assert not any(found.fixed for found in keyless.repair(quarantine=True))

    clock.pass_ms(30_000)
    keyless.apply_sweep(pending.task_id, Redispatch())
    keyless.apply_sweep(running.task_id, Reap())
    keyless.apply(ALICE, pending.task_id, Cancel())
    clock.pass_ms(asking.deadline_ms - clock.now_ms + 1)
    failed = keyless.apply_sweep(asking.task_id, DeadlinePassed())
    assert failed is not None
    assert (failed.status, failed.status_message) == (
        TaskStatus.FAILED,
        "A question was not answered in time.",
    )
    whole = store_of(redis_url, ring("new", "other", mode=Mode.ACCEPT)).inspect(asking.task_id)
    assert (whole.arguments, whole.task.variables, len(whole.journal)) == (SAID, {CANARY: SAID}, 1)
    clock.pass_ms(40 * 86_400_000)
    assert keyless.apply_sweep(done.task_id, Expire()) is None


def test_a_wrong_key_of_the_right_name_is_a_missing_key_and_repair_touches_nothing(
    store: RedisTaskStore, redis_url: str, client: Any
) -> None:
    task, _ = ended(store)
    before = client.hgetall(record_key(task))
    wrong = Envelope([EncryptionKey("new", bytes(range(32)))])
    with pytest.raises(RecordSealed, match="under the key 'new"):
        store_of(redis_url, wrong).get(ALICE, task.task_id)
    assert not any(found.fixed for found in store_of(redis_url, wrong).repair(quarantine=True))
    assert client.hgetall(record_key(task)) == before


def test_the_next_write_encrypts_anew_what_it_reads(redis_url: str, client: Any) -> None:
    task = parked(store_of(redis_url, ring("old")))
    both = store_of(redis_url, ring("new", "old"))
    both.apply(ALICE, task.task_id, AnswerInput(answers={"q": SAID}))
    stored = client.hgetall(record_key(task))
    assert stored["vars"].startswith("~1.new.")
    assert stored["j:1"].startswith("~1.new.")
    assert stored["arguments"].startswith("~1.old.")


@pytest.mark.parametrize(
    ("before", "during", "after"),
    [
        (ring("old"), ring("new", "old"), ring("new")),
        (NO_ENVELOPE, ring("new", mode=Mode.ACCEPT), ring("new")),
        (ring("old"), ring("old", mode=Mode.PREPARE), NO_ENVELOPE),
    ],
    ids=["another key", "encrypted from now on", "no more"],
)
def test_what_was_written_before_is_encrypted_anew_and_nobody_misses_the_old_key(
    redis_url: str, client: Any, before: Envelope, during: Envelope, after: Envelope
) -> None:
    tasks = (parked(store_of(redis_url, before)), *ended(store_of(redis_url, before)))
    lives = {key: client.pexpiretime(key) for key in client.scan_iter("ts:{00}:*")}
    store = store_of(redis_url, during)

    assert len(list(store.reencrypt(dry_run=True))) == len(tasks)
    assert [found.problem for found in store.reencrypt()] == [""] * len(tasks)

    assert list(store.reencrypt(dry_run=True)) == []
    for task in tasks:
        read_whole(store_of(redis_url, after), task)
    again = creation(
        task_id=tasks[0].task_id[:-4] + "AAAA", arguments=SAID, idempotency="k", request_digest=CANARY
    )
    assert store_of(redis_url, after).create(again).task.task_id == tasks[0].task_id
    assert {key: client.pexpiretime(key) for key in lives} == lives
    assert list(store_of(redis_url, after).repair(dry_run=True)) == []


def test_records_are_encrypted_anew_beside_live_traffic_and_no_read_fails(
    redis_url: str, measured: Callable[[str, str], None]
) -> None:
    first = store_of(redis_url, ring("old"))
    owners = [Owner(f"owner{number}") for number in range(20)]
    tasks = [
        first.create(creation(owner, arguments=SAID)).task
        for owner, _ in zip(itertools.cycle(owners), range(RECORDS), strict=False)
    ]
    over, failed, done = threading.Event(), list[BaseException](), Counter[str]()

    def traffic(envelope: Envelope, seed: int) -> None:
        store, choose = store_of(redis_url, envelope), random.Random(seed)
        while not over.is_set():
            try:
                task = choose.choice(tasks)
                assert store.inspect(task.task_id).arguments == SAID
                asked = parked(store, idempotency="")
                store.apply(ALICE, asked.task_id, AnswerInput(answers={"q": SAID}))
                assert store.get(ALICE, asked.task_id).task.variables == {CANARY: SAID}
                done["rounds"] += 1
            except BaseException as error:
                failed.append(error)

    # A roll is on its way: one front end has the new key first already, one does not.
    rings = [ring("new", "old"), ring("new", "old"), ring("old", "new")]
    threads = [threading.Thread(target=traffic, args=(each, n)) for n, each in enumerate(rings)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    found = list(store_of(redis_url, ring("new", "old")).reencrypt(task_hash(task.task_id) for task in tasks))
    seconds = time.monotonic() - began
    over.set()
    for thread in threads:
        thread.join()

    measured(
        "S10", f"{len(tasks)} records in {seconds:.1f} s beside {done['rounds']} rounds of three clients"
    )
    assert failed == []
    assert [each.problem for each in found] == [""] * len(tasks)
    assert done["rounds"]
    assert RECORDS < 10_000 or seconds <= MOST_SECONDS
    last = store_of(redis_url, ring("new"))
    assert {last.inspect(task.task_id).arguments for task in tasks} == {SAID}


def test_a_process_without_the_key_that_others_encrypt_with_is_refused(redis_url: str) -> None:
    def problems(envelope: Envelope) -> list[str]:
        found = store_of(redis_url, envelope).check_secrets(Fingerprints(), notes=True)
        return [finding.what for finding in found if finding.severity is Severity.ERROR]

    assert problems(NO_ENVELOPE) == []
    assert problems(ring("old")) == []
    for lacking in (NO_ENVELOPE, ring("new")):
        assert "under the key 'old." in problems(lacking)[0]
    assert problems(ring("old", "new")) == problems(ring("new", "old")) == problems(ring("new")) == []
    assert "under the key 'new." in problems(ring("old"))[0]


def test_what_a_running_tool_reports_is_sealed_on_its_way(redis_url: str, client: Any) -> None:
    subscribed = client.pubsub()
    name = task_hash("t")
    subscribed.subscribe(f"ts:reports:{name}")
    subscribed.get_message(timeout=5)
    reports = (Progress(current=1, message=CANARY), LogMessage(LogLevel.INFO, JsonText(f'"{CANARY}"')))
    assert store_of(redis_url, ring("new")).report([Reported(name, reports)]) == [1]
    published = subscribed.get_message(timeout=5)["data"]
    subscribed.close()
    assert published.startswith("~1.new.")
    assert parse_reported(ring("new"), name, published) == Reported(name, reports)
    assert parse_reported(ring("new"), "another", published) is None
    assert parse_reported(NO_ENVELOPE, name, published) is None


def test_answers_of_a_session_and_why_one_was_refused_are_sealed(redis_url: str, client: Any) -> None:
    async def leave(envelope: Envelope) -> tuple[Any, str]:
        async with aclosing(AsyncRedisTaskStore(redis_url, envelope=envelope, deadline=60.0)) as store:
            await store.sessions.leave_answer("interview", CANARY[:3], SAID)
            await store.sessions.refuse("t", "q", CANARY)
            assert [text for text in everything(client) if CANARY in text] == []
            return await store.sessions.answers("interview"), (
                await store.sessions.take_ask_lock("t", "q", "stream")
            ).problem

    async def read(envelope: Envelope) -> None:
        async with aclosing(AsyncRedisTaskStore(redis_url, envelope=envelope, deadline=60.0)) as store:
            await store.sessions.answers("interview")

    assert asyncio.run(leave(ring("new"))) == ({CANARY[:3]: SAID}, CANARY)
    with pytest.raises(RecordSealed):
        asyncio.run(read(ring("other")))


@pytest.fixture
def restored_logs() -> Iterator[None]:
    yield
    put_words_into_logs()


@pytest.mark.usefixtures("restored_logs")
def test_a_client_of_a_front_end_without_the_key_is_told_of_an_error_and_nothing_else(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, _ = ended(store_of(redis_url, ring("new")), owner_of(LOCAL_USER, SECRET.encode()))
    keys = settings(redis_url, tmp_path, encryption_keys=configured("other"))
    with serving(registry(), keys) as port, WireClient(port) as client:
        reply = client.request("tasks/get", {"taskId": done.task_id})
    assert reply.error == {"code": -32603, "message": "Internal server error"}
    assert "under the key 'new." in caplog.text
    assert "~1." not in reply.body.decode() + caplog.text


def test_operators_encrypt_anew_and_are_told_which_keys_are_still_needed(redis_url: str) -> None:
    parked(store_of(redis_url, ring("old")))
    run = CliRunner(env={"TASKS_REDIS_URL": redis_url, "TASKS_ENCRYPTION_KEYS": configured("new", "old")})
    ready = Settings(redis_url=redis_url, encryption_keys=configured("new", "old"))  # type: ignore[arg-type]

    def warned() -> list[str]:
        store = store_of(redis_url, ready.envelope)
        return [found.what for found in check_records(Examination(TaskService("Test"), ready, store))]

    assert "1 of 1 records that were looked at are under older keys (old." in warned()[0]
    looked = run.invoke(commands, ["reencrypt", "--dry-run"])
    assert (looked.exit_code, "1 records, under the key old." in looked.stdout) == (1, True)
    assert run.invoke(commands, ["reencrypt"]).exit_code == 0
    again = run.invoke(commands, ["reencrypt", "--json", "--dry-run"])
    assert (again.exit_code, again.stdout) == (0, "")
    assert warned() == []


def test_operators_without_the_key_list_and_cancel_and_are_told_what_they_lack(redis_url: str) -> None:
    task = parked(store_of(redis_url, ring("new")))
    run = CliRunner(env={"TASKS_REDIS_URL": redis_url})
    name = task_hash(task.task_id)

    listed = run.invoke(commands, ["list"])
    shown = run.invoke(commands, ["inspect", name])
    cancelled = run.invoke(commands, ["cancel", name])
    encrypted = run.invoke(commands, ["reencrypt"])

    assert listed.exit_code == 0, listed.output
    assert "under the key 'new." in listed.output
    assert isinstance(shown.exception, RecordSealed)
    assert cancelled.exit_code == 0, cancelled.output
    assert isinstance(encrypted.exception, ConfigurationError)
    assert not any("~1." in each.output for each in (listed, shown, cancelled, encrypted))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("a", "not of the form id:key"),
        (f"a:{CANARY}", "not of the form id:key"),
        ("a:" + "QUFB" * 11, "not of the form id:key"),
        ("a b:" + configured("a")[2:], "not of the form id:key"),
        ("a:" + "A" * 43 + "=", "not random"),
        (configured("a", "a"), "two keys are named 'a'"),
    ],
)
def test_keys_that_are_none_are_refused_at_start_and_not_repeated(keys: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refusal:
        Settings(encryption_keys=keys)  # type: ignore[arg-type]
    told = str(refusal.value).partition("[type=")[0]
    assert not any(len(part) > 8 and part in told for part in keys.replace(":", ",").split(","))


def test_settings_with_keys_can_be_copied_to_another_process() -> None:
    ready = Settings(encryption_keys=configured("a"))  # type: ignore[arg-type]
    there = pickle.loads(pickle.dumps(ready))
    text = ready.envelope.of("o", "t").seal("result", CANARY)
    assert there.envelope.of("o", "t").open("result", text) == CANARY
    assert CANARY not in text


def test_no_key_is_shown_with_what_holds_it() -> None:
    ready = Settings(encryption_keys=configured("a"))  # type: ignore[arg-type]
    shown = repr(ready) + repr(ready.envelope) + repr(vars(ready.envelope))
    assert configured("a").partition(":")[2] not in shown


def test_a_file_of_keys_is_read_if_only_its_owner_can(tmp_path: Any) -> None:
    path = tmp_path / "keys"
    path.write_text("# the newest first\n" + configured("b", "a").replace(",", "\n"))
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        Settings(encryption_keys_file=path)
    path.chmod(0o600)
    assert Settings(encryption_keys_file=path).envelope.key_names == ring("b", "a").key_names
