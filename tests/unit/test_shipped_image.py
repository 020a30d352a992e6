"""What goes into the images is what was tested."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def pins_of(lock: str) -> set[str]:
    lines = (REPOSITORY / lock).read_text().splitlines()
    return {line.partition(" ")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}


@pytest.mark.parametrize("lock", ["docker/front-end.lock", "docker/worker.lock"])
def test_an_image_pins_the_versions_that_the_tests_run_with(lock: str) -> None:
    image, tested = pins_of(lock), pins_of("requirements.lock")

    assert image
    assert image <= tested, f"run `make lock`: {sorted(image - tested)} are not in requirements.lock"


def test_the_workers_image_has_nothing_of_a_front_end() -> None:
    names = {pin.partition("==")[0] for pin in pins_of("docker/worker.lock")}
    assert names.isdisjoint({"mcp", "mcp-types", "starlette", "uvicorn", "httpx2"})
