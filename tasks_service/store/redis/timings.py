"""How long the Redis store waits for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Waiting times of a store, in seconds.

    Attributes:
        connect: Give up a connection that is not made within this time.
        reply: Give up a connection of the blocking store when a reply takes longer than this.
        sentinel_reply: Ask another sentinel when a reply takes longer than this; they all know the same.
        reconnect: Wait this long before subscribing again, and between two checks that the server subscribed
            to is still the right one.
        grant_slot: Whoever gives a slot back spends at most this on granting it to the next task. A sweep
            grants what is left.
        memory: Ask a server for its memory use no more often than this.
    """

    connect: float = 1.0
    reply: float = 2.0
    sentinel_reply: float = 0.5
    reconnect: float = 0.5
    grant_slot: float = 0.25
    memory: float = 1.0


DEFAULT_TIMINGS = Timings()
