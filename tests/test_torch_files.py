"""Files of weights that the safe loader refuses: the reason in our words, and sizes before reading."""

import io
import os
import pickle
import random
import tarfile
import traceback
import warnings
import zipfile

import pytest
import torch

from reidlib.torch_files import CheckpointError, read_torch_file

STATE = {"weight": torch.arange(6.0).view(2, 3), "epoch": [1.5, "x", 2**40]}
ADVICE = ("weights_only", "weights only", "safe_globals", "re-running", "trusted source", "torch.load")


def saved(content=STATE, *, archive=True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=archive)
    return buffer.getvalue()


def refused(path) -> str:
    """What is said of the file; it is one line, and no traceback shows torch's advice to trust the file."""
    with pytest.raises(CheckpointError) as error:
        read_torch_file(path)
    shown = "".join(traceback.format_exception(error.value)).lower()
    assert not [words for words in ADVICE if words in shown]
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    return str(error.value).removeprefix(str(path))


@pytest.fixture
def unpacked(tmp_path):
    """The folder that unpacking a checkpoint makes."""
    with zipfile.ZipFile(io.BytesIO(saved())) as archive:
        archive.extractall(tmp_path)
        return tmp_path / archive.namelist()[0].partition("/")[0]


def test_the_parts_of_an_unpacked_checkpoint_are_called_so(unpacked):
    assert "an unpacked checkpoint: pass the file as it was downloaded" in refused(unpacked)
    pickled = unpacked / "data.pkl"
    assert "part of an unpacked checkpoint" in refused(pickled)
    assert "part of an unpacked checkpoint" in refused(pickled.rename(unpacked / "renamed.pth"))
    assert "cannot be read" in refused(unpacked / "data" / "0")


def test_whatever_is_refused_is_said_without_the_advice_to_trust_it(tmp_path):
    """Files cut, changed or of another kind, drawn at random: one sentence each, never torch's advice."""
    path, rng = tmp_path / "x.pth", random.Random(0)
    whole = [saved(), saved(archive=False)]
    contents = [b"", bytes(2000), b"a text", b"PK\x05\x06" + bytes(18), pickle.dumps(STATE), os.urandom(500)]
    contents += [saved({"module": torch.nn.Linear(1, 1)}, archive=archive) for archive in (True, False)]
    contents += [data[:cut] for data in whole for cut in range(1, len(data), 97)]
    for _ in range(150):
        changed = bytearray(rng.choice(whole))
        for _ in range(rng.choice([1, 3])):
            changed[rng.randrange(min(len(changed), 700))] = rng.randrange(256)
        contents.append(bytes(changed))
    count = 0
    for content in contents:
        path.write_bytes(content)
        try:
            read_torch_file(path)
        except CheckpointError:
            refused(path)
            count += 1
    assert count > 100


def test_other_archives_are_called_by_their_kind(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    assert "tar archive" in refused(tmp_path / "x.tar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer PyTorch advises against TorchScript
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "x.pt")
    assert "TorchScript program: pass a state dict" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize("times", [1, 200])
def test_a_file_that_unpacks_to_many_times_its_size_is_not_read(tmp_path, monkeypatch, times):
    """torch.save compresses nothing. A file packed tighter is read while it grows little."""
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    values = torch.rand(1000).repeat(times)
    plain.write_bytes(saved({"weight": values}))
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.equal(read_torch_file(plain)["weight"], values)
    if times == 1:
        assert torch.equal(read_torch_file(packed)["weight"], values)
        return
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("it was read"))
    assert "unpacks to 0.8 MB" in refused(packed)


def test_entries_that_share_their_bytes_count_each(tmp_path):
    """An archive may list the same bytes a thousand times, uncompressed."""
    path, buffer = tmp_path / "x.pth", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", bytes(10_000))
        first = archive.infolist()[0]
        for number in range(100):
            again = zipfile.ZipInfo(f"x/data/{number}")
            again.file_size = again.compress_size = first.file_size
            again.CRC, again.header_offset = first.CRC, first.header_offset
            archive.filelist.append(again)
    path.write_bytes(buffer.getvalue())
    assert path.stat().st_size < 20_000 and "unpacks to 1.0 MB" in refused(path)
