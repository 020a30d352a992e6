"""The checks see the bugs that they are there for: each of these is planted, and must be caught."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .mutants import MUTANTS, PACKAGE, ROOT, Mutant, catchers, copied, plant

SECONDS = 120
"""For one check; catching a bug takes a few, where nothing else runs."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copied(tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_planted_bug_is_caught(
    mutant: Mutant, copy: Path, measured: Callable[[str, str], None], request: pytest.FixtureRequest
) -> None:
    plant(mutant, copy)
    began = time.monotonic()
    caught = list(catchers(copy, SECONDS, mutant.by))
    assert caught, "nothing saw it"
    check, said = caught[0]
    print(said.strip()[-200:])
    name = request.node.callspec.id
    measured("R5", f"{name}: caught by {check} in {time.monotonic() - began:.1f} s")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_the_checks_find_nothing_in_the_code_as_it_is(copy: Path) -> None:
    assert list(catchers(copy, SECONDS)) == []


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_every_mutant_still_finds_its_place(mutant: Mutant, tmp_path: Path) -> None:
    file = PACKAGE / mutant.file
    (tmp_path / file).parent.mkdir(parents=True)
    shutil.copy(ROOT / file, tmp_path / file)
    plant(mutant, tmp_path)
