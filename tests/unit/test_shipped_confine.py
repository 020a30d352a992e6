"""Paths from clients stay inside the tools' root, whatever they look like."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tasks_service import ToolError
from workers.tools.confine import confine, open_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "tables").mkdir(parents=True)
    (root / "tables" / "a.csv").write_text("inside")
    (tmp_path / "secret.csv").write_text("outside")
    (tmp_path / "root-next-door").mkdir()
    (tmp_path / "root-next-door" / "b.csv").write_text("outside")
    return root


@pytest.mark.parametrize(
    "path",
    ["tables/a.csv", "./tables/a.csv", "tables/../tables/a.csv", "tables//a.csv", "../root/tables/a.csv"],
)
def test_a_path_that_stays_inside_is_found_however_it_is_written(root: Path, path: str) -> None:
    assert confine(root, path) == (root / "tables" / "a.csv").resolve()


def test_an_absolute_path_inside_the_root_is_accepted(root: Path) -> None:
    assert confine(root, str(root / "tables")) == (root / "tables").resolve()


@pytest.mark.parametrize(
    "path",
    [
        "../secret.csv",
        "tables/../../secret.csv",
        "../root-next-door/b.csv",
        "/etc/passwd",
        "/",
        "..",
        "tables/../../../../../../../../../../etc/passwd",
    ],
)
def test_a_path_that_leads_outside_is_refused(root: Path, path: str) -> None:
    with pytest.raises(ToolError, match="outside"):
        confine(root, path)


@pytest.mark.parametrize(
    "path", [".env", ".tasks-service/secret", ".tasks-service", "tables/.hidden", "link"]
)
def test_what_is_hidden_is_not_read(root: Path, path: str) -> None:
    (root / ".tasks-service").mkdir()
    for hidden in (".env", ".tasks-service/secret", "tables/.x"):
        (root / hidden).write_text("secret")
    (root / "link").symlink_to(".env")

    with pytest.raises(ToolError, match="hidden"):
        confine(root, path)


@pytest.mark.parametrize("path", ["", "a" * 5000, "tables/a.csv\0.png", "\ud800", "/".join(["x" * 300] * 3)])
def test_a_path_that_cannot_be_one_is_refused(root: Path, path: str) -> None:
    with pytest.raises(ToolError):
        confine(root, path)


def test_a_link_out_of_the_root_is_refused(root: Path) -> None:
    (root / "file").symlink_to(root.parent / "secret.csv")
    (root / "directory").symlink_to(root.parent)
    (root / "chain").symlink_to("directory")

    for path in ("file", "directory", "directory/secret.csv", "chain/secret.csv"):
        with pytest.raises(ToolError, match="outside"):
            confine(root, path)


def test_a_link_inside_the_root_leads_to_what_it_names(root: Path) -> None:
    (root / "latest").symlink_to("tables/a.csv")

    assert confine(root, "latest") == (root / "tables" / "a.csv").resolve()


def test_a_root_that_is_a_link_itself_is_followed(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)

    assert confine(link, "tables/a.csv") == (root / "tables" / "a.csv").resolve()


def test_a_circle_of_links_is_refused(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")

    with pytest.raises(ToolError):
        confine(root, "one")


def test_pipes_and_sockets_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")

        for path in ("pipe", "socket"):
            with pytest.raises(ToolError, match="pipe or a socket"):
                confine(root, path)


def test_what_does_not_exist_is_named_as_the_client_wrote_it(root: Path) -> None:
    with pytest.raises(ToolError, match=r"'tables/missing\.csv'"):
        confine(root, "tables/missing.csv")


@pytest.mark.parametrize("path", ["../secret.csv", "missing", "tables/a.csv/b", "tables/a.csv\0"])
def test_no_refusal_says_where_the_root_is(root: Path, path: str) -> None:
    with pytest.raises(ToolError) as refusal:
        confine(root, path)

    assert str(root.parent) not in refusal.value.message


def test_a_link_that_is_swapped_in_after_the_check_leads_nowhere(root: Path) -> None:
    real = confine(root, "tables/a.csv")
    (root / "tables").rename(root / "moved")
    (root / "tables").symlink_to(root.parent / "elsewhere")
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere" / "a.csv").write_text("outside")

    with pytest.raises(ToolError, match="cannot be opened"):
        open_file(root, real)


def test_a_pipe_that_is_swapped_in_after_the_check_does_not_block(root: Path) -> None:
    real = confine(root, "tables/a.csv")
    real.unlink()
    os.mkfifo(real)

    with pytest.raises(ToolError, match="not a file"):
        open_file(root, real)


def test_a_directory_cannot_be_opened_as_a_file(root: Path) -> None:
    with pytest.raises(ToolError, match="not a file"):
        open_file(root, confine(root, "tables"))


def test_an_open_file_is_read_from_its_beginning(root: Path) -> None:
    with open_file(root, confine(root, "tables/a.csv")) as file:
        assert file.read() == b"inside"
