"""Which of the services that workers have announced a front end serves side by side."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tasks_service.broker.codeless import CodelessOutbox
from tasks_service.domain.tools import ToolDefinition
from tasks_service.frontend.core.registered_catalogue import RegisteredCatalogue
from tasks_service.frontend.core.registered_services import RegisteredService, path_name, served_services
from tasks_service.settings import Settings
from tasks_service.store.registered_tools import RegisteredTool
from tasks_service.store.registry import Delivery

REDIS = Delivery("redis", "0", "ts:mq:")


def service(name: str, *tools: str, first_ms: int = 0, **options: Any) -> RegisteredService:
    registered = {
        tool: RegisteredTool(
            definition=ToolDefinition(name=tool, input_schema={"type": "object"}, queue=f"{name} queue"),
            others={},
        )
        for tool in tools
    }
    return RegisteredService(name=name, tools=registered, first_ms=first_ms, **options)


@pytest.fixture
def outbox() -> CodelessOutbox:
    return CodelessOutbox(Settings(_env_file=None, redis_url="redis://127.0.0.1/0"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Acme renders", "acme-renders"),
        ("acme", "acme"),
        ("A/B  c.2", "a-b-c-2"),
        ("Café Olé", "cafe-ole"),
        ("!", "service"),
        ("東京", "service-bd8aa045"),
    ],
)
def test_a_path_is_named_after_the_words_of_its_service(name: str, path: str) -> None:
    assert path_name(name) == path


def test_services_whose_names_differ_in_other_scripts_alone_have_paths_of_their_own() -> None:
    names = ["東京", "大阪", "東京 Shop", "大阪 Shop", "Shop", "Кухня"]

    paths = [path_name(name) for name in names]

    assert len(set(paths)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", path) for path in paths), "in any client's URL"
    assert paths == [path_name(name) for name in names], "in every process"
    served, problems = served_services([service(name, "a") for name in names], lambda *_, **__: None)
    assert (len(served), problems) == (len(names), [])


def test_of_two_tools_that_would_have_one_name_among_all_that_of_the_first_service_is_offered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    catalogue = RegisteredCatalogue(prefixed=True)

    for _ in range(2):
        catalogue.take([service("acme", "shop_render"), service("Acme shop", "render", "print")])

    assert sorted(catalogue.tools) == ["acme_shop_print", "acme_shop_render"]
    assert catalogue.origin("acme_shop_render").service == "acme"
    (said,) = (record.message for record in caplog.records)
    assert "The tool 'render' of the service 'Acme shop' is not offered here" in said


def test_of_two_services_with_one_path_that_which_came_first_is_served(outbox: CodelessOutbox) -> None:
    first, second = service("Acme Shop", first_ms=1), service("acme-shop", first_ms=2)

    served, problems = served_services([second, first], outbox.refusal)

    assert served == [first]
    assert problems == [
        "The service 'acme-shop' is not served, since its path is that of 'Acme Shop': give it another name."
    ]


def test_messages_go_to_the_prefix_of_the_first_service_and_one_with_another_is_not_served(
    outbox: CodelessOutbox,
) -> None:
    first = service("Shop", first_ms=1, delivery=REDIS._replace(key_prefix="shop:"))
    second = service("Office", first_ms=2, delivery=REDIS)

    served, problems = served_services([second, first], outbox.refusal)

    assert (served, outbox.delivery.key_prefix) == ([first], "shop:")
    assert "Give it a store of its own, by TASKS_KEY_PREFIX" in problems[0]
    assert served_services([second], outbox.refusal) == ([second], []), "when the first has gone"


def test_workers_of_a_release_that_did_not_say_where_are_served_as_settings_say(
    outbox: CodelessOutbox,
) -> None:
    older = service("Shop")
    assert served_services([older], outbox.refusal) == ([older], [])


def test_a_catalogue_has_another_version_only_when_a_tool_is_another() -> None:
    catalogue = RegisteredCatalogue(service="Shop")

    assert catalogue.take([service("Shop", "a", "b")])
    version, kept = catalogue.version, catalogue.tools["a"]
    assert not catalogue.take([service("Shop", "a", "b")])
    assert (catalogue.version, catalogue.tools["a"]) == (version, kept)
    assert catalogue.tools["a"] is kept, "with the validator that it has made"
    assert catalogue.take([service("Shop", "a")])
    assert catalogue.version > version
