"""Headless Chromium: where it is, and how it is started so that it asks nobody but us for anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

REQUIRED = "TASKS_TEST_BROWSERS"
"""Set to `required`, as `make browsers` does, it makes what cannot be had a failure."""

FLAGS = (
    "--headless",
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """The path of Chromium; skips the test, or fails it, where there is none."""
    return _program("chromium", "Debian's package `chromium` brings it")


def node() -> str:
    """The path of Node; skips the test, or fails it, where there is none."""
    return _program("node", "it comes with npm")


def missing(reason: str) -> None:
    """Skip a test that cannot be run here, or fail it where it must be."""
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(f"NOT TRIED: {reason}")


def command(url: str, profile: Path) -> list[str]:
    """The command that opens a page in a browser with an empty profile."""
    return [chromium(), *FLAGS, f"--user-data-dir={profile}", url]


def _program(name: str, advice: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"there is no {name} on PATH; {advice}")
    return str(found)
