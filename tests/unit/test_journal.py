"""Replay: which call gets which recorded outcome, and what is said when none fits."""

from __future__ import annotations

import pytest

from tasks_service import ConfigurationError
from tasks_service.domain.errors import HistoryMismatch
from tasks_service.domain.task import EntryKind, JournalEntry, JsonText
from tasks_service.durable.journal import Call, Journal

STEP, ANSWER, TIMER = EntryKind.STEP, EntryKind.ANSWER, EntryKind.TIMER


def entry(kind: EntryKind, name: str, value: str = "1", digest: str = "d") -> JournalEntry:
    return JournalEntry(kind=kind, name=name, digest=digest, value=JsonText(value))


def call(kind: EntryKind, name: str, digest: str = "d") -> Call:
    return Call(kind, name, digest)


def ordered(*entries: JournalEntry) -> Journal:
    return Journal(entries, ordered=True)


def by_name(*entries: JournalEntry) -> Journal:
    return Journal(entries, ordered=False)


def values(met: list[JournalEntry] | None) -> list[str] | None:
    return None if met is None else [str(found.value) for found in met]


def mismatch(journal: Journal, *calls: Call) -> HistoryMismatch:
    with pytest.raises(HistoryMismatch) as raised:
        journal.match(calls)
    return raised.value


@pytest.mark.parametrize("is_ordered", [True, False])
def test_calls_meet_their_entries_and_then_there_is_something_new(is_ordered: bool) -> None:
    journal = Journal([entry(STEP, "a", "1"), entry(TIMER, "b", "2")], ordered=is_ordered)
    assert values(journal.match([call(STEP, "a")])) == ["1"]
    assert values(journal.match([call(TIMER, "b")])) == ["2"]
    assert journal.match([call(ANSWER, "c")]) is None
    journal.finish()


def test_a_sync_tool_that_calls_in_another_order_has_changed() -> None:
    journal = ordered(entry(STEP, "a"), entry(STEP, "b"))
    said = mismatch(journal, call(STEP, "b"))
    assert (said.index, said.expected, said.found) == (0, "step 'b'", "step 'a'")
    assert "journal entry 0 is step 'a', but the tool now comes to step 'b'" in str(said)


def test_an_async_tools_branches_may_overtake_one_another() -> None:
    journal = by_name(entry(STEP, "a", "1"), entry(STEP, "b", "2"))
    assert values(journal.match([call(STEP, "b")])) == ["2"]
    assert values(journal.match([call(STEP, "a")])) == ["1"]


@pytest.mark.parametrize("is_ordered", [True, False])
def test_the_same_name_of_another_kind_is_no_match(is_ordered: bool) -> None:
    journal = Journal([entry(STEP, "a", "1")], ordered=is_ordered)
    if is_ordered:
        assert mismatch(journal, call(ANSWER, "a")).found == "step 'a'"
    else:
        assert journal.match([call(ANSWER, "a")]) is None
        with pytest.raises(HistoryMismatch):
            journal.finish()


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize(("kind", "what"), [(STEP, "other arguments"), (ANSWER, "another schema")])
def test_another_digest_never_gets_the_recorded_value(is_ordered: bool, kind: EntryKind, what: str) -> None:
    journal = Journal([entry(kind, "a", digest="old")], ordered=is_ordered)
    said = mismatch(journal, call(kind, "a", "new"))
    assert said.index == 0
    assert what in said.found
    with pytest.raises(HistoryMismatch):
        journal.finish()  # an author's `except Exception` does not make it fit


def test_answers_to_questions_asked_together_are_found_in_whatever_order_they_came() -> None:
    journal = ordered(entry(ANSWER, "b", "2"), entry(ANSWER, "a", "1"), entry(STEP, "s", "3"))
    assert values(journal.match([call(ANSWER, "a"), call(ANSWER, "b")])) == ["1", "2"]
    assert values(journal.match([call(STEP, "s")])) == ["3"]


def test_a_question_added_to_others_is_noticed_and_the_right_entry_is_named() -> None:
    journal = ordered(entry(ANSWER, "a"), entry(STEP, "s"))
    said = mismatch(journal, call(ANSWER, "a"), call(ANSWER, "b"))
    assert (said.index, said.expected, said.found) == (1, "answer 'b'", "step 's'")


@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_question_added_to_others_at_the_end_is_noticed(is_ordered: bool) -> None:
    journal = Journal([entry(ANSWER, "a")], ordered=is_ordered)
    said = mismatch(journal, call(ANSWER, "a"), call(ANSWER, "b"))
    assert (said.index, said.expected, said.found) == (1, "answer 'b'", "missing")


def test_a_call_put_in_front_is_noticed_before_it_does_anything() -> None:
    journal = ordered(entry(ANSWER, "a"))
    assert mismatch(journal, call(STEP, "new")).index == 0


def test_what_is_left_over_at_the_end_is_named() -> None:
    journal = by_name(entry(STEP, "a"), entry(TIMER, "b"))
    journal.match([call(STEP, "a")])
    with pytest.raises(HistoryMismatch) as raised:
        journal.finish()
    assert (raised.value.index, raised.value.expected, raised.value.found) == (
        1,
        "the end of the tool",
        "timer 'b'",
    )


def test_a_name_that_is_used_again_gets_a_number_for_each_kind() -> None:
    journal = ordered()
    assert [journal.name_of_use(STEP, "a") for _ in range(3)] == ["a", "a#2", "a#3"]
    assert journal.name_of_use(ANSWER, "a") == "a"


@pytest.mark.parametrize("name", ["", "a#2", "#7"])
def test_a_name_that_could_be_the_second_use_of_another_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be called"):
        ordered().name_of_use(STEP, name)


def test_a_hash_elsewhere_in_a_name_does_no_harm() -> None:
    assert ordered().name_of_use(STEP, "issue #7 closed") == "issue #7 closed"


def test_what_this_attempt_recorded_is_not_met_again_and_not_left_over() -> None:
    journal = ordered()
    journal.add(entry(STEP, "a"))
    assert len(journal) == 1
    assert journal.match([call(STEP, "b")]) is None
    journal.finish()


def test_answers_given_before_the_task_existed_are_taken_and_count_as_a_use_of_their_names() -> None:
    journal = ordered(entry(ANSWER, "title", "1"), entry(ANSWER, "title#2", "2"))
    taken = journal.take_answers({"title": "d"})
    assert {name: found.value for name, found in taken.items()} == {"title": "1"}
    assert journal.name_of_use(ANSWER, "title") == "title#2"
    assert values(journal.match([call(ANSWER, "title#2")])) == ["2"]
    journal.finish()


def test_an_answer_to_another_schema_is_not_taken() -> None:
    journal = ordered(entry(ANSWER, "title", digest="old"))
    assert journal.take_answers({"title": "new"}) == {}
    with pytest.raises(HistoryMismatch, match="answer 'title'"):
        journal.finish()


def test_an_answer_that_was_asked_for_later_is_not_taken() -> None:
    journal = ordered(entry(STEP, "a"), entry(ANSWER, "title"))
    assert journal.take_answers({"title": "d"}) == {}
