"""What the streams of a session share: where things are, and what each stream is for."""

from __future__ import annotations

from dataclasses import dataclass

from ...store.clients import AsyncClientStore
from ...store.sessions import Session, SessionStore
from ..core.change_feed import ChangeFeed
from ..core.reports import Reporting
from ..core.stopping import Stopping
from ..core.waiting_calls import WaitingCalls
from ..timings import Timings
from ..transport.outgoing import Outgoing
from .question_requests import QuestionRequests
from .resumption import ResumePoints


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPolicy:
    """What a stream reports of a task, and whether it asks.

    Attributes:
        session: Whose stream it is.
        outgoing: The stream.
        can_be_asked: Whether requests reach the client on it.
        names_task: Whether the client knows the task, so that messages say whose they are.
        reports: Whether changes of status are reported.
        reporting: Takes what the tool says; None if the client wants none of it here.
        takes_reports: Whether it reports instead of the session's own stream while it is open.
        resumed: Whether the stream follows one that may have reported what is so now.
        may_poll_later: Whether the client is let go while the task sleeps, to come back when it wakes.
        leave_to_others: Seconds that a question is left to other streams.
    """

    session: Session
    outgoing: Outgoing
    can_be_asked: bool = True
    names_task: bool = True
    reports: bool = False
    reporting: Reporting | None = None
    takes_reports: bool = False
    resumed: bool = False
    may_poll_later: bool = False
    leave_to_others: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionServices:
    """What sessions need of the front end.

    Attributes:
        store: Where tasks are.
        sessions: Where sessions are.
        questions: Makes the requests that ask questions, and records the answers.
        feed: Says when something has changed.
        resume_points: Make the ids of events that a stream can go on from.
        waiting_calls: Lets calls wait.
        stopping: Ends other waits when the front end stops.
        service: The service that sessions are with; empty where there is one path only.
        tools_changed: The name that is woken when the tools have changed by themselves.
    """

    store: AsyncClientStore
    sessions: SessionStore
    questions: QuestionRequests
    feed: ChangeFeed
    resume_points: ResumePoints
    waiting_calls: WaitingCalls
    stopping: Stopping
    service: str
    tools_changed: str

    @property
    def timings(self) -> Timings:
        """How long to wait for what."""
        return self.feed.timings
