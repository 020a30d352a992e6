"""Every diagram of the documentation renders, by Mermaid itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import mermaidx
import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def diagrams() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, text in enumerate(
            re.findall(r"```mermaid\n(.*?)```", page.read_text(), re.DOTALL), start=1
        ):
            yield f"{page.name}-{number}", text


DIAGRAMS = dict(diagrams())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_of_the_documentation_renders(name: str, pytestconfig: pytest.Config) -> None:
    """One that is as it was when it was last rendered here is not rendered again, which takes seconds."""
    assert pytestconfig.cache is not None
    digest = hashlib.sha256(f"{mermaidx.__version__}\n{DIAGRAMS[name]}".encode()).hexdigest()
    key = f"diagrams/{digest}"
    if pytestconfig.cache.get(key, None) is None:
        assert mermaidx.render(DIAGRAMS[name]).svg().startswith("<svg")
        pytestconfig.cache.set(key, name)


def test_a_diagram_that_does_not_render_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="Parse error"):
        mermaidx.render("sequenceDiagram\n    Note over T: ends; occupies no worker\n").svg()
