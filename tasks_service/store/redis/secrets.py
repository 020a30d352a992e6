"""Whether the processes of a store have the same secrets: the store keeps fingerprints, and never a secret.

A front end whose secret keys other hashes of owners finds none of their tasks, and everything else about it
is well. So the first front end that reaches a store notes the fingerprints of its secrets, and every later
one compares. That of owners never changes. That of sealing may, one step at a time: whoever can open what
the noted secret has sealed may seal with another, and notes that. So may who verifies what the noted secret
has signed, with the secret that signs messages: it is noted by workers as well. A process that does not
sign at all is refused once a worker has noted that it drops what is not signed. A process that encrypts what
it stores notes the name of its key, and one that does not have that key is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redis.exceptions import ResponseError

from ...crypto.envelope import Envelope
from ...crypto.keys import Fingerprints
from ...domain.errors import StoreFull
from ..findings import Finding, Severity
from .layout import Command, Layout
from .transaction import Program, Reply, once

OWNERS, SEALING, MESSAGES = "owners", "sealing", "messages"
"""The fields: what a secret is for."""

RECORDS = "records"
"""The field that names the key under which what is stored is encrypted."""

UNSIGNED, REFUSED = "unsigned", "refused"
"""The field that says what workers do with messages that are not signed, and its value if they drop them."""


def compare_secrets(
    layout: Layout, ours: Fingerprints, envelope: Envelope, deadline: float, *, notes: bool = True
) -> Program[list[Finding]]:
    """What is wrong with the secrets of a process, as one error at most.

    Args:
        layout: Names the keys.
        ours: The fingerprints of its secrets.
        envelope: Its keys for what is stored.
        deadline: Seconds that each question may take.
        notes: Whether they are noted where nothing is known yet, or where they replace what was noted.

    Raises:
        StoreUnavailable: No answer in time.
    """
    key = layout.home.index("secrets")
    read: Command = ("HGETALL", key)
    (reply,) = yield from once([read], deadline)
    if isinstance(reply, ResponseError):
        return [_misshapen(key, reply)]
    first = {OWNERS: ours.owners} if ours.owners else {}
    first |= {SEALING: ours.sealing[0]} if ours.sealing else {}
    lacking: list[Command] = [("HSETNX", key, *item) for item in first.items() if item[0] not in reply[::2]]
    if lacking and notes:
        # Of several who are first at once, one is; all read who.
        *_, reply = yield from _written([*lacking, read], deadline, otherwise=reply)
    noted = dict(zip(reply[::2], reply[1::2], strict=True))
    found = list(_differences(key, noted, ours)) or list(_lacking_keys(key, noted, envelope))
    renewed = {} if not ours.sealing else {SEALING: ours.sealing[0]}
    # Not by HSETNX, which the Redis users of workers never needed.
    renewed |= {} if not ours.messages else {MESSAGES: ours.messages[0]}
    renewed |= {} if not ours.refuses_unsigned else {UNSIGNED: REFUSED}
    renewed |= {} if envelope.sealing_name is None else {RECORDS: envelope.sealing_name}
    changed = [part for item in renewed.items() if noted.get(item[0]) != item[1] for part in item]
    if notes and not found and changed:
        yield from _written([("HSET", key, *changed)], deadline, otherwise=None)
    return found


def _written(commands: Sequence[Command], deadline: float, *, otherwise: Reply) -> Program[list[Reply]]:
    """The replies to writes; a store that has no memory for them is told of elsewhere."""
    try:
        return (yield from once(commands, deadline))
    except StoreFull:
        return [otherwise]


def _differences(key: str, noted: dict[str, str], ours: Fingerprints) -> Iterator[Finding]:
    if ours.owners and noted.get(OWNERS, ours.owners) != ours.owners:
        yield Finding(
            severity=Severity.ERROR,
            what="This process has another secret than the front ends that have used this store: it would "
            "find none of the tasks that their callers own.",
            fix="Set TASKS_SECRET to the same secret for every front end (where it is not set, each "
            "TASKS_DATA_DIR has a secret of its own, in the file named secret), and TASKS_OWNER_SECRET too "
            "if theirs have it; or give this deployment a store of its own, by TASKS_KEY_PREFIX. If no "
            f"stored task matters any more, run: redis-cli DEL '{key}'",
        )
    elif ours.sealing and noted.get(SEALING, ours.sealing[0]) not in ours.sealing:
        yield Finding(
            severity=Severity.ERROR,
            what="This process seals with another secret than the front ends that have used this store, and "
            "cannot open what they have sealed.",
            fix="Set TASKS_SECRET to that of the other front ends. To change it, let TASKS_ACCEPTED_SECRETS "
            "name the old one meanwhile. If the old one has leaked and must not be accepted, stop all front "
            f"ends and run: redis-cli HDEL '{key}' {SEALING}",
        )
    elif ours.messages and noted.get(MESSAGES, ours.messages[0]) not in ours.messages:
        yield Finding(
            severity=Severity.ERROR,
            what="This process signs messages with another secret than those that have used this store: "
            "workers would drop what it sends.",
            fix="Set TASKS_MESSAGE_SECRET to that of the other front ends, workers and beats. To change it, "
            "let TASKS_ACCEPTED_MESSAGE_SECRETS name the old one meanwhile. If the old one has leaked and "
            f"must not be accepted, stop all of them and run: redis-cli HDEL '{key}' {MESSAGES}",
        )
    elif not ours.messages and noted.get(UNSIGNED) == REFUSED:
        yield Finding(
            severity=Severity.ERROR,
            what="Workers of this store drop messages that are not signed, and this process signs none: it "
            "has no TASKS_MESSAGE_SECRET.",
            fix="Set it to that of the workers. To do without signatures again, take the variable from all "
            f"processes and run: redis-cli HDEL '{key}' {MESSAGES} {UNSIGNED}",
        )


def _lacking_keys(key: str, noted: dict[str, str], envelope: Envelope) -> Iterator[Finding]:
    name = noted.get(RECORDS)
    if name is not None and name not in envelope.key_names:
        yield Finding(
            severity=Severity.ERROR,
            what=f"Other processes encrypt what they store under the key {name!a}, and this one does not "
            "have it: it could read none of their tasks.",
            fix="Add the key to its TASKS_ENCRYPTION_KEYS; a new key goes to every process before it is put "
            'first in any (docs/guide-operators.md, "Encrypting what is stored"). If no stored task matters '
            "any more, or encryption was given up and nothing is encrypted now, run: "
            f"redis-cli HDEL '{key}' {RECORDS}",
        )


def _misshapen(key: str, reply: ResponseError) -> Finding:
    return Finding(
        severity=Severity.ERROR,
        what=f"{key} does not say which secrets the front ends have: {reply}.",
        fix="Run tasks-service repair, which moves it aside.",
    )
