"""Files: places that cannot be written, paths that cannot be looked at, damaged JSON and arrays."""

import json
import os
import zipfile

import numpy as np
import pytest

from reidlib import files
from reidlib.files import (
    FileError,
    absolute_path,
    locked,
    read_arrays,
    read_json,
    replacing,
    require_writable,
    write_atomically,
    write_json,
)


@pytest.fixture(params=["dangling link", "below a file", "below a link to a file", "a file", "closed"])
def no_place(request, tmp_path, monkeypatch):
    """A folder that cannot be made or written, of every kind."""
    (tmp_path / "file").write_text("x")
    if request.param == "dangling link":
        (tmp_path / "link").symlink_to(tmp_path / "gone")
        return tmp_path / "link"
    if request.param == "below a link to a file":
        (tmp_path / "link").symlink_to(tmp_path / "file")
        return tmp_path / "link" / "results"
    if request.param == "closed":  # root may write everywhere, so the refusal is made up
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o555)
        access, mkdir = os.access, os.mkdir
        monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(closed) and access(path, mode))

        def refuse(path, *arguments):
            if str(path).startswith(str(closed)):
                raise PermissionError(13, "Permission denied", str(path))
            mkdir(path, *arguments)

        monkeypatch.setattr(os, "mkdir", refuse)
        return closed / "results"
    return tmp_path / "file" if request.param == "a file" else tmp_path / "file" / "results"


def listing(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_place_that_cannot_be_written_is_named_in_one_line_and_nothing_is_left(no_place, tmp_path):
    before = listing(tmp_path)
    for use in (
        lambda: require_writable(no_place),
        lambda: require_writable(no_place / "deeper" / "still"),
        lambda: write_atomically(no_place / "x.txt", "x"),
        lambda: write_json(no_place / "deeper" / "x.json", {}),
        lambda: locked(no_place / "x.lock", held="held").__enter__(),
    ):
        with pytest.raises(FileError) as error:
            use()
        assert str(no_place) in str(error.value) and "cannot be written" in str(error.value)
        assert "\n" not in str(error.value)
    assert listing(tmp_path) == before


def test_a_place_that_can_be_written_passes_and_stays_unmade(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for folder in (tmp_path, tmp_path / "new" / "newer", tmp_path / "link" / "new"):
        require_writable(folder)
    assert {path.name for path in tmp_path.rglob("*")} == {"real", "link"}


def test_a_full_disk_is_said_and_the_old_file_stays(tmp_path):
    path = write_atomically(tmp_path / "x.txt", "old")
    full = pytest.raises(FileError, match=r"x\.txt cannot be written \(No space left on device\)")
    with full:  # noqa: SIM117
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and listing(tmp_path) == [str(path)]


@pytest.mark.parametrize(
    "path", ["~nobody-of-that-name/x", "x" * 5000, "a/" * 4000, "x\0y", "loop/x", "x" * 300], ids=range(6)
)
def test_a_path_that_cannot_be_looked_at_is_said_in_one_short_line(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError) as error:
        absolute_path(path, "--results")
    assert str(error.value).startswith("--results ") and len(str(error.value)) < 300


def test_a_path_need_not_exist_and_follows_no_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    for given in ("link/x", "new/x", "file/x", "~/new", "."):
        assert absolute_path(given, "--results") == tmp_path / given.removeprefix("~/")


def test_a_current_folder_that_is_gone_is_said_for_relative_paths_only(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileError, match="--results 'x': the current folder does not exist any more"):
        absolute_path("x", "--results")
    assert absolute_path(tmp_path / "x", "--results") == tmp_path / "x"


@pytest.mark.parametrize("text", ["", "{", "[1,", "\ufeff{}", "9" * 5000, "[" * 100_000, b"\xff\xfe"])
def test_whatever_is_no_json_is_said(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError, match="is not valid JSON .* Delete it"):
        read_json(path)


def test_json_that_cannot_be_opened_is_said(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        read_json(tmp_path / "x.json")
    with pytest.raises(FileError, match="cannot be read"):
        read_json(tmp_path / ("x" * 300))


def test_arrays_are_read_or_the_file_is_said_to_be_damaged(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, query=np.arange(6.0).reshape(2, 3), gallery=np.zeros(3))
    whole = path.read_bytes()
    assert read_arrays(path, ("query",))["query"].tolist() == [[0, 1, 2], [3, 4, 5]]
    shape = whole.replace(b"(2, 3)", b"(9, 9)")  # more values than there are
    odd = [b"", b"text", json.dumps({}).encode(), whole.replace(b"query", b"other"), shape]
    for content in (*odd, *(whole[:cut] for cut in range(1, len(whole), 53))):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"x\.npz cannot be read .* Delete it"):
            read_arrays(path, ("query", "gallery"))


def test_arrays_that_unpack_to_many_times_their_size_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, query=np.zeros(200_000))
    monkeypatch.setattr(files.np, "load", lambda path: pytest.fail("it was read"))
    with pytest.raises(FileError, match=r"unpacks to 1\.6 MB"):
        read_arrays(path, ("query",))
    assert zipfile.is_zipfile(path)


def test_paths_of_any_bytes_come_back_as_they_were(tmp_path):
    data = {"results": "/data/\udce9 é", "é": [1, None]}
    path = write_json(tmp_path / "state.json", data)
    assert read_json(path) == data and json.loads(path.read_bytes().decode()) == data
