"""The signatures of what beat asks for, made in the process of beat.

Celery builds these messages itself, from the entries of a schedule; a signal gives them away before they are
sent. It is connected in beat's process only, since it is asked for every message of a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery, signals

from ...broker.signature import ANYWHERE, SIGNATURE
from ..engine import Engine
from .schedule import CELERY_TASKS

_NAMES = frozenset(CELERY_TASKS.values())


def sign_beats_messages(app: Celery, engine: Engine) -> None:
    """Have the beat of an app sign what it asks workers of ours for; nothing happens in other processes.

    Args:
        app: Ours, or a shop's.
        engine: Has the secret; if there is none, nothing is signed.
    """

    def sign(sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
        if sender in _NAMES and engine.signer is not None:
            # With protocol 1 the headers are empty, and the body has their fields.
            fields: Mapping[str, Any] = headers or body
            kwargs = body[1] if headers else body["kwargs"]
            headers[SIGNATURE] = engine.signer.sign(ANYWHERE, fields, kwargs)

    def on_beat(sender: Any = None, **_: Any) -> None:
        if sender.app is app:
            signals.before_task_publish.connect(sign, weak=False)

    signals.beat_init.connect(on_beat, weak=False)
