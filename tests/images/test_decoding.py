"""Decoding against PIL; the cache of decoded images, also with damaged files."""

import io
import json
import multiprocessing
import os
import shutil
import struct
import subprocess
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms

from reidlib.errors import ReidError
from reidlib.images import contents, decoding
from reidlib.images.decoding import ImageError, decode, load_images, load_sizes, open_rgb

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


RAMP = np.linspace(0, 1, 48 * 24).reshape(48, 24)  # from black to white


def ramp(white, dtype):
    return np.round(RAMP * white).astype(dtype)


def raw_tiff(values, bits, *, kind=1, photometric=1):
    """An uncompressed little-endian grey TIFF file: PIL writes few of the kinds that it reads."""
    height, width = values.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    data = values.tobytes() if bits != 12 else twelve_bits(values)
    entries |= {279: len(data), 339: kind}
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def twelve_bits(values):
    first, second = values.reshape(-1, 2).astype(np.uint16).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    return packed.astype(np.uint8).tobytes()


# File name, its values (or its bytes), and how many values share a grey level of 256.
DEEP = {
    "16 bits.png": (ramp(65535, np.uint16), 256),
    "16 bits.tif": (ramp(65535, np.uint16), 256),
    "16 bits.pgm": (ramp(65535, np.uint16), 256),
    "10 bits.pgm": (ramp(1023, np.uint16), 4),
    "12 bits.tif": (ramp(4095, np.uint16), 16),
    "signed 16 bits.tif": (ramp(32767, np.int16), 128),
    "signed 32 bits.tif": (ramp(2**31 - 1, np.int32), 2**23),
    "32 bits.tif": (ramp(2**32 - 1, np.uint32), 2**24),
}


def write_deep(path, values):
    if path.suffix == ".pgm":
        white = int(values.max())
        path.write_bytes(f"P5 24 48 {white}\n".encode() + values.astype(">u2").tobytes())
    elif path.suffix == ".tif" and path.name != "16 bits.tif":
        bits = int(path.stem.removeprefix("signed ").split()[0])
        path.write_bytes(raw_tiff(values, bits, kind=2 if "signed" in path.name else 1))
    else:
        Image.fromarray(values).save(path)


def colour_histogram_embeddings(paths):
    from reidlib.evaluation import colour_histogram_embeddings  # imports torch, which slows spawned processes

    return colour_histogram_embeddings(paths)


def seen_by_everybody(path, decoded):
    """The colour histogram and the check see the pixels that the networks see."""
    np.testing.assert_array_equal(np.asarray(open_rgb(path)), decoded)
    as_png = path.with_suffix(".seen.png")
    Image.fromarray(decoded).save(as_png)
    np.testing.assert_array_equal(*colour_histogram_embeddings([path, as_png]))
    return True


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_many_bits_is_scaled_by_its_types_range_not_clipped(tmp_path, name):
    """PIL alone would turn everything above 255 white."""
    values, share = DEEP[name]
    write_deep(tmp_path / name, values)
    decoded = decode(tmp_path / name, 48, 24)
    expected = (values // share).astype(np.uint8)
    assert np.ptp(expected) == 255
    if name == "10 bits.pgm":  # PIL scales to 16 bits first, and rounds
        assert np.abs(decoded - expected[..., None].astype(int)).max() <= 1
    else:
        np.testing.assert_array_equal(decoded, np.repeat(expected[..., None], 3, axis=2))
    assert seen_by_everybody(tmp_path / name, decoded)


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "floats"])
def test_grey_whose_zero_is_white_is_not_shown_as_its_negative(tmp_path, kind):
    values, bits, sample = {
        "8 bits": (ramp(255, np.uint8), 8, 1),
        "16 bits": (ramp(65535, np.uint16), 16, 1),
        "floats": (RAMP.astype(np.float32), 32, 3),
    }[kind]
    for name, photometric in (("plain.tif", 1), ("negative.tif", 0)):
        (tmp_path / name).write_bytes(raw_tiff(values, bits, kind=sample, photometric=photometric))
    plain = decode(tmp_path / "plain.tif", 48, 24)
    assert plain[0, 0, 0] == 0 and plain[-1, -1, 0] == 255
    np.testing.assert_array_equal(decode(tmp_path / "negative.tif", 48, 24), 255 - plain)


def test_floats_reach_from_zero_to_one(tmp_path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tif")
    decoded = decode(tmp_path / "float.tif", 48, 24)
    np.testing.assert_array_equal(decoded[..., 0], np.rint(RAMP.astype(np.float32) * 255))
    assert seen_by_everybody(tmp_path / "float.tif", decoded)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP * 255, "0.0 to 255.0, where 0 to 1 were"),
        (RAMP - 0.5, "-0.5 to 0.5, where 0 to 1 were"),
        (np.where(RAMP == 1, np.nan, RAMP), "from nan to nan"),
        (RAMP / 1000, "would be black"),
        (ramp(-5, np.int32), "from -5 to 0"),
        (ramp(65535, np.int32), "would be black"),
        (ramp(255, np.uint16), "from 0 to 255 where 65535 is white, so it would be black"),
    ],
)
def test_values_that_cannot_be_a_picture_are_refused_not_clipped(tmp_path, values, expected):
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    Image.fromarray(values).save(tmp_path / "odd.tif")
    for look in (lambda path: decode(path, 48, 24), lambda path: colour_histogram_embeddings([path])):
        with pytest.raises(ImageError, match=f"odd.tif.*{expected}"):
            look(tmp_path / "odd.tif")


def test_a_black_image_of_many_bits_is_black(tmp_path):
    for name, dtype in (("a.png", np.uint16), ("a.tif", np.float32), ("b.tif", np.int32)):
        Image.fromarray(np.zeros((8, 4), dtype)).save(tmp_path / name)
        assert not decode(tmp_path / name, 8, 4).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P with alpha", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_of_up_to_eight_bits_gives_the_picture(tmp_path, mode):
    scene = Image.fromarray(smooth(48, 24))
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(*map(ImageCms.createProfile, ("sRGB", "LAB")), "RGB", "LAB")
        image = ImageCms.applyTransform(scene, to_lab)
    else:
        image = scene.convert(mode.removesuffix(" with alpha"))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LAB") else "a.png")
    image.save(path, **({"transparency": bytes(range(200))} if mode == "P with alpha" else {}))
    decoded = decode(path, 48, 24)
    seen = image if mode[0] in "1P" else scene.convert("L") if mode in ("L", "LA") else scene
    difference = np.abs(decoded - np.asarray(seen.convert("RGB")).astype(int)).mean()
    assert difference < 4, "rounding; a negative is off by 100"
    assert seen_by_everybody(path, decoded)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_of_several_frames_the_first_is_read(tmp_path, kind):
    first, second = (Image.fromarray(np.full((8, 4, 3), value, np.uint8)) for value in (40, 200))
    first.save(tmp_path / "a.png", kind, save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8, 4), 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_images_of_odd_sizes(tmp_path, size):
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8, 4), np.broadcast_to([10, 20, 30], (8, 4, 3)))


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


def exif_block(*entries):
    """An EXIF block of entries (tag, type, count, four bytes of value or offset), and nothing behind it."""
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"II" + struct.pack("<HIH", 42, 8, len(entries)) + packed + bytes(4)


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
NEGATIVE_OVER_ZERO = struct.pack("<ii", -1, 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_only_the_orientation_of_an_exif_block_matters(tmp_path, suffix):
    """A camera's odd numbers elsewhere in the block neither stop nor turn an image."""
    scene = Image.fromarray(smooth(64, 32))
    path = tmp_path / f"a{suffix}"
    quality = {} if suffix == ".png" else {"quality": 95}
    scene.save(path, **quality)
    plain = decode(path, 64, 32)
    block = exif_block(TURNED, (0x011A, 10, 1, struct.pack("<I", 38))) + NEGATIVE_OVER_ZERO
    scene.save(path, exif=b"Exif\0\0" + block, **quality)
    np.testing.assert_array_equal(decode(path, 32, 64), np.rot90(plain, -1))


@pytest.mark.filterwarnings("ignore")  # PIL's, about what it skips
def test_no_exif_block_stops_or_changes_sound_pixels(tmp_path):
    """Random blocks: an image is shown as it is stored, or turned by one of EXIF's eight orientations."""
    scene = Image.fromarray(smooth(16, 16))
    turns = [
        np.rot90(pixels, k)
        for pixels in (np.asarray(scene), np.asarray(scene).swapaxes(0, 1))
        for k in range(4)
    ]
    rng = np.random.default_rng(1)
    for number in range(300):
        entries = [
            (
                int(rng.choice([0x0112, 0x8769, 0x8825, 0x927C, 0xA005, rng.integers(65536)])),
                int(rng.integers(16)),
                int(rng.choice([0, 1, 2, 1000, 2**32 - 1])),
                rng.choice([rng.bytes(4), bytes(4), struct.pack("<I", 8), struct.pack("<HH", 6, 0)]),
            )
            for _ in range(rng.integers(1, 5))
        ]
        block = exif_block(*entries) + rng.bytes(rng.integers(40))
        scene.save(tmp_path / "a.png", exif=block[: rng.integers(4, len(block) + 1)])
        decoded = decode(tmp_path / "a.png", 16, 16)
        assert any((decoded == turn).all() for turn in turns), number


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


@pytest.mark.filterwarnings("ignore")  # PIL's, about what it skips
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF"])
def test_whatever_a_damaged_file_does_to_its_decoder_the_file_is_named(tmp_path, kind):
    """Random damage: networks, histogram and check agree on which files can be read."""
    buffer, path = io.BytesIO(), tmp_path / "0001_c1.png"
    Image.fromarray(noise(24, 12)).save(buffer, kind)
    whole, rng = buffer.getvalue(), np.random.default_rng(2)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 120), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(20, len(whole) + 1)] if rng.random() < 0.3 else damaged)
        problems = []
        for look in (lambda: decode(path, 8, 4), lambda: colour_histogram_embeddings([path])):
            try:
                look()
            except ImageError as error:
                assert str(error).startswith(f"{path} cannot be read as an image (") and "\n" not in str(
                    error
                )
                problems.append(str(error))
        assert len(problems) in (0, 2)
        refused += len(problems) == 2
    assert refused > 0


def test_what_is_no_regular_file_is_named_and_not_waited_for(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("folder.jpg", "circle.jpg", "pipe.jpg", "missing.jpg", "x" * 300 + ".jpg", "zero\0.jpg"):
        for look in (lambda path: decode(path, 8, 4), lambda path: load_images([path], 8, 4, cache=tmp_path)):
            with pytest.raises(ImageError) as error:
                look(tmp_path / name)
            assert name.rstrip("\0.jpg") in str(error.value)


def test_no_program_is_started_by_a_file(tmp_path, monkeypatch):
    """PIL reads PostScript with Ghostscript, whatever a file's suffix says."""
    (tmp_path / "0001_c1.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    )
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(EpsImagePlugin, "has_ghostscript", lambda: True)
    with pytest.raises(ImageError, match="it is none of BMP"):
        decode(tmp_path / "0001_c1.jpg", 8, 4)


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
    def opened(_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding, "open_rgb", opened)


def made(cache):
    """The decoded sets and their checksums; the digests of the images lie in a folder beside them."""
    return sorted(cache.glob("*.*"))


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
    assert len(made(cache)) == 2


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
    opened, real = [], decoding.open_rgb
    monkeypatch.setattr(decoding, "open_rgb", lambda path: opened.append(path) or real(path))
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
    assert first.stat().st_mtime_ns == before and len(made(cache)) == 4


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
    assert sorted(path.suffix for path in made(tmp_path / "cache")) == [".json", ".npy"]


def test_too_little_disk_space_is_reported_before_anything_is_written(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 32 * 16 * 3))
    with pytest.raises(ImageError, match=r"0\.0 GB are needed.*Make room") as error:
        load_images(paths, 32, 16, cache=tmp_path / "cache")
    assert str(tmp_path / "cache") in str(error.value)
    assert made(tmp_path / "cache") == []


@pytest.mark.parametrize("known", [False, True])
def test_a_cache_that_cannot_be_written_is_named(paths, tmp_path, monkeypatch, known):
    """Whether it is the digests of the images that cannot be written, or the decoded images."""
    monkeypatch.setattr(contents, "SETTLED", -3600 if known else 3600)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReidError, match=r"file/cache\S* cannot be written \(Not a directory\)"):
        load_images(paths, 32, 16, cache=tmp_path / "file" / "cache")


def test_an_unreadable_image_leaves_nothing_behind(paths, tmp_path):
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    with pytest.raises(ImageError, match=r"3\.png"):
        load_images(paths, 32, 16, cache=tmp_path / "cache")
    assert made(tmp_path / "cache") == []
