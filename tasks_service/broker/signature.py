"""The signature of a message: which of its parts are signed, and who may be believed.

Whoever can write to a broker can write anything there. A message of ours is believed only with the
signature of a process that has the secret of messages: a front end, a worker, a beat, or a program that
submits. Its queue is signed with it, so that it is worth nothing in another one. It may come twice: what a
message is worth, the record of its task decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ..crypto.keys import Fingerprints
from ..crypto.signing import Signer, message_ring
from ..settings import Settings

SIGNATURE: Final = "tasks_service_signature"
"""The header that holds it; Celery takes no notice, nor do older releases."""

PURPOSE: Final = "messages"
"""Of the key that signs."""

FORM: Final = 1
"""Number of the form of what is signed; another form needs another number."""

SIGNED_HEADERS: Final = (
    "task",
    "id",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "lang",
    "meth",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "replaced_task_nesting",
    "timelimit",
    "ignore_result",
    "stamped_headers",
    "stamps",
)
"""What Celery reads of the headers of a message; all else was added on the way, by an instrumentation."""

ANYWHERE: Final = ""
"""Stands for the queue of what beat asks for: whoever is given it does the same."""


def content_of(queue: str, headers: Mapping[str, Any], kwargs: Mapping[str, Any]) -> bytes:
    """What is signed of a message, as bytes: the same whoever writes it down.

    Args:
        queue: Where it is sent, or was found.
        headers: Its headers; with protocol 1, the fields of its body.
        kwargs: Its arguments.

    Raises:
        TypeError, ValueError, RecursionError: They are nothing that JSON can say.
    """
    named = {name: headers[name] for name in SIGNED_HEADERS if headers.get(name) is not None}
    return json.dumps([FORM, queue, named, kwargs], sort_keys=True, separators=(",", ":")).encode()


class MessageSigner:
    """Signs and verifies the messages of a deployment.

    Args:
        signer: Has the secrets.
        requires: Whether a message without a signature is refused.
        fingerprints: Of the secrets, see `Fingerprints.messages`.
    """

    def __init__(self, signer: Signer, *, requires: bool, fingerprints: tuple[str, ...] = ()) -> None:
        self._signer = signer
        self.requires = requires
        self.fingerprints = fingerprints

    def sign(self, queue: str, headers: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
        """The value of the header `SIGNATURE`."""
        return self._signer.sign(content_of(queue, headers, kwargs))

    def problem(
        self, signature: Any, queue: str, headers: Mapping[str, Any], kwargs: Mapping[str, Any]
    ) -> str | None:
        """Why a message may not be believed; None if it may."""
        if signature is None:
            return UNSIGNED if self.requires else None
        try:
            content = content_of(queue, headers, kwargs)
        except (TypeError, ValueError, RecursionError):
            return FORGED
        return None if isinstance(signature, str) and self._signer.verifies(signature, content) else FORGED


UNSIGNED: Final = (
    "it is not signed: it was forged, or sent by a process without TASKS_MESSAGE_SECRET "
    "(TASKS_MESSAGE_SIGNING=accept lets such messages run)"
)
FORGED: Final = (
    "its signature is wrong: it was forged or changed, or sent by a process with another TASKS_MESSAGE_SECRET"
)


def message_signer(settings: Settings) -> MessageSigner | None:
    """The signer of a process; None: it has no secret, signs nothing, and believes everything.

    Raises:
        ConfigurationError: A secret is too short, or cannot be read.
    """
    ring = message_ring(settings.message_secret, settings.accepted_message_secrets, settings.redis_url)
    if ring is None:
        return None
    return MessageSigner(
        Signer(ring, PURPOSE),
        requires=settings.message_signing == "required",
        fingerprints=ring.fingerprints(PURPOSE),
    )


def with_messages(
    fingerprints: Fingerprints, signer: MessageSigner | None, *, as_worker: bool = False
) -> Fingerprints:
    """The fingerprints of a process, with those of the secrets of its messages.

    Args:
        fingerprints: Of its other secrets.
        signer: Its own; None: it signs nothing.
        as_worker: Whether it takes messages, and so may refuse them.
    """
    if signer is None:
        return fingerprints
    return replace(fingerprints, messages=signer.fingerprints, refuses_unsigned=as_worker and signer.requires)
