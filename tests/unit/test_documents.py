"""How objects are stored by name: defaults, what is unknown, and versions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tasks_service.crypto.envelope import NO_ENVELOPE
from tasks_service.domain.decide import IdempotencyRecord
from tasks_service.domain.errors import CorruptRecord, RecordTooNew
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import (
    ClientCapability,
    Lease,
    Owner,
    Policy,
    Progress,
    Task,
    TaskStatus,
    ToolException,
)
from tasks_service.store.redis import codec, schema
from tasks_service.store.redis.documents import (
    REQUIRED,
    Document,
    Field,
    Shape,
    Step,
    StoredFields,
    Versions,
    Words,
)
from tasks_service.store.redis.layout import Shard, last_ms, sorted_index_entries

TASK = Task(
    task_id="00" + "a" * 24,
    owner=Owner("o"),
    tool="t",
    queue="q",
    policy=Policy(max_attempts=5),
    status=TaskStatus.WORKING,
    revision=1,
    created_ms=1,
    updated_ms=2,
    due_ms=3,
    deadline_ms=4,
    expires_ms=5,
    lease=Lease(lease_id="l", until_ms=6, worker="w"),
    progress=Progress(current=1),
)
IN_OBJECTS = ("policy", "lease", "progress")


def stored(task: Task) -> dict[str, str]:
    return codec.encode(task)


def read(fields: dict[str, str]) -> Task:
    task = codec.decode(NO_ENVELOPE, TASK.task_id, [fields[name] or None for name in codec.STATE_FIELDS])
    assert task is not None
    return task


def with_unknown(fields: dict[str, str]) -> dict[str, str]:
    """As a newer release would have written it: a field more in each object."""
    state = json.loads(fields["state"])
    for where in (state, *(state[name] for name in IN_OBJECTS)):
        where["newer"] = {"list": [1, "é"]}
    return {**fields, "state": json.dumps(state)}


def test_capabilities_are_the_text_of_a_list_and_what_only_a_newer_release_knows_is_passed_over() -> None:
    able = replace(TASK, capabilities=frozenset({ClientCapability.URL, ClientCapability.FORM}))
    fields = stored(able)
    assert json.loads(fields["state"])["capabilities"] == '["form","url"]'
    assert read(fields) == able
    newer = json.loads(fields["state"]) | {"capabilities": '["form", "smell", "url"]'}
    assert read({**fields, "state": json.dumps(newer)}) == able
    assert "capabilities" not in json.loads(stored(TASK)["state"])


def test_what_is_unknown_survives_a_rewrite_with_the_object_that_it_belongs_to() -> None:
    task = read(with_unknown(stored(TASK)))
    assert task.lease is not None
    after = json.loads(stored(replace(task, lease=replace(task.lease, until_ms=9), updated_ms=9))["state"])
    for where in (after, *(after[name] for name in IN_OBJECTS)):
        assert where["newer"] == {"list": [1, "é"]}


def test_what_is_unknown_goes_with_its_object() -> None:
    task = read(with_unknown(stored(TASK)))
    after = json.loads(stored(replace(task, lease=Lease(lease_id="m", until_ms=1, worker="w")))["state"])
    assert "newer" not in after["lease"]


def test_a_missing_field_has_the_default_of_the_schema_and_a_default_is_not_stored() -> None:
    state = json.loads(stored(TASK)["state"])
    assert state["policy"] == {"attempts": 5} and "claims" not in state
    assert read(stored(TASK)) == TASK


def test_the_expiry_that_an_older_release_wrote_into_a_live_record_ends_nothing() -> None:
    shard, ended = Shard("ts:{00}"), replace(TASK, status=TaskStatus.COMPLETED, lease=None)
    assert TASK.expires_ms
    assert last_ms(TASK) == last_ms(replace(TASK, expires_ms=0)) == 1 + TASK.policy.max_lifetime_ms
    assert sorted_index_entries(shard, TASK) == sorted_index_entries(shard, replace(TASK, expires_ms=0))
    assert last_ms(ended) == TASK.expires_ms


def test_a_live_task_stores_no_expiry_and_no_task_what_is_kept_as_of_now() -> None:
    state = json.loads(stored(replace(TASK, expires_ms=0, as_of_ms=9))["state"])
    assert not {"expires", "kept_until"} & state.keys()
    assert read(stored(replace(TASK, as_of_ms=9))).as_of_ms == 0


def test_the_end_of_an_idempotency_key_that_an_older_release_wrote_is_read_over() -> None:
    remembered = schema.IDEMPOTENCY.value('{"task":"t","digest":"d","until":7}')
    assert remembered == IdempotencyRecord(task_id="t", request_digest="d")


@pytest.mark.parametrize("name", [field.stored for field in schema.TASK.fields if field.default is REQUIRED])
def test_a_required_field_is_never_invented(name: str) -> None:
    fields = stored(TASK)
    state = json.loads(fields["state"])
    if name in state:
        del state[name]
        fields["state"] = json.dumps(state)
    else:
        fields[name] = ""
    with pytest.raises(CorruptRecord):
        read(fields)


def test_a_newer_version_is_refused_and_told_from_damage() -> None:
    with pytest.raises(RecordTooNew, match=r"version 9.*up to 1: roll out the newer release .*upgrading\.md"):
        read({**stored(TASK), "v": "9"})


def test_the_id_of_a_record_is_compared_in_full_and_its_name_leads_to_it() -> None:
    values = [stored(TASK)[name] or None for name in codec.STATE_FIELDS]
    assert codec.decode(NO_ENVELOPE, task_hash(TASK.task_id), values) == TASK
    assert codec.decode(NO_ENVELOPE, "00" + "b" * 24, values) is None
    with pytest.raises(CorruptRecord, match="it is the record of task"):
        codec.decode(NO_ENVELOPE, task_hash("00" + "b" * 24), values)


def test_every_member_of_an_enum_needs_a_stored_name() -> None:
    with pytest.raises(ValueError, match="no stored name"):
        Words({"working": TaskStatus.WORKING})


def _moved(fields: StoredFields, old: str, new: str) -> StoredFields:
    fields[new] = fields.pop(old)
    return fields


RENAMED = Step(lambda old: _moved(old, "from", "to"), lambda new: _moved(new, "to", "from"))


class Thing:
    def __init__(self, place: str) -> None:
        self.place = place


def document(stored_name: str, versions: Versions) -> Document[Thing]:
    return Document(Shape(Thing, [Field(stored_name, "place")]), versions)


def test_a_renamed_field_is_read_in_both_versions_and_written_in_that_of_the_release_before() -> None:
    first, second = document("from", Versions()), document("to", Versions([RENAMED], written=1))
    third = document("to", Versions([RENAMED]))
    assert first.value(second.text(Thing("here"))).place == "here"
    assert second.value(first.text(Thing("here"))).place == "here"
    assert second.value(third.text(Thing("here"))).place == "here"
    assert third.value(second.text(Thing("here"))).place == "here"
    with pytest.raises(RecordTooNew):
        first.value(third.text(Thing("here")))


@pytest.mark.parametrize(
    "changes",
    [
        {"created": "soon"},
        {"created": True},
        {"created": -1},
        {"created": 2**70},
        {"owner": ""},
        {"owner": "\ud800"},
        {"message": 5},
        {"visible": 1},
        {"used_keys": "abc"},
        {"lease": {"id": "l", "until": None, "worker": "w"}},
        {"progress": {"current": float("nan")}},
        {"policy": []},
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_damage_and_not_passed_on(changes: dict[str, object]) -> None:
    fields = stored(TASK)
    state = json.loads(fields["state"]) | changes
    with pytest.raises(CorruptRecord):
        read({**fields, "state": json.dumps(state)})


def test_a_whole_number_is_read_where_a_fraction_may_stand() -> None:
    assert read(stored(replace(TASK, progress=Progress(current=2, total=3.5)))).progress is not None


def test_an_exception_is_read_back_and_a_damaged_one_is_refused() -> None:
    raised = ToolException(type="KeyError", message="é", traceback="t", claim=2)
    assert codec.decode_exception(NO_ENVELOPE.of("", "t"), codec.encode_exception(raised)) == raised
    assert codec.decode_exception(NO_ENVELOPE.of("", "t"), None) is None
    for damaged in ("", "null", "[]", '{"type": 5}', "[" * 100_000):
        with pytest.raises(CorruptRecord):
            codec.decode_exception(NO_ENVELOPE.of("", "t"), damaged)
