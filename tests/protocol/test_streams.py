"""Messages on their way to a stream whose reader is slow."""

from __future__ import annotations

from tasks_service.frontend.transport.outgoing import STREAM_EVENTS, STREAM_REPORTS, Outgoing


def test_messages_leave_in_the_order_in_which_they_came() -> None:
    outgoing = Outgoing()
    for number in range(3):
        outgoing.put({"number": number})

    assert [message["number"] for message in outgoing.take()] == [0, 1, 2]
    assert outgoing.take() == []


def test_of_too_many_messages_the_oldest_are_dropped() -> None:
    outgoing = Outgoing()
    for number in range(STREAM_EVENTS + 10):
        outgoing.put({"number": number})

    taken = [message["number"] for message in outgoing.take()]
    assert taken == list(range(10, STREAM_EVENTS + 10))


def test_only_the_latest_of_a_kind_waits() -> None:
    outgoing = Outgoing()
    outgoing.put({"status": "working"}, instead_of="task 1")
    outgoing.put({"status": "working"}, instead_of="task 2")
    outgoing.put({"status": "completed"}, instead_of="task 1")

    assert outgoing.take() == [{"status": "working"}, {"status": "completed"}]


def test_reports_are_dropped_before_anything_else() -> None:
    outgoing = Outgoing()
    outgoing.put({"question": 0})
    for number in range(STREAM_EVENTS + 10):
        outgoing.put({"report": number}, report=True)
    reports = [message["report"] for message in outgoing.take()[1:]]
    assert reports == list(range(STREAM_EVENTS + 10))[-STREAM_REPORTS:]

    outgoing.put({"report": 0}, report=True)
    for number in range(STREAM_EVENTS):
        outgoing.put({"question": number})
    assert [message["question"] for message in outgoing.take()] == list(range(STREAM_EVENTS))
