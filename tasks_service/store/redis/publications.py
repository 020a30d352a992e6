"""What is published: that a task has changed, and what its tool says while it runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ...crypto.envelope import Envelope
from ...domain.errors import RecordSealed, StoreUnavailable
from ..changes import Change, Reported
from . import codec
from .layout import Layout
from .transaction import LostConnection, Program, Reply, RoundTrip, once

logger = logging.getLogger(__name__)


def announce(layout: Layout, name: str, deadline: float) -> Program[list[Reply]]:
    """Wake whoever watches a name, in every front end."""
    return once([("PUBLISH", layout.changes, f"{name} 0")], deadline)


def report(layout: Layout, envelope: Envelope, reported: Sequence[Reported]) -> Program[list[int]]:
    """See `WorkerStore.report`. Tried once: a report that is late is worth less than the next one."""
    commands = [
        ("PUBLISH", layout.reports(name), codec.encode_reports(envelope, name, reports))
        for name, reports in reported
    ]
    try:
        replies = yield RoundTrip(commands)
    except LostConnection as error:
        raise error.failure.error() from None
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreUnavailable(str(reply))
    return replies


def parse_reported(envelope: Envelope, name: str, text: str) -> Reported | None:
    """What was published of a task, read back; None if it cannot be."""
    try:
        return Reported(name, codec.decode_reports(envelope, name, text))
    except (ValueError, RecordSealed) as error:
        logger.warning("A report was dropped: %s", error)
        return None


def parse_change(text: str) -> Change:
    """What was published, read back; a newer release may say more behind it."""
    name, revision, *_ = text.split(" ")
    return Change(name, int(revision))
