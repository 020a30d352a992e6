"""Where a tool may send a person to."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_service import ConfigurationError, Link, Settings, TaskContext, TaskService
from tasks_service.testing import ToolRun


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example",
        "https://a.example:8443/pay?order=1#form",
        "HTTPS://A.example/",
        "https://[2001:db8::1]/",
        "https://münchen.example/straße",
        "http://localhost:8000/consent",
        "http://127.0.0.1/",
        "http://127.8.8.8/",
        "http://[::1]:8000/",
    ],
)
def test_a_page_on_https_or_on_this_machine_may_be_shown(url: str) -> None:
    assert Link("Go", url).recorded().url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("javascript:alert(1)", "no absolute URL"),
        ("", "no absolute URL"),
        ("/pay", "no absolute URL"),
        ("//a.example/pay", "not https"),
        ("https:///pay", "no absolute URL"),
        ("https:pay", "no absolute URL"),
        ("file:///etc/passwd", "no absolute URL"),
        ("file://a.example/etc/passwd", "not https"),
        ("data:text/html,hi", "no absolute URL"),
        ("ftp://a.example", "not https"),
        ("http://a.example", "not safe from readers"),
        ("http://localhost.a.example", "not safe from readers"),
        ("http://127.0.0.1.a.example", "not safe from readers"),
        ("http://0.0.0.0/", "not safe from readers"),
        ("https://ann:secret@a.example", "a user name or a password"),
        ("https://ann@a.example", "a user name or a password"),
        ("https://a.example@b.example", "a user name or a password"),
        ("https://a.example:port", "no URL"),
        ("https://[::1", "no URL"),
        (" https://a.example", "a space"),
        ("https://a.example/\n", "control character"),
        ("java\tscript:alert(1)", "a space"),
        ("https://a.example\\@b.example", "a backslash"),
        ("https://a.example/\u202e", "control character"),
        (None, "expected a str, not NoneType"),
        (b"https://a.example", "expected a str, not bytes"),
    ],
)
def test_another_address_is_refused_in_the_tool(url: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Link("Go", url).recorded()
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_tool_that_sends_a_person_elsewhere_fails_and_nobody_is_asked() -> None:
    service = TaskService("Tests", settings=Settings(redis_url=None))
    refused: list[ConfigurationError] = []

    @service.tool()
    def go(ctx: TaskContext) -> str:
        try:
            ctx.elicit_url("Go", "javascript:alert(1)")
        except ConfigurationError as error:
            refused.append(error)
        ctx.elicit_all({"page": Link("Go", "file:///etc/passwd")})
        return "asked"

    run = ToolRun(service, "go")
    assert run.is_error
    assert not run.questions
    assert len(refused) == 1


def test_a_declared_link_is_refused_at_registration() -> None:
    service = TaskService("Tests", settings=Settings(redis_url=None))
    with pytest.raises(ConfigurationError, match=r"ask='page'.*not https"):
        service.tool(ask={"page": Link("Go", "ftp://a.example")})(lambda: "done")
