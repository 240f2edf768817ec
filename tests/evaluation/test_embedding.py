"""Embeddings of image files: any size and mode, averaging with the mirror image, and the cache."""

import numpy as np
import pytest
import torch
from PIL import Image

from reidlib.devices import autocast
from reidlib.evaluation import embedding
from reidlib.evaluation.embedding import embed, embed_files
from reidlib.images.decoding import ImageError, load_images
from reidlib.images.normalisation import normalise
from reidlib.torch_files import state_digest

SIZE = (32, 16)


class Pooled(torch.nn.Module):
    """A network whose embedding is the weighted means of the left and right half of an image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(1.0, 7.0))

    def forward(self, images):
        halves = torch.cat([half.mean((2, 3)) for half in images.chunk(2, dim=3)], 1)
        return embedding_of(halves * self.weight)


def embedding_of(values):
    return type("Output", (), {"embedding": values})()


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(path)
        made.append(path)
    return made


def files_in(cache):
    return sorted(path.name for path in (cache / "embeddings").glob("*.npy"))


def call(paths, cache, model=None, **options):
    settings = {
        "flip": False,
        "precision": "float32",
        "device": torch.device("cpu"),
        "keep": {"parts": 6},
        **options,
    }
    return embed_files(model or Pooled(), paths, *SIZE, cache=cache, **settings)


def test_files_have_the_embeddings_of_their_pixels(paths, tmp_path):
    images = load_images(paths, *SIZE, cache=tmp_path / "cache")
    expected = embed(Pooled(), images, flip=False, precision="float32", device=torch.device("cpu"))
    np.testing.assert_array_equal(call(paths, tmp_path / "cache"), expected)


def test_flip_averages_image_and_mirror_image(paths, tmp_path):
    model, images = Pooled(), load_images(paths, *SIZE, cache=tmp_path / "cache")
    with torch.no_grad():
        batch = normalise(torch.from_numpy(np.array(images)))
        expected = (model(batch).embedding + model(batch.flip(3)).embedding) / 2
    np.testing.assert_allclose(call(paths, tmp_path / "cache", flip=True), expected.numpy(), rtol=1e-6)


def test_cached_embeddings_are_not_computed_again(paths, tmp_path, monkeypatch):
    first = call(paths, tmp_path / "cache")
    monkeypatch.setattr(embedding, "embed", None)
    np.testing.assert_array_equal(call(paths, tmp_path / "cache"), first)
    assert len(files_in(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_anything_that_changes_embeddings_gives_another_cache_file(paths, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    call(paths, cache)
    other = Pooled()
    with torch.no_grad():
        other.weight[3] += 1e-6
    changes = [
        lambda: call(paths, cache, other),
        lambda: call(paths, cache, flip=True),
        lambda: call(paths, cache, precision="bfloat16"),
        lambda: call(paths, cache, keep={"parts": 0}),  # the same weights in another network
        lambda: call(paths[::-1], cache),
        lambda: call(paths[:4], cache),
    ]
    for number, change in enumerate(changes, 2):
        change()
        assert len(files_in(cache)) == number
    Image.new("RGB", (20, 40), "red").save(paths[2])  # another image under the same name
    changed = call(paths, cache)
    assert len(files_in(cache)) == len(changes) + 2
    np.testing.assert_array_equal(changed[[0, 1, 3, 4]], call(paths, cache)[[0, 1, 3, 4]])
    monkeypatch.setattr(embedding, "digest_of_code", lambda *modules: "other code")
    call(paths, cache)
    assert len(files_in(cache)) == len(changes) + 3


def test_nothing_is_cached_unless_asked(paths, tmp_path):
    call(paths, tmp_path / "cache", keep=None)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-7], lambda content: content[:-1] + bytes([content[-1] ^ 1])]
)
def test_a_damaged_file_is_made_again(paths, tmp_path, damage):
    first = call(paths, tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "embeddings").glob("*.npy")
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(call(paths, tmp_path / "cache"), first)
    np.testing.assert_array_equal(np.load(file), first)


def test_the_digest_of_a_network_covers_names_types_and_values():
    model = Pooled()
    found = {state_digest(model), state_digest(Pooled().double())}
    renamed = torch.nn.Module()
    renamed.mass = torch.nn.Parameter(torch.arange(1.0, 7.0))
    found |= {
        state_digest(renamed),
        state_digest(torch.nn.BatchNorm1d(2)),
        state_digest(torch.nn.BatchNorm1d(3)),
    }
    assert len(found) == 5
    assert state_digest(Pooled()) == state_digest(model)
    counted = torch.nn.BatchNorm1d(2)
    counted.num_batches_tracked += 1  # a tensor without dimensions
    assert state_digest(counted) != state_digest(torch.nn.BatchNorm1d(2))
    strided = torch.nn.Conv2d(3, 4, 3)
    assert state_digest(strided) == state_digest(strided.to(memory_format=torch.channels_last))


def test_images_of_any_mode_and_size(tmp_path):
    """One picture in several modes, sizes and EXIF orientations has nearly the same embedding."""
    ramp = np.tile(np.linspace(0, 255, 48, dtype=np.uint8)[:, None], (1, 24))
    grey = Image.fromarray(ramp)
    pictures = {
        "rgb.png": grey.convert("RGB"),
        "rgba.png": grey.convert("RGBA"),
        "grey.png": grey,
        "deep.png": Image.fromarray(ramp.astype(np.uint16) * 257),
        "large.png": grey.resize((240, 480), Image.Resampling.BILINEAR),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    rotated = grey.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = rotated.getexif()
    exif[0x0112] = 6  # EXIF: turn by 90° clockwise for display
    rotated.save(tmp_path / "turned.png", exif=exif)
    found = call([tmp_path / name for name in (*pictures, "turned.png")], tmp_path / "cache")
    np.testing.assert_allclose(found[1:4], found[[0, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(found[4:], found[[0, 0]], atol=0.1)


def test_an_unreadable_image_is_named_and_nothing_is_kept(paths, tmp_path):
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    with pytest.raises(ImageError, match="3.png cannot be read"):
        call(paths, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_float32_is_not_rounded_to_tf32_on_a_gpu(monkeypatch, precision):
    """PyTorch's default for convolutions is TF32, with 10 bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with autocast(precision, torch.device("cpu")):
        pass
    assert torch.backends.cudnn.allow_tf32 is False
