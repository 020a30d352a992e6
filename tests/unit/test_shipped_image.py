"""What goes into the image is what was tested."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def pins_of(lock: str) -> set[str]:
    lines = (REPOSITORY / lock).read_text().splitlines()
    return {line.partition(" ")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}


def test_the_image_pins_the_versions_that_the_tests_run_with() -> None:
    image, tested = pins_of("docker/requirements.lock"), pins_of("requirements.lock")

    assert image
    assert image <= tested, f"run `make lock`: {sorted(image - tested)} are not in requirements.lock"
