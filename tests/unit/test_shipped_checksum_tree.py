"""`checksum_tree`: the digests that everyone else computes, of exactly the files beneath the root."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_service import AsyncTaskContext, TaskCancelled, ToolError
from tests.kit.waiting import quickest
from tests.unit.recording import RecordingAttempt
from workers.tools.checksum_tree import Algorithm, TreeDigest, digest_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("a/b.txt", "a.txt", "a-b/c.csv", "a/b/deep.csv", "empty"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name * 1000 if name != "empty" else "")
    return root


def digest(
    root: Path,
    path: str = ".",
    *,
    algorithm: Algorithm = "sha256",
    pattern: str = "*",
    attempt: RecordingAttempt | None = None,
) -> TreeDigest:
    context = AsyncTaskContext(attempt or RecordingAttempt())
    return asyncio.run(digest_tree(root, path, algorithm, pattern, context))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
def test_the_tree_digest_is_what_the_tools_of_the_system_compute(root: Path, algorithm: Algorithm) -> None:
    command = (
        f"find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' {algorithm}sum | {algorithm}sum"
    )
    expected = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True, check=True)

    assert digest(root, algorithm=algorithm).tree_digest == expected.stdout.split()[0]


def test_files_come_in_the_order_of_their_paths_with_their_digests(root: Path) -> None:
    tree = digest(root)

    assert [file.path for file in tree.files] == ["a-b/c.csv", "a.txt", "a/b.txt", "a/b/deep.csv", "empty"]
    for file in tree.files:
        assert file.digest == hashlib.sha256((root / file.path).read_bytes()).hexdigest()
    assert (tree.files_total, tree.is_complete) == (5, True)
    assert tree.bytes_total == sum(file.size for file in tree.files)


def test_one_file_is_a_tree_of_itself(root: Path) -> None:
    tree = digest(root, "a/b.txt")

    assert (tree.path, [file.path for file in tree.files]) == ("a/b.txt", ["b.txt"])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a-b/c.csv", "a/b/deep.csv"]),
        ("a/*", ["a/b.txt", "a/b/deep.csv"]),
        ("*.[tc]*", ["a-b/c.csv", "a.txt", "a/b.txt", "a/b/deep.csv"]),
        ("none", []),
    ],
)
def test_a_pattern_chooses_by_name_or_with_a_slash_by_path(
    root: Path, pattern: str, found: list[str]
) -> None:
    assert [file.path for file in digest(root, pattern=pattern).files] == found


def test_links_pipes_and_what_they_lead_to_are_left_out_and_counted(root: Path) -> None:
    plain = digest(root)
    (root.parent / "secret").write_text("outside")
    (root / "file").symlink_to(root.parent / "secret")
    (root / "up").symlink_to("..")
    (root / "circle").symlink_to(".")
    os.mkfifo(root / "pipe")
    tree = digest(root)

    assert tree.tree_digest == plain.tree_digest
    assert (tree.links_skipped, tree.special_skipped, tree.is_complete) == (3, 1, True)


def test_what_is_hidden_is_left_out_and_counted(root: Path) -> None:
    plain = digest(root)
    (root / ".env").write_text("TASKS_SECRET=secret")
    (root / "a" / ".git").mkdir()
    (root / "a" / ".git" / "config").write_text("token")
    tree = digest(root)

    assert tree.tree_digest == plain.tree_digest
    assert (tree.hidden_skipped, tree.is_complete) == (2, True)


@pytest.mark.parametrize("path", ["..", "/etc"])
def test_a_tree_outside_the_root_is_refused(root: Path, path: str) -> None:
    with pytest.raises(ToolError, match="outside"):
        digest(root, path)


def test_a_name_that_is_not_unicode_is_shown_escaped(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).write_text("x")

    assert "caf\\xe9" in [file.path for file in digest(root).files]


def test_more_files_than_are_listed_all_count_in_the_tree(root: Path) -> None:
    for number in range(1200):
        (root / f"n{number:05d}").write_text(str(number))
    tree = digest(root)
    (root / "n01199").write_text("changed")

    assert (tree.files_total, len(tree.files)) == (1205, 1000)
    assert digest(root).tree_digest != tree.tree_digest


@pytest.fixture
def deep_root(root: Path) -> Iterator[Path]:
    directory = os.open(root, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d", dir_fd=directory)
        deeper = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = deeper
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
    yield root
    # Python's own rmtree, with which pytest tidies up, gives up at such a depth.
    subprocess.run(["rm", "-rf", root / "d"], check=True)


def test_a_tree_that_is_deeper_than_pythons_stack_is_walked(deep_root: Path) -> None:
    assert digest(deep_root).files_total == 6


def test_what_disappears_under_way_makes_the_answer_incomplete(root: Path) -> None:
    def remove(attempt: RecordingAttempt) -> bool:
        (root / "empty").unlink(missing_ok=True)
        return False

    tree = digest(root, attempt=RecordingAttempt(remove))

    assert tree.files_total + tree.unreadable_total in (4, 5)
    assert tree.is_complete == (tree.unreadable_total == 0)


def test_progress_counts_bytes_up_to_the_total(root: Path) -> None:
    attempt = RecordingAttempt()
    tree = digest(root, attempt=attempt)

    assert attempt.reports[-1][:2] == (tree.bytes_total, tree.bytes_total)
    assert attempt.reports[-1].message == "5 of 5 files"


def test_a_cancelled_call_stops_within_a_second_inside_of_a_huge_file(root: Path) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(64 * 1024**3)

    def seconds_to_stop() -> float:
        attempt = RecordingAttempt(lambda attempt: any(report.current for report in attempt.reports))
        with pytest.raises(TaskCancelled):
            digest(root, attempt=attempt)
        assert attempt.cancelled_at is not None
        return time.monotonic() - attempt.cancelled_at

    assert quickest(seconds_to_stop, 1) < 1


def test_other_calls_go_on_while_a_huge_file_is_read(root: Path) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(64 * 1024**3)

    async def both() -> int:
        slow = asyncio.create_task(
            digest_tree(root, "huge", "sha256", "*", AsyncTaskContext(RecordingAttempt()))
        )
        quick = await digest_tree(root, "a", "sha256", "*", AsyncTaskContext(RecordingAttempt()))
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        return quick.files_total

    assert asyncio.run(both()) == 2
