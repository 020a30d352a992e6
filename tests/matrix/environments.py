"""Virtual environments of releases that are promised: made once, of real packages, and kept in a directory.

Each has this package as a wheel, as users have it, and nothing of the repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CACHE = ROOT / ".matrix"
"""Where the environments are; `make clean` removes it."""

INSTALL_SECONDS = 600


@dataclass(frozen=True)
class Environment:
    """What is installed for one process of the service.

    Attributes:
        name: For test ids and for the directory.
        python: Its version, as `3.12`.
        pins: Requirements of exact versions.
        file: A file of pins in this directory; empty: none.
        extras: Of this package, as `[server]`.
        beside: Further requirements: what tests need.
    """

    name: str
    python: str
    pins: tuple[str, ...] = ()
    file: str = ""
    extras: str = ""
    beside: tuple[str, ...] = ()

    @property
    def requirements(self) -> str:
        """All pins, one a line."""
        listed = (HERE / self.file).read_text(encoding="utf-8") if self.file else ""
        return "\n".join([listed, *self.pins, *self.beside])


def shops(kind: str) -> Mapping[str, Any]:
    """What `shops.toml` has: `sets` or `shops`, by name; each with `python` and `pins`."""
    told = tomllib.loads((HERE / "shops.toml").read_text(encoding="utf-8"))
    return {name: {**shop, "pins": tuple(shop["pins"].split())} for name, shop in told[kind].items()}


def shop_environment(kind: str, name: str) -> Environment:
    """The environment of a shop that has installed this package beside its pins."""
    shop = shops(kind)[name]
    return Environment(name.replace("/", "-").replace(" ", "-"), shop["python"], shop["pins"])


class Installed:
    """An environment that is there.

    Attributes:
        environment: What it was made from.
        home: Its directory.
    """

    def __init__(self, environment: Environment, home: Path) -> None:
        self.environment, self.home = environment, home

    @property
    def python(self) -> str:
        """The path of its interpreter."""
        return str(self.home / "bin" / "python")

    def versions(self) -> str:
        """Which releases it has of what matters, for the report."""
        code = (
            "import sys, importlib.metadata as m\n"
            "names = ('celery', 'kombu', 'redis', 'hiredis', 'pydantic', 'mcp')\n"
            "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
            "print('Python', sys.version.split()[0], *(f'{n} {have[n]}' for n in names if n in have))\n"
        )
        return _run([self.python, "-c", code]).strip()


def build_wheel(directory: Path) -> Path:
    """This tree as a wheel."""
    _run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)])
    (wheel,) = directory.glob("*.whl")
    return wheel


def install(environment: Environment, wheel: Path) -> Installed:
    """Make an environment, or take the one that is there, and put this tree's wheel into it."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    told = f"{environment.python}\n{environment.extras}\n{environment.requirements}\n{project}"
    home = CACHE / f"{environment.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    there = Installed(environment, home)
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        _uv("venv", "--quiet", "--python", interpreter(environment.python), str(home))
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
            pins.write(environment.requirements)
            pins.flush()
            wanted = f"tasks-service{environment.extras} @ {wheel.as_uri()}"
            _uv("pip", "install", "--quiet", "--python", there.python, wanted, "--requirement", pins.name)
        (home / "complete").touch()
    _uv("pip", "install", "--quiet", "--python", there.python, "--reinstall", "--no-deps", str(wheel))
    return there


def resolve(python: str, pins: Sequence[str], wheel: Path) -> str:
    """What would be installed beside these pins, or why nothing can be; nothing is installed.

    Raises:
        NotInstallable: No set of releases fits; says why.
    """
    wanted = "\n".join([f"tasks-service @ {wheel.as_uri()}", *pins])
    arguments = ["--python-version", python, "--no-annotate", "--no-header", "--quiet"]
    return _uv("pip", "compile", "-", *arguments, input=wanted)


class NotInstallable(Exception):
    """The packages of an environment do not fit together, or cannot be had here."""


def interpreter(version: str) -> str:
    """The path of a Python of this version: one on PATH, or one of pyenv's.

    Raises:
        NotInstallable: There is none.
    """
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [
        *([on_path] if on_path else []),
        *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"))),
    ]
    for place in places:
        told = subprocess.run([place, "-c", "print('runs')"], capture_output=True, text=True, check=False)
        if told.stdout.strip() == "runs":
            return place
    raise NotInstallable(f"there is no Python {version}, on PATH or in {pyenv}")


def _uv(*arguments: str, input: str | None = None) -> str:  # noqa: A002
    return _run([sys.executable, "-m", "uv", *arguments], input=input)


def _run(command: list[str], input: str | None = None) -> str:  # noqa: A002
    ran = subprocess.run(
        command,
        input=input,
        cwd=ROOT,
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if ran.returncode != 0:
        raise NotInstallable(f"{' '.join(command)}:\n{(ran.stderr or ran.stdout).strip()[-3000:]}")
    return ran.stdout
