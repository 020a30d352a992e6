"""Every example of the guide "Testing tools": one module, which pytest runs as an author would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs/guide-testing.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_examples_are_a_module_whose_tests_pass(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text("\n\n".join(EXAMPLES))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:celery", "-p", "no:xdist"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tests = re.findall(r"^def (test_\w+)", "\n".join(EXAMPLES), re.MULTILINE)
    (passed,) = re.findall(r"^(\d+) passed", ended.stdout, re.MULTILINE)
    assert int(passed) >= len(tests) > 0


def test_no_pytest_loads_the_fixtures_unasked() -> None:
    assert not [one for one in distribution("tasks-service").entry_points if one.group.startswith("pytest")]
