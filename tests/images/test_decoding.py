"""Decoding against PIL; the cache of decoded images, also with damaged files."""

import json
import multiprocessing
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reidlib.images import decoding
from reidlib.images.decoding import ImageError, decode, load_images, load_sizes

RNG = np.random.default_rng(0)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels) if channels else (height, width), dtype=np.uint8)


def smooth(height, width):
    """A natural-looking image: low frequencies only, full contrast."""
    small = Image.fromarray(noise(max(height // 16, 2), max(width // 16, 2)))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


# --------------------------------------------------------------------------------------------------- decoding


def test_decode_is_pils_bilinear_resize(tmp_path):
    pixels = noise(61, 37)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(pixels).resize((24, 48), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 48, 24), expected)


def test_decode_of_the_same_size_changes_no_pixel(tmp_path):
    pixels = noise(48, 24)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 48, 24), pixels)


def test_grey_becomes_three_equal_channels(tmp_path):
    pixels = noise(48, 24, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 48, 24), np.repeat(pixels[..., None], 3, axis=2))


def test_alpha_is_dropped(tmp_path):
    pixels = noise(48, 24, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 48, 24), pixels[..., :3])


def test_palette_is_looked_up_before_resizing(tmp_path):
    image = Image.fromarray(noise(40, 20, 0) % 7)
    image.putpalette(
        [value for index in range(256) for value in (index * 30 % 256, 255 - index, index * 80 % 256)]
    )
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    expected = np.asarray(image.convert("RGB").resize((24, 48), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 48, 24), expected)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    """PIL alone would turn everything above 255 of 65535 white."""
    pixels = np.linspace(0, 65535, 48 * 24).astype(np.uint16).reshape(48, 24)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    decoded = decode(tmp_path / "a.png", 48, 24)
    np.testing.assert_array_equal(decoded, np.repeat((pixels // 256).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_orientation_is_applied(tmp_path, orientation):
    """By the table in the EXIF standard: which side of the scene is row 0, and which is column 0."""
    scene = smooth(64, 32)
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.swapaxes(0, 1),
        6: np.rot90(scene, 1),
        7: np.rot90(scene, 2).swapaxes(0, 1),
        8: np.rot90(scene, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 64, 32), scene)


def test_cmyk_jpeg(tmp_path):
    rgb = smooth(48, 24)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    decoded = decode(tmp_path / "a.jpg", 48, 24)
    assert decoded.shape == (48, 24, 3)
    # JPEG is lossy; inverted colours would be off by about 100
    assert np.abs(decoded.astype(int) - rgb).mean() < 8


def faulty_files(folder):
    """Writes faulty image files, and returns the names of those that cannot be decoded."""
    Image.fromarray(noise(60, 30)).save(folder / "whole.jpg")
    Image.fromarray(noise(60, 30)).save(folder / "whole.png")
    jpeg, png = (folder / "whole.jpg").read_bytes(), (folder / "whole.png").read_bytes()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "header_only.jpg").write_bytes(jpeg[:20])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"not an image at all")
    (folder / "damaged.png").write_bytes(png[:80] + bytes(40) + png[120:])
    (folder / "damaged_text.png").write_bytes(png[:33] + chunk(b"zTXt", b"key\0\0garbage") + png[33:])
    (folder / "damaged_exif.png").write_bytes(png[:33] + chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f") + png[33:])
    return ["cut.jpg", "cut.png", "header_only.jpg", "empty.jpg", "text.jpg", "damaged.png", "missing.jpg"]


def test_unreadable_files_are_named(tmp_path):
    for name in faulty_files(tmp_path):
        with pytest.raises(ImageError) as error:
            decode(tmp_path / name, 48, 24)
        assert str(error.value).startswith(str(tmp_path / name)), name


@pytest.mark.parametrize("name", ["damaged_text.png", "damaged_exif.png"])
def test_damaged_metadata_is_ignored_or_the_file_is_named(tmp_path, name):
    faulty_files(tmp_path)
    try:
        assert decode(tmp_path / name, 48, 24).shape == (48, 24, 3)
    except ImageError as error:
        assert name in str(error)


def test_an_image_too_large_for_pil_is_named(tmp_path, monkeypatch):
    Image.fromarray(noise(60, 30)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="huge.png"):
        decode(tmp_path / "huge.png", 48, 24)


# ------------------------------------------------------------------------------------------------------ cache


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "query"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(noise(30 + number, 20)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def forbid_decoding(monkeypatch):
    def opened(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding.Image, "open", opened)


def test_images_are_decoded_once(paths, tmp_path, monkeypatch):
    first = load_images(paths, 32, 16, cache=tmp_path / "cache")
    assert first.shape == (5, 32, 16, 3) and first.dtype == np.uint8
    for row, path in zip(first, paths, strict=True):
        np.testing.assert_array_equal(row, decode(path, 32, 16))
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0, 0] = 1
    forbid_decoding(monkeypatch)
    again = load_images(paths, 32, 16, cache=tmp_path / "cache")
    assert isinstance(again, np.memmap)
    np.testing.assert_array_equal(again, first)
    with pytest.raises(AssertionError, match="decoded again"):  # the patch works
        load_images(paths, 32, 17, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "damage", ["bit", "cut", "empty", "note removed", "note empty", "note of another", "note a list"]
)
def test_a_damaged_cache_is_made_again(paths, tmp_path, damage):
    cache = tmp_path / "cache"
    expected = np.array(load_images(paths, 32, 16, cache=cache))
    (file,), (note,) = cache.glob("*.npy"), cache.glob("*.json")
    whole = bytearray(file.read_bytes())
    if damage == "bit":
        whole[-1000] ^= 1
        file.write_bytes(whole)
    elif damage == "cut":
        file.write_bytes(whole[:-10])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "note removed":
        note.unlink()
    elif damage == "note of another":
        note.write_text(json.dumps({"crc32": 1}))
    else:
        note.write_text("[]" if damage == "note a list" else "")
    np.testing.assert_array_equal(load_images(paths, 32, 16, cache=cache), expected)
    assert file.read_bytes()[-1000:] == bytes(np.array(expected).tobytes()[-1000:])
    assert len(list(cache.iterdir())) == 2


def test_another_size_or_other_images_give_another_cache_file(paths, tmp_path):
    cache = tmp_path / "cache"
    load_images(paths, 32, 16, cache=cache)
    assert load_images(paths, 16, 32, cache=cache).shape == (5, 16, 32, 3)
    assert len(load_images(paths[:4], 32, 16, cache=cache)) == 4
    assert len(list(cache.glob("*.npy"))) == 3
    reordered = load_images(paths[::-1], 32, 16, cache=cache)
    np.testing.assert_array_equal(reordered[0], decode(paths[-1], 32, 16))


def test_other_pixels_under_the_same_names_are_decoded_again(tmp_path):
    """Uncompressed images of one shape have the same file size, so names and sizes are not enough."""
    arrays = []
    for name in ("one", "two"):
        folder = tmp_path / name / "query"
        folder.mkdir(parents=True)
        Image.fromarray(noise(32, 16)).save(folder / "0001_c1.bmp")
        arrays.append(np.array(load_images([folder / "0001_c1.bmp"], 32, 16, cache=tmp_path / "cache")))
        np.testing.assert_array_equal(arrays[-1][0], np.asarray(Image.open(folder / "0001_c1.bmp")))


def test_another_decoder_decodes_again(paths, tmp_path, monkeypatch):
    """Pixels decoded by one version of Pillow are not used for another version."""
    load_images(paths, 8, 4, cache=tmp_path)
    monkeypatch.setattr(decoding, "DECODER", "another")
    load_images(paths, 8, 4, cache=tmp_path)
    assert len(list(tmp_path.glob("*-8x4.npy"))) == 2


def test_several_sizes_read_each_image_once(paths, tmp_path, monkeypatch):
    opened, real = [], Image.open
    monkeypatch.setattr(decoding.Image, "open", lambda path: opened.append(path) or real(path))
    small, large = load_sizes(paths, [(32, 16), (36, 18)], cache=tmp_path / "cache")
    assert sorted(opened) == paths
    assert small.shape == (5, 32, 16, 3) and large.shape == (5, 36, 18, 3)
    for row, path in enumerate(paths):
        np.testing.assert_array_equal(small[row], decode(path, 32, 16))
        np.testing.assert_array_equal(
            large[row], decode(path, 36, 18), "resized from the image, not from the smaller size"
        )
    again = load_images(paths, 36, 18, cache=tmp_path / "cache")  # read from the cache file of the call above
    np.testing.assert_array_equal(again, large)


def test_only_the_sizes_that_are_missing_are_made(paths, tmp_path):
    cache = tmp_path / "cache"
    load_images(paths, 32, 16, cache=cache)
    (first,) = cache.glob("*.npy")
    before = first.stat().st_mtime_ns
    assert [images.shape[1] for images in load_sizes(paths, [(32, 16), (36, 18)], cache=cache)] == [32, 36]
    assert first.stat().st_mtime_ns == before and len(list(cache.iterdir())) == 4


def test_the_disk_space_is_announced_before_anything_is_made(paths, tmp_path, monkeypatch):
    shown, real = [], decoding.track_progress

    def track_progress(total, description, unit):
        shown.append((total, description, unit, list((tmp_path / "cache").glob("*.npy"))))
        return real(total, description, unit)

    monkeypatch.setattr(decoding, "track_progress", track_progress)
    load_sizes(paths, [(320, 160), (360, 180)], cache=tmp_path / "cache", description="decoding train")
    # 5 · 3 · (320 · 160 + 360 · 180) = 1,740,000 bytes
    assert shown == [(5, "decoding train (2 MB)", "image", [])]


def _load_at_once(arguments):
    paths, cache, barrier = arguments
    barrier.wait(60)
    return np.array(load_images(paths, 64, 32, cache=cache))


def test_several_processes_may_make_the_same_cache_at_once(paths, tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(3) as pool:
        barrier = manager.Barrier(3)
        found = pool.map(_load_at_once, [(paths, tmp_path / "cache", barrier)] * 3, chunksize=1)
    for images in found:
        np.testing.assert_array_equal(images, [decode(path, 64, 32) for path in paths])
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]


def test_too_little_disk_space_is_reported_before_anything_is_written(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 32 * 16 * 3))
    with pytest.raises(ImageError, match=r"0\.0 GB are needed.*Make room") as error:
        load_images(paths, 32, 16, cache=tmp_path / "cache")
    assert str(tmp_path / "cache") in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreadable_image_leaves_nothing_behind(paths, tmp_path):
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    with pytest.raises(ImageError, match=r"3\.png"):
        load_images(paths, 32, 16, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
