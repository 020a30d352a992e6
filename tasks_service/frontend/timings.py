"""The times that a front end waits, in one place, so that tests can run one that waits less."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long a front end waits for what; all in seconds.

    Attributes:
        heal: Longest wait for a change before whoever waits reads again, since a wake-up may be lost.
        registry: Pause between two looks whether there are services that were not known.
        retry: Pause before something is tried again that the store did not answer.
        catch_up: Longest wait for reports that a read may have overtaken, and for the first subscription.
        body: How long a client may take to send the body of a request.
        deferral: How long an answer may take before it becomes a stream, and between two signs of life on it.
        answer: How long a client may take to answer what is asked before there is a task.
        result_first: How long a session's own stream leaves a question to a `tasks/result`.
        abandon: How long one attempt may take to cancel an abandoned execution; then it is tried again.
        recheck: Pause between two looks whether a stream's client is still allowed to have it.
        stop: How long requests that wait may go on when the front end stops.
        linger: On stdio: how long what was asked before the end of input may still be answered.
        end: On stdio: how long the calls of a client that has gone may take to be cancelled.
        flush: On stdio: how long the last messages may take to be read.
        ping: On stdio: pause between two attempts to reach a store that is only starting.
    """

    heal: float = 5.0
    registry: float = 1.0
    retry: float = 1.0
    catch_up: float = 1.0
    body: float = 30.0
    deferral: float = 15.0
    answer: float = 3600.0
    result_first: float = 1.5
    abandon: float = 2.0
    recheck: float = 60.0
    stop: float = 2.0
    linger: float = 0.5
    end: float = 1.2
    flush: float = 0.2
    ping: float = 0.1


DEFAULT_TIMINGS = Timings()
