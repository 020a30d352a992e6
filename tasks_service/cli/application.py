"""Parts that commands share: options, loading the author's service, and opening its store."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..domain.errors import ConfigurationError
from ..local.redis_server import find_running
from ..observability.setup import log_to_stderr

if TYPE_CHECKING:
    from celery import Celery

    from ..service import TaskService
    from ..settings import Settings
    from ..store.redis import RedisTaskStore

#: Seconds that a command waits for an answer of Redis.
ANSWER_SECONDS = 2.0

F = TypeVar("F", bound=Callable[..., Any])


def app_option(command: F) -> F:
    """Add the option `--app` to a command, which needs it."""
    return _app_option(required=True, help_text=_WHERE)(command)


def optional_app_option(without: str) -> Callable[[F], F]:
    """Add the option `--app` to a command that works without it too.

    Args:
        without: What it does then.
    """
    return _app_option(required=False, help_text=f"{_WHERE} {without}")


_WHERE = (
    "The module that has the TaskService, as `service` unless a name follows; the current directory is "
    "searched first."
)


def _app_option(*, required: bool, help_text: str) -> Callable[[F], F]:
    return click.option(
        "--app",
        required=required,
        envvar="TASKS_APP",
        show_envvar=True,
        metavar="MODULE[:NAME]",
        help=help_text,
    )


def queues_option(command: F) -> F:
    """Add the option `--queues` to a command that runs a worker."""
    return click.option(
        "--queues",
        metavar="NAME,NAME",
        callback=lambda _context, _option, value: _names(value),
        help="The queues that its worker takes. Default: those of the tools and `maintenance`, and none that "
        "the Celery app has without the tools.",
    )(command)


def _names(value: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (value or "").split(",") if name.strip())
    if value is not None and not names:
        raise click.BadParameter("expected names of queues, as in tasks,maintenance")
    return names


def settings_of(role: str = "command") -> Settings:
    """The settings of this process, whose log is set up by them.

    Args:
        role: What the process is. A command is run by a person, whom warnings are enough for, unless
            TASKS_LOG_LEVEL is set.
    """
    from ..settings import Settings  # not at the top: pydantic takes long to import

    settings = Settings()
    is_quiet = role == "command" and "log_level" not in settings.model_fields_set
    level = "warning" if is_quiet else settings.log_level
    log_to_stderr(format_name=settings.log_format, level=level, role=role)
    return settings


def printable(text: str) -> str:
    """A text for a terminal, also if bytes that are no text were read into it."""
    return text.encode(errors="backslashreplace").decode()


def json_option(command: F) -> F:
    """Add the option `--json` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def load_service(path: str) -> TaskService:
    """Import the author's service.

    Args:
        path: `module:name`; the name may be left out if it is `service`.

    Raises:
        ConfigurationError: There is no such module, or no TaskService of that name in it.
    """
    from ..service import TaskService  # not at the top: commands that load no service need no Celery

    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"There is no module {module_name!r} in {here} or on the Python path. "
            "Name the module of your TaskService with --app, such as acme.service."
        ) from None
    service = getattr(module, name or "service", None)
    if not isinstance(service, TaskService):
        raise ConfigurationError(_no_service(module, name or "service", service))
    return service


def _no_service(module: ModuleType, name: str, found: object) -> str:
    """Why there is no TaskService of a name in a module, and what to write."""
    from ..service import TaskService

    there = [known for known, value in vars(module).items() if isinstance(value, TaskService)]
    what = f"{name} is of type {type(found).__name__}" if hasattr(module, name) else f"it has no {name!r}"
    way_out = (
        f"Name it: --app {module.__name__}:{there[0]}."
        if there
        else f"Add `{name} = TaskService(...)`, or name the module that has it."
    )
    return f"There is no TaskService {name!r} in the module {module.__name__!r}: {what}. {way_out}"


def load_connected_service(path: str, settings: Settings) -> TaskService:
    """Import the author's service, connected to the Redis that is set or to the private one that runs.

    Raises:
        ConfigurationError: There is no such service, or no Redis.
    """
    os.environ["TASKS_REDIS_URL"] = redis_url_of(settings)
    return load_service(path)


def celery_path(path: str) -> str:
    """The argument with which `celery -A` finds the Celery app of a service.

    Raises:
        ConfigurationError: The service's module does not name its Celery app.
    """
    if (found := find_celery_path(path)) is not None:
        return found
    module_name, _, name = path.partition(":")
    raise ConfigurationError(
        f"Celery cannot find the app of {path}: add the line `app = {name or 'service'}.celery` "
        f"to {module_name}."
    )


def find_celery_path(path: str) -> str | None:
    """As `celery_path`; None if the service's module does not name its Celery app."""
    app: Celery = load_service(path).celery
    module_name = path.partition(":")[0]
    names = [name for name, value in vars(sys.modules[module_name]).items() if value is app]
    if "app" in names:
        return module_name  # Celery looks for this name by itself
    return f"{module_name}:{names[0]}" if names else None


def redis_url_of(settings: Settings) -> str:
    """The URL of the service's Redis: the one that is set, else the private one that runs.

    Raises:
        ConfigurationError: None is set, and none runs.
    """
    url = settings.redis_url or find_running(settings.data_dir)
    if url is None:
        raise ConfigurationError(
            f"TASKS_REDIS_URL is not set, and no private Redis runs in {settings.data_dir}. "
            "Start the service with `tasks-service up`, or set TASKS_REDIS_URL."
        )
    return url


@contextmanager
def open_store(settings: Settings) -> Iterator[RedisTaskStore]:
    """Open the service's store for an operator's command.

    Raises:
        ConfigurationError: No Redis is set, and no private one runs.
    """
    from ..store.redis import RedisTaskStore  # not at the top: the back end starts Redis before it needs it

    store = RedisTaskStore(
        redis_url_of(settings),
        prefix=settings.key_prefix,
        shards=settings.shards,
        limits=settings.limits,
        envelope=settings.envelope,
        patient=False,
        deadline=ANSWER_SECONDS,
    )
    try:
        yield store
    finally:
        store.close()
