"""Decoding against PIL, the cache under injected faults, samplers on cases done by hand, augmentation against PIL and scipy."""

import json
import shutil
import struct
import zlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from reidlib import batches
from reidlib.batches import (
    ERASE_FILL,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageError,
    augment,
    decode,
    epoch_batches,
    erase_boxes,
    identity_batches,
    load_images,
    normalise,
    shuffled_batches,
)
from reidlib.errors import ReidError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels) if channels else (height, width), dtype=np.uint8)


def smooth(height, width):
    """A natural-looking image: low frequencies only, full contrast."""
    small = Image.fromarray(noise(max(height // 16, 2), max(width // 16, 2)))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------- decoding


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
    image.putpalette([value for index in range(256) for value in (index * 30 % 256, 255 - index, index * 80 % 256)])
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
    """EXIF's own table: where the stored image's row 0 and column 0 belong in the scene."""
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
    assert np.abs(decoded.astype(int) - rgb).mean() < 8  # JPEG's loss; inverted colours would be off by about 100


def faulty_files(folder):
    """Name → file that is no whole image."""
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
def test_damaged_metadata_is_read_or_named(tmp_path, name):
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


# ---------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "query"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(noise(30 + number, 20)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def forbid_decoding(monkeypatch):
    def decode(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(batches, "decode", decode)


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
    with pytest.raises(AssertionError, match="decoded again"):  # so the patch was in force
        load_images(paths, 32, 17, cache=tmp_path / "cache")


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "note removed", "note empty", "note of another", "note a list"])
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


def test_other_size_and_other_images_are_other_files(paths, tmp_path):
    cache = tmp_path / "cache"
    load_images(paths, 32, 16, cache=cache)
    assert load_images(paths, 16, 32, cache=cache).shape == (5, 16, 32, 3)
    assert len(load_images(paths[:4], 32, 16, cache=cache)) == 4
    assert len(list(cache.glob("*.npy"))) == 3
    reordered = load_images(paths[::-1], 32, 16, cache=cache)
    np.testing.assert_array_equal(reordered[0], decode(paths[-1], 32, 16))


def test_other_pixels_under_the_same_names_are_decoded_anew(tmp_path):
    """Uncompressed formats: every image of one shape has the same size in bytes, so names and sizes do not tell sets apart."""
    arrays = []
    for name in ("one", "two"):
        folder = tmp_path / name / "query"
        folder.mkdir(parents=True)
        Image.fromarray(noise(32, 16)).save(folder / "0001_c1.bmp")
        arrays.append(np.array(load_images([folder / "0001_c1.bmp"], 32, 16, cache=tmp_path / "cache")))
        np.testing.assert_array_equal(arrays[-1][0], np.asarray(Image.open(folder / "0001_c1.bmp")))


def test_too_little_room_is_said_before_anything_is_written(paths, tmp_path, monkeypatch):
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


# ---------------------------------------------------------------------------------------------------- samplers


def test_shuffled_batches_drop_the_incomplete_last():
    labels = np.zeros(11, np.int64)
    found = list(shuffled_batches(labels, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in found] == [4, 4]
    rows = np.concatenate(found)
    assert len(set(rows.tolist())) == 8 and set(rows.tolist()) <= set(range(11))
    assert rows.tolist() != sorted(rows.tolist())
    assert len(list(shuffled_batches(np.zeros(8), 4, np.random.default_rng(0)))) == 2
    assert list(shuffled_batches(np.zeros(3), 4, np.random.default_rng(0))) == []


def test_identity_batches_drop_the_leftover_of_each_person():
    """Two people with 9 images each, K = 4, P = 2: two groups each, so two batches; one image a person is left out."""
    labels = np.repeat([0, 1], 9)
    found = list(identity_batches(labels, 8, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in found] == [8, 8]
    for batch in found:
        assert Counter(labels[batch].tolist()) == {0: 4, 1: 4}
        assert len(set(labels[batch[:4]].tolist())) == 1, "a person's K images lie together"
    rows = np.concatenate(found)
    assert len(set(rows.tolist())) == 16, "no image twice: all groups are full"


def test_a_person_with_fewer_than_k_images_is_drawn_with_replacement():
    labels = np.array([0, 0, 0, 0, 1])  # person 1 has one image
    (batch,) = identity_batches(labels, 8, 4, np.random.default_rng(0))
    assert Counter(labels[batch].tolist()) == {0: 4, 1: 4}
    assert Counter(batch.tolist()) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 4}
    labels = np.array([0, 0, 0, 0, 1, 1, 1])  # over many draws of three images: repeats occur, and all three are used
    found = [next(identity_batches(labels, 8, 4, np.random.default_rng(seed))) for seed in range(30)]
    drawn = [batch[labels[batch] == 1] for batch in found]
    assert all(len(rows) == 4 and len(set(rows.tolist())) <= 3 for rows in drawn)
    assert set(np.concatenate(drawn).tolist()) == {4, 5, 6}


def test_the_pass_ends_when_too_few_people_have_a_group_left():
    """Groups 3, 1, 1 with P = 2: after the first batch at most one person of the pair (0, other) is left with the third.

    Either {0, x} then {0, y} (two batches, one group of 0 unused), or {1, 2} at once and then 0 alone (one batch).
    """
    labels = np.repeat([0, 1, 2], [12, 4, 4])
    lengths = Counter()
    for seed in range(40):
        found = list(identity_batches(labels, 8, 4, np.random.default_rng(seed)))
        lengths[len(found)] += 1
        pairs = [tuple(sorted(set(labels[batch].tolist()))) for batch in found]
        assert pairs in ([(0, 1), (0, 2)], [(0, 2), (0, 1)], [(1, 2)])
    assert set(lengths) == {1, 2}


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    people=st.integers(1, 4),
    k=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_identity_batches_keep_their_promises(sizes, people, k, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    found = list(identity_batches(labels, people * k, k, np.random.default_rng(seed)))
    groups = Counter({person * 3: max(size // k, 1) for person, size in enumerate(sizes)})
    used = Counter()
    for batch in found:
        count = Counter(labels[batch].tolist())
        assert len(count) == people and set(count.values()) == {k}
        used.update(count.keys())
    assert all(used[person] <= groups[person] for person in groups)
    assert sum(used[person] < groups[person] for person in groups) < people, "ended though P people had a group left"
    rows = Counter(np.concatenate(found).tolist()) if found else {}
    assert all(times == 1 or sizes[labels[row] // 3] < k for row, times in rows.items()), "repeated though images were left"


def test_epoch_batches_depend_on_seed_and_epoch_only():
    labels = np.repeat(np.arange(6), 5)

    def drawn(seed, epoch, k=0, steps=0):
        np.random.seed(RNG.integers(1 << 30))  # noqa: NPY002 - whatever the global state is
        return [batch.tolist() for batch in epoch_batches(labels, 8, k, steps, seed, epoch)]

    for k in (0, 4):
        assert drawn(1, 2, k) == drawn(1, 2, k)
        assert drawn(1, 2, k) != drawn(1, 3, k)
        assert drawn(1, 2, k) != drawn(2, 2, k)
        assert drawn(1, 2, k) != drawn(2, 1, k)


def test_steps_cut_a_pass_or_join_passes():
    labels = np.repeat(np.arange(6), 5)  # 30 images: 3 batches of 8 a pass
    whole = epoch_batches(labels, 8, 0, 0, 0, 0)
    assert len(whole) == 3
    for steps in (1, 2, 3, 7):
        found = epoch_batches(labels, 8, 0, steps, 0, 0)
        assert len(found) == steps
        for one, other in zip(found, whole, strict=False):
            np.testing.assert_array_equal(one, other)
    second = found[3:6]
    assert len(set(np.concatenate(second).tolist())) == 24, "a joined pass is a pass: no image twice in it"
    assert not all(np.array_equal(one, other) for one, other in zip(second, whole, strict=True))
    assert len(epoch_batches(labels, 8, 4, 20, 0, 0)) == 20


@pytest.mark.parametrize(("k", "words"), [(0, "30 training images of 6 people"), (4, "4 images of each person")])
def test_a_set_too_small_for_one_batch_is_refused(k, words):
    with pytest.raises(ReidError, match="Set a smaller batch_size") as error:
        epoch_batches(np.repeat(np.arange(6), 5), 32, k, 3, 0, 0)
    assert words in str(error.value)


# ---------------------------------------------------------------------------------------------------- normalising, crop, flip


def test_normalise_by_hand():
    pixels = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)  # (1, 1, 1, 3)
    expected = [(value / 255 - mean) / std for value, mean, std in zip((0, 128, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    out = normalise(pixels)
    assert out.shape == (1, 3, 1, 1) and out.dtype == torch.float32
    assert out.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    batch = normalise(torch.from_numpy(noise(32, 16)[None].repeat(2, 0)))
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_nothing_asked_nothing_changed():
    images = torch.randn(4, 3, 32, 16)
    out = augment(images, generator(), crop=0, flip=0, erase=0)
    assert torch.equal(out, images)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), [(96, 48), (384, 128), (33, 17)])
def test_flip_alone_mirrors_up_to_rounding(height, width):
    """Sampling positions are float32: measured, at most 5e-5 of a standard deviation away from the exact mirror."""
    images = torch.randn(3, 3, height, width)
    out = augment(images, generator(), crop=0, flip=1, erase=0)
    torch.testing.assert_close(out, images.flip(3), rtol=0, atol=2e-4)
    unlucky = augment(images, generator(), crop=1e-9, flip=0, erase=0)  # sampled, but neither cropped nor mirrored
    torch.testing.assert_close(unlucky, images, rtol=0, atol=2e-4)


def crop_window(images, index, seed, *, height, width):
    """The crop's corner for one image, from the same draws as `augment` makes."""
    draws = torch.rand(len(images), 4, generator=generator(seed))
    rows, columns = round(height * 1.125) - height, round(width * 1.125) - width
    return int(draws[index, 1] * (rows + 1)), int(draws[index, 2] * (columns + 1)), rows, columns


@pytest.mark.parametrize(("height", "width"), [(128, 64), (384, 128), (96, 48)])
def test_crop_is_pils_enlarging_and_cutting(height, width):
    """PIL rounds to whole bytes twice (columns, then rows), ours never: at most 1 of 255 apart (measured 1.0002).

    The windows around the drawn one are tried too: no other may fit.
    """
    pixels = np.stack([smooth(height, width) for _ in range(3)])
    out = augment(normalise(torch.from_numpy(pixels)), generator(5), crop=1, flip=0, erase=0)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    ours = ((out * std + mean) * 255).permute(0, 2, 3, 1).numpy()
    for index in range(3):
        top, left, rows, columns = crop_window(pixels, index, 5, height=height, width=width)
        enlarged = Image.fromarray(pixels[index]).resize((width + columns, height + rows), Image.Resampling.BILINEAR)
        enlarged = np.asarray(enlarged).astype(float)
        errors = {
            (y, x): np.abs(enlarged[y : y + height, x : x + width] - ours[index]).max()
            for y in range(rows + 1)
            for x in range(columns + 1)
            if abs(y - top) <= 2 and abs(x - left) <= 2
        }
        assert errors[top, left] <= 1.01
        assert np.abs(enlarged[top : top + height, left : left + width] - ours[index]).mean() < 0.35
        assert all(error > 2.0 for corner, error in errors.items() if corner != (top, left))


def test_crops_reach_every_corner():
    """8 × 8: the enlarged image is 9 × 9, so there are four windows, each as likely as the others."""
    images = torch.randn(1, 3, 8, 8).expand(400, -1, -1, -1)
    out = augment(images, generator(), crop=1, flip=0, erase=0)
    kinds, counts = torch.unique(out.flatten(1).round(decimals=3), dim=0, return_counts=True)
    assert len(kinds) == 4
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_each_image_has_its_own_draws():
    images = torch.randn(1, 3, 32, 16).expand(64, -1, -1, -1)
    out = augment(images, generator(), crop=0, flip=0.5, erase=0)
    mirrored = (out - images.flip(3)).abs().amax((1, 2, 3)) < 1e-3
    same = (out - images).abs().amax((1, 2, 3)) < 1e-3
    assert (mirrored ^ same).all()
    assert 16 < mirrored.sum() < 48
    cropped = (augment(images, generator(), crop=0.5, flip=0, erase=0) - images).abs().amax((1, 2, 3)) > 1e-3
    assert 16 < cropped.sum() < 48
    assert len({tuple(box) for box in erase_boxes(64, 96, 48, 1, generator()).tolist()}) > 60


def test_crop_and_flip_are_drawn_independently():
    images = torch.randn(1, 3, 16, 16).expand(2000, -1, -1, -1)
    out = augment(images, generator(), crop=0.5, flip=0.5, erase=0)
    plain, mirrored = (int(((out - other).abs().amax((1, 2, 3)) < 1e-3).sum()) for other in (images, images.flip(3)))
    assert abs(plain - 500) < 90 and abs(mirrored - 500) < 90  # a quarter each, within 4 standard deviations


def test_augmentation_is_decided_by_the_generator():
    images = torch.randn(6, 3, 32, 16)
    before = images.clone()
    settings_ = {"crop": 0.5, "flip": 0.5, "erase": 0.5}
    one = augment(images, generator(3), **settings_)
    torch.manual_seed(99)
    assert torch.equal(one, augment(images, generator(3), **settings_))
    assert not torch.equal(one, augment(images, generator(4), **settings_))
    assert torch.equal(images, before), "the input is left alone"


def test_the_order_in_memory_does_not_matter():
    images = torch.randn(3, 3, 32, 16)
    settings_ = {"crop": 1, "flip": 0.5, "erase": 1}
    one = augment(images, generator(), **settings_)
    other = augment(images.contiguous(memory_format=torch.channels_last), generator(), **settings_)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- erasing


@pytest.mark.parametrize(("height", "width"), [(384, 128), (128, 64), (96, 48)])
def test_boxes_lie_inside_with_area_and_aspect_in_range(height, width):
    boxes = erase_boxes(4000, height, width, 1.0, generator()).numpy()
    top, bottom, left, right = boxes.T
    h, w = bottom - top, right - left
    assert (top >= 0).all() and (bottom <= height).all() and (left >= 0).all() and (right <= width).all()
    assert (h > 0).all() and (w > 0).all() and (h < height).all() and (w < width).all()
    # rounding to whole pixels moves a side by half a pixel at most
    area_low, area_high = (h - 0.5) * (w - 0.5), (h + 0.5) * (w + 0.5)
    assert (area_high >= 0.02 * height * width).all() and (area_low <= 0.4 * height * width).all()
    assert ((h + 0.5) / (w - 0.5) >= 0.3).all() and ((h - 0.5) / (w + 0.5) <= 1 / 0.3).all()
    assert top.min() == 0 and left.min() == 0 and (bottom == height).any() and (right == width).any()


def test_aspect_and_area_are_uniform_where_every_box_fits():
    """Small boxes on a square always fit, so the first try is taken: conditioned on them the draws are plainly uniform."""
    size = 2000  # pixels, so that rounding is nothing
    boxes = erase_boxes(6000, size, size, 1.0, generator()).numpy().astype(float)
    h, w = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    area, aspect = h * w / size**2, h / w
    small = area < 0.25  # the tallest, √(0.25 / 0.3) = 0.91 of the side, fits
    assert small.sum() > 2000
    ranges = stats.uniform(0.3, 1 / 0.3 - 0.3)
    assert stats.kstest(aspect[small], ranges.cdf).pvalue > 0.01
    assert stats.kstest(area[small], stats.uniform(0.02, 0.23).cdf).pvalue > 0.01
    logarithmic = stats.loguniform(0.3, 1 / 0.3)
    assert stats.kstest(aspect[small], logarithmic.cdf).pvalue < 1e-20, "torchvision's distribution"


def test_a_box_that_does_not_fit_is_drawn_again():
    """384 × 128: a flat box of 0.4 of the image cannot be 0.3 high; rejection bends the distribution to tall boxes."""
    boxes = erase_boxes(4000, 384, 128, 1.0, generator()).numpy().astype(float)
    area, aspect = 0.02 + 0.38 * torch.rand(4000, 100), 0.3 + (1 / 0.3 - 0.3) * torch.rand(4000, 100)
    h, w = ((area * aspect).sqrt() * (384 * 128) ** 0.5).round(), ((area / aspect).sqrt() * (384 * 128) ** 0.5).round()
    fits = (h < 384) & (w < 128)
    expected = (h * w)[torch.arange(4000), fits.int().argmax(1)].numpy()
    ours = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    assert stats.ks_2samp(ours, expected).pvalue > 0.01


def test_erasing_puts_the_exact_fill_into_the_box_and_nothing_elsewhere():
    images = torch.randn(40, 3, 96, 48)
    out = augment(images, generator(7), crop=0, flip=0, erase=0.5)
    boxes = erase_boxes(40, 96, 48, 0.5, generator(7)).tolist()
    fill = torch.tensor(ERASE_FILL)
    assert fill.tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    erased = 0
    for image, before, (top, bottom, left, right) in zip(out, images, boxes, strict=True):
        inside = torch.zeros(96, 48, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert torch.equal(image[:, inside], fill[:, None].expand(3, int(inside.sum())))
        assert torch.equal(image[:, ~inside], before[:, ~inside])
        erased += bool(inside.any())
    assert 8 < erased < 32


def test_erasing_with_probability_zero_or_one():
    assert (erase_boxes(50, 96, 48, 0.0, generator()) == 0).all()
    boxes = erase_boxes(200, 96, 48, 1.0, generator())
    assert ((boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])).all()
    assert boxes.dtype == torch.int64
    assert torch.equal(boxes, erase_boxes(200, 96, 48, 1.0, generator()))


def test_erasing_comes_after_cropping():
    """The box is cut from the final image: its fill is never interpolated."""
    out = augment(torch.randn(8, 3, 64, 32), generator(1), crop=1, flip=1, erase=1)
    fill = torch.tensor(ERASE_FILL)[None, :, None, None]
    filled = (out == fill).all(1)
    assert (filled.flatten(1).float().mean(1) >= 0.015).all()
