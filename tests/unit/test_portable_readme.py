"""The README as the wheel's metadata has it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (
            "See [writing tools](docs/guide-authors.md#results).",
            "See writing tools (`docs/guide-authors.md`).",
        ),
        ("[`Procfile`](Procfile)", "`Procfile`"),
        (
            "[below](#install) and [RFC](https://example.com/a)",
            "[below](#install) and [RFC](https://example.com/a)",
        ),
        ("![A recording](docs/demo.svg)", "*A recording*"),
        ("![A badge](https://example.com/a.svg)", "![A badge](https://example.com/a.svg)"),
        ("```\ncall[0](docs)\n```", "```\ncall[0](docs)\n```"),
    ],
)
def test_links_to_files_become_their_names(hatch_build: ModuleType, written: str, shown: str) -> None:
    assert hatch_build.portable(f"# Title\n{written}").endswith(shown)


def test_no_link_of_the_readme_leads_to_a_file_that_is_not_there(hatch_build: ModuleType) -> None:
    shown = hatch_build.portable((ROOT / "README.md").read_text(encoding="utf-8"))
    prose = re.sub(r"^```.*?^```$", "", shown, flags=re.MULTILINE | re.DOTALL)
    assert all(target.startswith(("#", "https://")) for target in re.findall(r"\]\(([^)]+)\)", prose))
