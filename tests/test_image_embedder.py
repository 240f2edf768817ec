"""`reidlib.embedder`: the study's numbers for files, PIL images and arrays, clear errors, a kept gallery."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import SIZE, run_with_weights, write_noise
from PIL import Image

import reidlib
from reidlib import image_embedder
from reidlib.checkpoints import CheckpointError
from reidlib.config import experiment_for
from reidlib.datasets.own_images import read_own_images
from reidlib.errors import ReidError
from reidlib.evaluation.embedding import embed_test_set
from reidlib.files import REPOSITORY, FileError
from reidlib.image_embedder import embed_own_images
from reidlib.images.contents import ImageError, UnreadableImageError
from reidlib.models.networks import model_from_experiment

EXAMPLE = """
import reidlib
embed = reidlib.embedder("results/demo-synthetic/runs/abdnet-seed0")
embeddings = embed(["one.jpg", "two.jpg"])  # (2, D) float32
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_with_weights(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def embed(run):
    return reidlib.embedder(run.folder)


@pytest.fixture
def files(tmp_path):
    return [write_noise(tmp_path / f"{number}.png", number) for number in range(3)]


def test_files_have_the_embeddings_of_the_studys_evaluation(run, embed, dataset, cache, steady):
    studys = embed_test_set(run.model(), run.experiment, dataset, cache=cache, keep=False)
    for name, split in (("query", dataset.query), ("gallery", dataset.gallery)):
        ours = embed(split.paths)
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, studys[name])


def test_paths_pil_images_and_arrays_mixed_are_the_same_images(embed, files, steady):
    with Image.open(files[1]) as opened:
        mixed = embed(iter([str(files[0]), opened, np.asarray(Image.open(files[2]))]))
    np.testing.assert_array_equal(mixed, embed(files))
    assert len(np.unique(mixed.round(4), axis=0)) == 3


def test_one_image_is_one_row_and_an_array_of_images_several(embed, files):
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    several = embed(pixels)
    for number, one in enumerate((files[0], str(files[1]), pixels[2])):
        np.testing.assert_allclose(embed(one), several[number : number + 1], rtol=1e-3, atol=1e-3)


def test_a_photograph_that_exif_turns_is_upright_as_a_file_and_as_a_pil_image(embed, tmp_path, steady):
    exif = Image.Exif()
    exif[274] = 6
    Image.open(write_noise(tmp_path / "a.png", 1)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        upright = np.asarray(turned.transpose(Image.Transpose.ROTATE_270))
        three = embed([tmp_path / "turned.png", turned, upright])
    np.testing.assert_array_equal(three[0], three[1])
    np.testing.assert_array_equal(three[0], three[2])


def test_more_images_than_a_batch_keep_their_order(embed, files, monkeypatch):
    monkeypatch.setattr(image_embedder, "BATCH", 2)
    np.testing.assert_allclose(embed(files), np.concatenate([embed(file) for file in files]), atol=1e-3)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 3)), r"Image 2 is an array \(4, 4, 3\) of float64: expected \(H, W, 3\) RGB bytes"),
        (np.zeros((4, 4), np.uint8), r"Image 2 is an array \(4, 4\)"),
        (Image.new("I;16", (4, 4)), "Image 2 .* has the mode I;16, not 8 bits a channel"),
        (7, "Image 2 is of type int: expected a path"),
        ("gone\n.png", r"gone\\n.png cannot be read as an image \(No such file"),
    ],
)
def test_what_is_no_image_is_named(embed, files, image, says):
    with pytest.raises(ImageError, match=says):
        embed([files[0], image])


def test_a_damaged_file_is_named_also_as_a_pil_image(embed, files):
    files[1].write_bytes(files[1].read_bytes()[:-200])
    with pytest.raises(UnreadableImageError, match=re.escape(str(files[1]))):
        embed(files)
    with Image.open(files[1]) as late, pytest.raises(UnreadableImageError, match=r"Image 1 \(.*1\.png\)"):
        embed([late])


def test_nothing_and_no_images_are_refused(embed):
    with pytest.raises(ReidError, match="no image to embed"):
        embed([])
    with pytest.raises(ImageError, match="NoneType is no image"):
        embed(None)


def test_a_file_of_weights_needs_its_method(run, files, embed, steady):
    settings = {"profile": "smoke", **SIZE}
    with pytest.raises(CheckpointError, match="name its method"):
        reidlib.embedder(run.files.model)
    loaded = reidlib.embedder(run.files.model, "abdnet", **settings)
    assert (loaded.experiment.embedding_precision, loaded.name) == ("float32", "model.pt")
    own = experiment_for("abdnet", embedding_precision="float32", **settings)
    network = model_from_experiment(own, run.metrics["classes"])
    network.load_state_dict(run.model().state_dict())
    np.testing.assert_array_equal(loaded(files), image_embedder.Embedder(network, own, "")(files))
    with pytest.raises(CheckpointError, match="does not fit"):
        reidlib.embedder(run.files.model, "gap", **settings)


def test_what_is_no_run_and_what_a_run_decides_itself(run, tmp_path):
    with pytest.raises(FileError, match="no finished run"):
        reidlib.embedder(tmp_path)
    with pytest.raises(CheckpointError, match="is no file"):
        reidlib.embedder(tmp_path / "gone")
    with pytest.raises(ReidError, match="leave method, height out"):
        reidlib.embedder(run.folder, "abdnet", height=8)


# ------------------------------------------------------------------------------------ a folder and its cache


class Counting:
    """An embedder that notes what it was asked for."""

    def __init__(self, embed):
        self.embed, self.key, self.calls = embed, embed.key, []

    def __call__(self, images):
        self.calls.append([Path(image).name for image in images])
        return self.embed(images)


@pytest.fixture
def own(tmp_path, files):
    gallery = tmp_path / "gallery"
    for number in range(4):
        write_noise(gallery / f"{number}.png", number)
    return lambda: read_own_images(gallery, [files[0]])


def test_the_gallery_is_embedded_once_and_then_only_what_is_new(embed, own, tmp_path):
    gallery, counting = tmp_path / "gallery", Counting(embed)
    _, first = embed_own_images(counting, own(), cache=tmp_path / "cache")
    assert counting.calls == [["0.png", "1.png", "2.png", "3.png"], ["0.png"]]
    counting.calls.clear()
    _, again = embed_own_images(counting, own(), cache=tmp_path / "cache")
    assert counting.calls == [["0.png"]], "the query only"
    np.testing.assert_array_equal(again["gallery"], first["gallery"])

    (gallery / "1.png").rename(gallery / "5.png")  # the same content
    write_noise(gallery / "2.png", 77)  # another content under an old name
    counting.calls.clear()
    read = own()
    _, changed = embed_own_images(counting, read, cache=tmp_path / "cache")
    assert counting.calls[0] == ["2.png"]
    np.testing.assert_array_equal(changed["gallery"][[0, 2, 3]], first["gallery"][[0, 3, 1]])
    np.testing.assert_allclose(changed["gallery"], embed(read.dataset.gallery.paths), atol=1e-3)


def test_another_network_and_a_damaged_cache_are_not_taken_for_it(embed, own, tmp_path):
    cache = tmp_path / "cache"
    _, first = embed_own_images(embed, own(), cache=cache)
    (kept,) = (cache / "embeddings").glob("own-*.npz")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 255
    kept.write_bytes(content)
    counting = Counting(embed)
    _, mended = embed_own_images(counting, own(), cache=cache)
    assert len(counting.calls[0]) == 4
    np.testing.assert_array_equal(mended["gallery"], first["gallery"])

    torch.manual_seed(5)
    network = embed.experiment
    other = image_embedder.Embedder(model_from_experiment(network, 6), network, "other")
    assert other.key != embed.key
    _, others = embed_own_images(other, own(), cache=cache)
    assert np.abs(others["gallery"] - first["gallery"]).max() > 1e-3


def test_unreadable_images_are_an_error_that_lists_all_and_left_out_when_asked(embed, own, tmp_path):
    gallery, cache = tmp_path / "gallery", tmp_path / "cache"
    (gallery / "1.png").write_bytes(b"no image")
    (gallery / "dangling.png").symlink_to(tmp_path / "gone")
    read = own()
    for part in (r"1 of 6 images cannot be read: .*dangling\.png \(No such file", "--skip-unreadable"):
        with pytest.raises(UnreadableImageError, match=part):
            embed_own_images(embed, read, cache=cache)
    (gallery / "dangling.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"1 of 5 .*1\.png \(it is none of"):
        embed_own_images(embed, own(), cache=cache)
    kept, embeddings = embed_own_images(embed, own(), cache=cache, skip_unreadable=True)
    assert [path.name for path in kept.dataset.gallery.paths] == ["0.png", "2.png", "3.png"]
    assert [path.name for path in kept.left_out] == ["1.png"]
    assert embeddings["gallery"].shape[0] == 3
    np.testing.assert_allclose(embeddings["gallery"], embed(kept.dataset.gallery.paths), atol=1e-3)


# ------------------------------------------------------------------------------------------------ the README


def examples() -> list[str]:
    """The README's lines of Python around `reidlib.embedder`, or ours while it has none."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += [
        re.sub("^    ", "", block, flags=re.MULTILINE) for block in re.findall(r"(?:^    .*\n)+", text, re.M)
    ]
    return [block for block in blocks if "reidlib.embedder(" in block and "import reidlib" in block] or [
        EXAMPLE
    ]


def test_the_readmes_lines_about_the_embedder_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in examples():
        texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
        texts = [text for text in texts if isinstance(text, str)]
        for number, text in enumerate(texts):
            if "/runs/" in text:
                shutil.copytree(run.folder, text, dirs_exist_ok=True)
            elif Path(text).suffix in (".jpg", ".png"):
                write_noise(Path(text), number)
        names: dict = {}
        exec(compile(source, "README.md", "exec"), names)
        arrays = [value for value in names.values() if isinstance(value, np.ndarray)]
        images = sum(Path(text).suffix in (".jpg", ".png") for text in texts)
        assert images and [(array.shape[0], array.dtype) for array in arrays] == [(images, np.float32)]


def test_importing_the_package_or_the_command_line_imports_no_torch():
    code = "import sys, reidlib, reidlib.study.command_line; assert not {'torch', 'polars'} & {*sys.modules}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
