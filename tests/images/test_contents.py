"""Digests of images: they follow the content, and are remembered until a file may have changed."""

import os
import shutil

import pytest

from reidlib.images import contents
from reidlib.images.contents import ImageError, content_digests


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "query").mkdir()
    for number in range(4):
        (tmp_path / "query" / f"{number}.png").write_bytes(bytes([number]) * 100)
    return sorted((tmp_path / "query").iterdir())


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read since the last look."""
    names, real = [], contents.file_digest
    monkeypatch.setattr(contents, "file_digest", lambda path: names.append(path.name) or real(path))
    monkeypatch.setattr(contents, "SETTLED", -3600)  # the files of a test are new

    def since():
        found = sorted(names)
        names.clear()
        return found

    return since


def test_each_file_is_read_once(paths, tmp_path, read):
    first = content_digests(paths, cache=tmp_path / "cache")
    assert read() == ["0.png", "1.png", "2.png", "3.png"]
    assert len(set(first)) == 4 and all(len(digest) == 32 for digest in first)
    assert content_digests(paths[::-1], cache=tmp_path / "cache") == first[::-1]
    assert read() == []
    assert content_digests(paths, cache=None) == first
    assert len(read()) == 4, "without a cache"
    assert content_digests([], cache=tmp_path / "cache") == []


@pytest.mark.parametrize("how", ["written", "replaced", "linked", "linked folder"])
def test_another_picture_of_the_same_name_size_and_time_is_noticed(paths, tmp_path, read, how):
    """Whatever a copying tool does to size and modification time."""
    before = content_digests(paths, cache=tmp_path / "cache")
    old, state, read_before = paths[1], paths[1].stat(), read()
    new = tmp_path / "other" / old.name
    shutil.copytree(tmp_path / "query", new.parent, copy_function=shutil.copy2)
    new.write_bytes(b"x" * 100)
    os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns))
    if how == "written":
        old.write_bytes(new.read_bytes())
        os.utime(old, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif how == "replaced":
        new.replace(old)
    elif how == "linked":
        old.unlink()
        old.symlink_to(new)
    else:
        (tmp_path / "query").rename(tmp_path / "put away")
        (tmp_path / "query").symlink_to(new.parent)
    assert (old.stat().st_size, old.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    after = content_digests(paths, cache=tmp_path / "cache")
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True, True]
    assert old.name in read() and len(read_before) == 4
    assert content_digests(paths, cache=tmp_path / "cache") == after
    assert read() == []


def test_a_file_that_has_just_changed_is_not_remembered(paths, tmp_path, monkeypatch, read):
    """It may change again within one tick of its file system's clock, which leaves all its times the same."""
    monkeypatch.setattr(contents, "SETTLED", 2)
    for _ in range(2):
        content_digests(paths, cache=tmp_path / "cache")
        assert len(read()) == 4


def test_digests_are_only_used_where_nothing_may_be_written(paths, tmp_path, read):
    content_digests(paths, cache=tmp_path / "cache", keep=False)
    assert not (tmp_path / "cache").exists() and len(read()) == 4
    content_digests(paths, cache=tmp_path / "cache")
    (note,) = (tmp_path / "cache").rglob("*.json")
    before = note.read_bytes()
    paths[0].write_bytes(b"another")
    read()
    content_digests(paths, cache=tmp_path / "cache", keep=False)
    assert read() == ["0.png"] and note.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"/0.png": 3}', '{"/0.png": [1, 2]}'])
def test_a_damaged_note_is_made_again(paths, tmp_path, read, content):
    expected = content_digests(paths, cache=tmp_path / "cache")
    (note,) = (tmp_path / "cache").rglob("*.json")
    note.write_text(content)
    read()
    assert content_digests(paths, cache=tmp_path / "cache") == expected
    assert len(read()) == 4
    assert content_digests(paths, cache=tmp_path / "cache") == expected and read() == []


def test_folders_share_no_digests(paths, tmp_path, read):
    """Two data sets with the same names, remembered in one cache."""
    other = tmp_path / "elsewhere" / "query"
    other.mkdir(parents=True)
    for path in paths:
        (other / path.name).write_bytes(b"y" * 100)
    one = content_digests(paths, cache=tmp_path / "cache")
    two = content_digests([other / path.name for path in paths], cache=tmp_path / "cache")
    assert set(one) & set(two) == set() and len(set(two)) == 1, "hard links and copies count by content"
    read()
    content_digests(paths, cache=tmp_path / "cache")
    assert read() == []


def test_a_file_that_is_gone_is_named(paths, tmp_path):
    paths[2].unlink()
    with pytest.raises(ImageError, match=r"2\.png cannot be read as an image \(No such file"):
        content_digests(paths, cache=tmp_path / "cache")
