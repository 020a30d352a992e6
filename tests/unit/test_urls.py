"""URLs with encryption: checked at start, verified by default, said to each library as it wants it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks_service.addresses.encryption import is_open, secured
from tasks_service.broker.app import create_app
from tasks_service.settings import Settings


def test_a_broker_is_verified_though_nobody_says_so() -> None:
    app = create_app("test", broker_url="rediss://redis.example/0", key_prefix="ts")
    with app.connection_for_write() as connection:
        assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def test_parameters_of_encryption_leave_the_url_and_others_stay() -> None:
    url, encryption = secured(
        "rediss://redis.example/?virtual_host=3&ssl_ca_certs=/ca.pem&ssl_cert_reqs=none"
    )
    assert url == "rediss://redis.example/?virtual_host=3"
    assert encryption == {
        "ssl_ca_certs": "/ca.pem",
        "ssl_cert_reqs": ssl.CERT_NONE,
        "ssl_check_hostname": False,
    }


def test_rabbitmq_is_asked_for_a_certificate_of_its_name() -> None:
    url, encryption = secured("amqps://guest@rabbit.example//?ssl_ca_certs=/ca.pem")
    assert url == "amqps://guest@rabbit.example//"
    assert encryption == {
        "ca_certs": "/ca.pem",
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": "rabbit.example",
    }


def test_a_plain_url_stays_as_it_is() -> None:
    assert secured("redis://redis.example/0?db=1") == ("redis://redis.example/0?db=1", None)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://h/0?ssl_ca_certs=/ca.pem", "only for rediss:// and amqps://"),
        ("rediss://h/0?ssl_ca_certs=/no/such/file", "/no/such/file: there is no such file"),
        ("rediss://h/0?ssl_cert_reqs=maybe", "expected one of required, optional, none"),
        ("rediss://h/0?ssl_check_hostname=1", "expected one of true, false"),
        ("rediss://h/0?ssl_ca_cert=/ca.pem", "ssl_ca_cert is not known; expected one of ssl_ca_certs"),
        (f"rediss://h/0?ssl_keyfile={__file__}", "name it by ssl_certfile"),
    ],
)
@pytest.mark.parametrize("setting", ["redis_url", "broker_url"])
def test_parameters_that_cannot_work_are_refused_at_start(url: str, sentence: str, setting: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Settings(**{setting: url})


def test_a_file_that_is_there_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    assert Settings(redis_url=f"rediss://h/0?ssl_ca_certs={file}").redis_url is not None


@pytest.mark.parametrize(
    ("url", "is_readable"),
    [
        ("redis://redis:6379/0", True),
        ("amqp://guest@10.0.0.7//", True),
        ("rediss://redis:6379/0", False),
        ("amqps://rabbit//", False),
        ("redis://127.0.0.1:6379/0", False),
        ("redis://localhost/0", False),
        ("redis://[::1]:6379/0", False),
        ("unix:///run/redis.sock?db=0", False),
        ("redis+socket:///run/redis.sock", False),
        ("redis+sentinel://localhost,[::1]:26380,127.0.0.1/0?service=tasks", False),
        ("redis+sentinel://localhost,[fd00::1]:26380/0?service=tasks", True),
        ("rediss+cluster://[fd00::1],two", False),
        ("sentinel://localhost;sentinel://[::1]:26380", False),
        ("sentinel://localhost;sentinel://two", True),
    ],
)
def test_it_is_known_which_connections_others_can_read(url: str, is_readable: bool) -> None:
    assert is_open(url) is is_readable
