"""Messages that name a task of ours are believed with our signature only, and all of our processes sign."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals

from tasks_service import ConfigurationError, TaskService
from tasks_service.addresses.encryption import split
from tasks_service.broker.app import create_app
from tasks_service.broker.codeless import CodelessOutbox
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.broker.incoming import HEADERS, Sender, problem_of
from tasks_service.broker.signature import (
    SIGNATURE,
    SIGNED_HEADERS,
    MessageSigner,
    content_of,
    message_signer,
)
from tasks_service.crypto.private_secret import make_private_secret
from tasks_service.settings import Settings
from tasks_service.worker.incoming import MessageInspector
from tasks_service.worker.maintenance.schedule import CELERY_TASKS
from tests.kit.hostile import embedded, variants
from tests.kit.secrets import MESSAGE_SECRET, signer_of
from tests.unit.test_dispatch import URL, a_task

REAP = "tasks_service.reap_stale_tasks"
OURS = signer_of()
QUEUE = a_task().queue


def sender_of(name: str) -> Sender:
    if name.startswith("celery."):
        return Sender.BUILT_IN
    known = {"draw": Sender.TOOL, REAP: Sender.BEAT, "shop.mail": Sender.OTHER}
    return known.get(name, Sender.UNKNOWN)


def judged(
    message: Any, *, alone: bool = True, queue: str = QUEUE, signer: MessageSigner | None = OURS
) -> str | None:
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    return problem_of(raw, sender_of, alone=alone, queue=queue, signer=signer)


def of_app(app: Celery, signer: MessageSigner | None = OURS) -> Any:
    (push,) = Dispatcher(app, redis_url=URL, signer=signer).pushes(a_task(), 0)
    return json.loads(push.payload)


@pytest.fixture
def app() -> Celery:
    return create_app("acme", broker_url=URL, key_prefix="ts")


@pytest.fixture
def real(app: Celery) -> Any:
    return of_app(app)


def test_what_a_process_of_ours_sends_is_believed_in_its_queue_and_in_no_other(real: Any) -> None:
    for alone in (True, False):
        assert judged(real, alone=alone) is None
        assert "signature is wrong" in str(judged(real, alone=alone, queue="elsewhere"))


@pytest.mark.parametrize("settings", [{"task_protocol": 1}, {"task_compression": "gzip"}])
def test_an_apps_own_protocol_and_compression_change_nothing(settings: dict[str, Any]) -> None:
    app = create_app("acme", broker_url=URL, key_prefix="ts")
    app.conf.update(settings)
    message = of_app(app)
    assert judged(message) is None
    del message["headers"][SIGNATURE]
    assert "not signed" in str(judged(message))


def test_a_message_without_a_signature_is_run_only_while_that_is_accepted(app: Celery, real: Any) -> None:
    unsigned = of_app(app, signer=None)
    forged = {**real, "headers": {**real["headers"], SIGNATURE: "1." + "A" * 43}}

    assert "not signed" in str(judged(unsigned))
    assert judged(unsigned, signer=signer_of(requires=False)) is None
    assert judged(unsigned, signer=None) is None
    assert "signature is wrong" in str(judged(forged, signer=signer_of(requires=False)))


@pytest.mark.parametrize("signature", ["", "1.", "x", 5, True, ["1"], {}, "\ud800", "1." + "é" * 43])
def test_a_signature_of_any_shape_is_refused_and_raises_nothing(real: Any, signature: Any) -> None:
    real["headers"][SIGNATURE] = signature
    assert "signature is wrong" in str(judged(real))


def test_whatever_is_changed_of_what_celery_acts_on_is_noticed(real: Any) -> None:
    def content(message: Any) -> bytes:
        _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        return content_of(QUEUE, message["headers"], kwargs)

    admitted = [message for message in variants(real) if judged(message) is None]

    assert admitted
    assert {content(message) for message in admitted} == {content(real)}


def test_every_header_that_is_judged_is_signed() -> None:
    assert set(SIGNED_HEADERS) == {*HEADERS, "expires"}


def test_what_an_instrumentation_adds_is_not_signed(real: Any) -> None:
    real["headers"] |= {"traceparent": "00-1-2-01", "sentry": {"baggage": ["a"]}}
    assert judged(real) is None


def test_a_message_that_redis_hands_out_again_is_still_believed(real: Any) -> None:
    real["headers"]["redelivered"] = True
    real["properties"]["delivery_info"]["redelivered"] = True
    assert judged(real) is None


def test_a_secret_is_replaced_without_a_message_being_refused(app: Celery) -> None:
    old, new = "the-secret-of-yesterday", "the-secret-of-tomorrow"
    rings = [(old,), (old, new), (new, old), (new,)]
    for before, after in pairwise(rings):
        for one, other in ((before, after), (after, before)):
            assert judged(of_app(app, signer_of(*one)), signer=signer_of(*other)) is None, (one, other)
    assert judged(of_app(app, signer_of(old)), signer=signer_of(new)) is not None


def test_a_tool_that_only_other_workers_have_reaches_the_one_that_sends_it_on(app: Celery) -> None:
    task = a_task(tool="only elsewhere")
    (push,), (unsigned,) = (
        Dispatcher(app, redis_url=URL, signer=signer).pushes(task, 0) for signer in (OURS, None)
    )
    assert judged(push.payload) is None
    assert judged(unsigned.payload) is not None
    assert judged(unsigned.payload, signer=None) is None


BUILT_IN = sorted(name for name in Celery("any", set_as_current=False).tasks if name.startswith("celery."))


@pytest.mark.parametrize("name", [*BUILT_IN, "os.system", "tasks_service.no_such_task", "shop.gone"])
def test_celerys_own_tasks_and_unknown_ones_are_refused_where_we_are_alone_and_untouched_elsewhere(
    real: Any, name: str
) -> None:
    real["headers"] |= {"task": name, "retries": None}
    for body in ([[], {}, {}], [[1], {"max_retries": None}, {}], [[], {"task": "x", "dispatched_ms": 1}, {}]):
        message = embedded(real, body)
        assert judged(message) is not None
        assert judged(message, alone=False) is None
        if name in BUILT_IN:
            assert "Celery's own" in str(judged(message, signer=None))


def test_a_task_of_the_apps_own_is_left_to_celery_and_needs_no_signature(real: Any) -> None:
    del real["headers"][SIGNATURE]
    real["headers"]["task"] = "shop.mail"
    message = embedded(real, [[1], {"to": "ann"}, {"callbacks": [{}]}])
    assert judged(message) is None
    assert judged(message, alone=False) is None


@pytest.mark.parametrize("kind", ["application/x-python-serialize", "application/x-yaml", "text/plain"])
@pytest.mark.parametrize("name", ["draw", REAP, "shop.mail", "celery.starmap", "nobody's", None])
def test_what_is_not_json_is_never_read_where_we_are_alone_nor_what_claims_to_be_ours_anywhere(
    real: Any, kind: str, name: str | None
) -> None:
    message = embedded({**real, "content-type": kind}, b"\x80\x04N.")
    message["headers"] = {"id": "x"} if name is None else {**message["headers"], "task": name}
    assert judged(message, signer=None) is not None
    is_ours = name in ("draw", REAP)
    assert (judged(message, alone=False, signer=None) is not None) is is_ours


@pytest.mark.parametrize(
    "headers",
    [
        {"compression": "application/x-gzip"},
        {"eta": "2026-01-01T00:00:00+00:00"},
        {"expires": "2026-01-01T00:00:00+00:00"},
        {"timelimit": [1, 1]},
        {"retries": 3},
        {"stamped_headers": ["x"]},
        {"shadow": "x"},
    ],
)
def test_what_we_never_say_is_refused_signed_or_not(real: Any, headers: dict[str, Any]) -> None:
    real["headers"] |= headers
    assert judged(real) is not None
    if headers != {"retries": 3}:  # Celery's to tell, where nothing is signed
        assert judged(real, signer=None) is not None
    if "compression" in headers:
        assert "compressed" in str(judged(real))


def test_beat_signs_what_it_asks_for_and_nobody_else_can(app: Celery) -> None:
    settings = Settings(_env_file=None, redis_url=URL, message_secret=MESSAGE_SECRET)
    service = TaskService("Beat", settings=settings)
    receivers = list(signals.before_task_publish.receivers or ())
    try:
        signals.beat_init.send(sender=type("Service", (), {"app": service.celery})())
        task = service.celery.tasks[REAP]
        message = service.celery.amqp.create_task_message("an id", task.name, (), {}, expires=10.0)
        signals.before_task_publish.send(
            sender=task.name, headers=message.headers, body=message.body, routing_key="maintenance"
        )
    finally:
        signals.before_task_publish.receivers[:] = receivers
    envelope = of_app(app)
    envelope["headers"] = message.headers
    signed = embedded(envelope, [[], {}, message.body[2]])
    assert judged(signed, queue="maintenance") is None
    assert judged(signed, queue="its own queue of another name") is None
    later = json.loads(json.dumps(signed))
    later["headers"]["expires"] = "2036-01-01T00:00:00+00:00"
    assert "signature is wrong" in str(judged(later, queue="maintenance"))
    other = json.loads(json.dumps(signed))
    other["headers"]["task"] = next(name for name in CELERY_TASKS.values() if name != REAP)
    assert judged(other, queue="maintenance") is not None
    del signed["headers"][SIGNATURE]
    assert "not signed" in str(judged(signed, queue="maintenance"))


def test_a_front_end_without_code_signs_too() -> None:
    settings = Settings(_env_file=None, redis_url=URL, message_secret=MESSAGE_SECRET)
    outbox = CodelessOutbox(settings)
    (push,) = outbox.pushes(a_task(), 0)
    outbox.close()
    assert judged(push.payload) is None


def test_a_service_signs_what_it_submits_and_its_workers_verify_it() -> None:
    settings = Settings(_env_file=None, redis_url=URL, message_secret=MESSAGE_SECRET)
    service = TaskService("Acme", settings=settings)
    service.tool(name="draw")(lambda: None)
    (push,) = service.dispatcher.pushes(a_task(), 0)
    inspector = MessageInspector(
        service.celery,
        service.tools,
        lambda *_: None,
        owns_app=True,
        signer=lambda: message_signer(settings),
    )
    assert inspector.admits(QUEUE, push.payload)
    assert not inspector.admits("maintenance", push.payload)


def test_a_private_redis_brings_a_secret_that_whoever_knows_its_socket_has(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    url = f"unix://{socket}?db=0"
    assert split(url).path == str(socket)
    settings = Settings(_env_file=None, redis_url=url)
    assert message_signer(settings) is None

    make_private_secret(socket)
    first = message_signer(settings)
    make_private_secret(socket)

    assert first is not None and first.requires
    assert (again := message_signer(settings)) is not None
    assert again.fingerprints == first.fingerprints
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        message_signer(settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"message_secret": "short"}, "TASKS_MESSAGE_SECRET: a secret has 5 characters"),
        (
            {"accepted_message_secrets": "another-secret-of-them"},
            "TASKS_MESSAGE_SECRET, which signs, is not",
        ),
    ],
)
def test_a_secret_that_cannot_be_meant_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        message_signer(Settings(_env_file=None, redis_url=URL, **options))
