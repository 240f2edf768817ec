"""Batches against PIL and torchvision, pixel by pixel; random draws against their distributions."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms

from reidlib.images import augmentation
from reidlib.images.augmentation import (
    ERASE_FILL,
    TrainingImages,
    draw_augmentation,
    enlarged_size,
    erase_boxes,
    windows,
)
from reidlib.images.decoding import load_sizes
from reidlib.images.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise

CPU = torch.device("cpu")
EVERYTHING = {"crop": 0.5, "flip": 0.5, "erase": 0.5}
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(count, height, width):
    return RNG.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def training_images(count, height, width):
    return TrainingImages(noise(count, height, width), noise(count, *enlarged_size(height, width)), CPU)


# ----------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(("height", "width"), [(128, 64), (384, 128), (96, 48), (90, 31)])
def test_every_image_is_as_pil_and_torchvision_make_it(tmp_path, height, width):
    """Each image is resized, or enlarged to 1.125 times the size and cropped; mirrored; normalised; erased.

    The batch is equal to PIL and torchvision, one image at a time, to the bit.
    """
    paths = []
    for number in range(24):
        path = tmp_path / f"{number:02d}.png"
        Image.fromarray(RNG.integers(0, 256, (100 + number, 50 + number % 7, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    decoded = load_sizes(paths, [(height, width), enlarged_size(height, width)], cache=tmp_path / "cache")
    rows = RNG.permutation(24)
    draws = draw_augmentation(24, height, width, generator(3), **EVERYTHING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as torch's warning about read-only memory
        batch = TrainingImages(*decoded, CPU).batch(rows, draws)
    tall, wide = round(1.125 * height), round(1.125 * width)
    for index, row in enumerate(rows):
        image = Image.open(paths[row])
        if draws.cropped[index]:
            top, left = int(draws.top[index]), int(draws.left[index])
            image = image.resize((wide, tall), Image.Resampling.BILINEAR).crop(
                (left, top, left + width, top + height)
            )
        else:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = ImageOps.mirror(image) if draws.mirrored[index] else image
        expected = transforms.functional.normalize(
            transforms.functional.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD
        )
        top, bottom, left, right = draws.boxes[index].tolist()
        expected[:, top:bottom, left:right] = torch.tensor(ERASE_FILL)[:, None, None]
        assert torch.equal(batch[index], expected), index
    kinds = [draws.cropped, draws.mirrored, draws.boxes.any(1)]
    assert all(0 < int(kind.sum()) < 24 for kind in kinds)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_without_draws_images_are_only_normalised():
    images = training_images(9, 32, 16)
    rows = np.array([4, 0, 8, 4])
    expected = normalise(images.plain[torch.from_numpy(rows)])
    assert torch.equal(images.batch(rows), expected)
    nothing = draw_augmentation(4, 32, 16, generator(), crop=0, flip=0, erase=0)
    assert torch.equal(images.batch(rows, nothing), expected)
    only_plain = TrainingImages(images.plain.numpy(), None, CPU)
    assert torch.equal(only_plain.batch(rows, nothing), expected)


@pytest.mark.parametrize("name", ["crop", "flip", "erase"])
def test_each_augmentation_alone(name):
    images = training_images(6, 32, 16)
    draws = draw_augmentation(6, 32, 16, generator(2), **{**dict.fromkeys(EVERYTHING, 0.0), name: 1.0})
    batch, plain = images.batch(range(6), draws).clone(), images.batch(range(6)).clone()
    if name == "flip":
        assert torch.equal(batch, plain.flip(3))
    elif name == "crop":
        cut = [
            image[top : top + 32, left : left + 16]
            for image, top, left in zip(images.enlarged, draws.top, draws.left, strict=True)
        ]
        assert torch.equal(batch, normalise(torch.stack(cut)))
    else:
        inside = (batch == torch.tensor(ERASE_FILL)[None, :, None, None]).all(1)
        top, bottom, left, right = draws.boxes.T
        assert torch.equal(inside.flatten(1).sum(1), (bottom - top) * (right - left))
        assert torch.equal(batch.movedim(1, -1)[~inside], plain.movedim(1, -1)[~inside])


def test_a_part_of_a_batch_equals_that_part_of_the_whole_batch():
    images = training_images(20, 32, 16)
    rows, draws = RNG.permutation(20)[:12], draw_augmentation(12, 32, 16, generator(4), **EVERYTHING)
    whole = images.batch(rows, draws).clone()
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        assert torch.equal(images.batch(rows[part], draws[part]), whole[part])


def test_batch_memory_is_reused_and_the_images_are_not_changed():
    images = training_images(12, 32, 16)
    before = images.plain.clone(), images.enlarged.clone()
    draws = draw_augmentation(8, 32, 16, generator(5), **EVERYTHING)
    first = images.batch(range(8), draws)
    kept = first.clone()
    other = images.batch(range(3), draws[slice(0, 3)])  # a batch of another size has its own memory
    assert torch.equal(first, kept) and torch.equal(other, kept[:3])
    second = images.batch(range(4, 12), draws)
    assert second.data_ptr() == first.data_ptr() and not torch.equal(second, kept)
    assert torch.equal(images.batch(range(8), draws), kept)
    assert torch.equal(images.plain, before[0]) and torch.equal(images.enlarged, before[1])


def test_enlarged_images_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match=r"\(34, 18\), not \(36, 18\)"):
        TrainingImages(noise(2, 32, 16), noise(2, 34, 18), CPU)


class Watch(TorchDispatchMode):
    """Records every blocking copy to the device."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = [value.device.type for value in (*args, result) if isinstance(value, torch.Tensor)]
        if devices == ["cpu", "meta"] and not (kwargs or {}).get("non_blocking"):
            self.waits.append(str(function))
        return result


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("form", [{}, {"erase_fill": "noise"}, {"jitter": 0.2}])
def test_a_batch_is_made_without_waiting_for_the_device(resident, form, monkeypatch):
    """On PyTorch's meta device, whose tensors hold no values.

    Reading a value raises an error, and so does an operation on tensors of two devices.
    """
    meta = torch.device("meta")
    monkeypatch.setattr(augmentation, "fits", lambda size, device: resident)
    images = TrainingImages(noise(9, 32, 16), noise(9, *enlarged_size(32, 16)), meta)
    assert images.plain.device.type == ("meta" if resident else "cpu")
    drawn = draw_augmentation(8, 32, 16, generator(), crop=0.5, flip=0.5, erase=0.9, **form)
    assert drawn.cropped.any() and drawn.mirrored.any() and drawn.boxes.any()
    images.batch(np.arange(8), drawn)  # the first call makes what later calls reuse
    with Watch() as watch:
        batch = images.batch(np.arange(8), drawn)
    assert batch.device == meta and not watch.waits
    with Watch() as watch:
        torch.ones(3).to(meta)
    assert watch.waits  # the check notices a wait


def test_images_may_take_half_of_the_free_gpu_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    assert augmentation.fits(500, torch.device("cuda")) and not augmentation.fits(501, torch.device("cuda"))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_windows_are_slices(data):
    count, tall, wide = (data.draw(st.integers(1, 7)) for _ in range(3))
    height, width = data.draw(st.integers(1, tall)), data.draw(st.integers(1, wide))
    batch = data.draw(st.integers(1, 5))
    rows, top, left = (
        torch.tensor(data.draw(st.lists(st.integers(0, last), min_size=batch, max_size=batch)))
        for last in (count - 1, tall - height, wide - width)
    )
    images = torch.from_numpy(noise(count, tall, wide))
    out = windows(images, rows, top, left, out=torch.empty(batch, height, width, 3, dtype=torch.uint8))
    expected = [images[r, t : t + height, c : c + width] for r, t, c in zip(rows, top, left, strict=True)]
    assert torch.equal(out, torch.stack(expected))


# ------------------------------------------------------------------------------------------------------ draws


def test_crops_reach_every_corner():
    """For 8 × 8 the enlarged image is 9 × 9, so there are four equally likely windows."""
    assert enlarged_size(8, 8) == (9, 9) and enlarged_size(384, 128) == (432, 144)
    draws = draw_augmentation(400, 8, 8, generator(), crop=1, flip=0, erase=0)
    assert draws.cropped.all() and not draws.mirrored.any() and not draws.boxes.any()
    kinds, counts = np.unique(np.stack([draws.top, draws.left]), axis=1, return_counts=True)
    assert kinds.T.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("corners", "weights"), [("rounded", [1, 2, 2, 2, 1]), ("uniform", [1] * 5)])
def test_the_released_crop_rounds_its_corner(corners, weights):
    """From 32 to 36 pixels there are five positions. Rounding halves the weight of the first and the last."""
    draws = draw_augmentation(20000, 32, 32, generator(), crop=1, flip=0, erase=0, corners=corners)
    expected = 20000 * np.array(weights) / sum(weights)
    for corner in (draws.top, draws.left):
        counts = torch.bincount(corner, minlength=5).numpy()
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_options_that_are_off_draw_no_random_number():
    """A batch takes the same random numbers as before these options existed."""
    options = ({}, {"erase_fill": "noise"}, {"jitter": 0.1})
    generators = [generator(1) for _ in options]
    draws = [
        draw_augmentation(6, 32, 16, one, **EVERYTHING, **option)
        for one, option in zip(generators, options, strict=True)
    ]
    assert [(one.noise is None, one.colours is None) for one in draws] == [
        (True, True), (False, True), (True, False),
    ]  # fmt: skip
    by_hand = generator(1)
    torch.rand(6, 4, generator=by_hand)
    erase_boxes(6, 32, 16, 0.5, by_hand)
    same = [torch.equal(one.get_state(), by_hand.get_state()) for one in generators]
    assert same == [True, False, False]


def test_crop_flip_and_erasing_are_drawn_independently_for_each_image():
    draws = draw_augmentation(4000, 16, 16, generator(), **EVERYTHING)
    kinds = 4 * draws.cropped + 2 * draws.mirrored + draws.boxes.any(1)
    counts = torch.bincount(kinds.long(), minlength=8).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    boxes = draw_augmentation(64, 96, 48, generator(), crop=0, flip=0, erase=1).boxes
    assert len({tuple(box) for box in boxes.tolist()}) > 60


@pytest.mark.parametrize("chance", [0.2, 0.9])
def test_probabilities_are_those_asked_for(chance):
    draws = draw_augmentation(5000, 64, 32, generator(), crop=chance, flip=1 - chance, erase=chance)
    for drawn, expected in (
        (draws.cropped, chance),
        (draws.mirrored, 1 - chance),
        (draws.boxes.any(1), chance),
    ):
        assert stats.binomtest(int(drawn.sum()), 5000, expected).pvalue > 1e-4


def test_draws_depend_only_on_the_generator():
    def drawn(seed):
        torch.manual_seed(int(RNG.integers(1 << 30)))  # the global random state must not matter
        draws = draw_augmentation(16, 96, 48, generator(seed), **EVERYTHING)
        return torch.cat([draws.cropped, draws.top, draws.left, draws.mirrored, draws.boxes.flatten()])

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


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
    """Small boxes always fit on a square image, so the first draw is taken, and the draws are uniform."""
    size = 2000  # pixels; so large that rounding does not matter
    boxes = erase_boxes(6000, size, size, 1.0, generator()).numpy().astype(float)
    h, w = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    area, aspect = h * w / size**2, h / w
    small = area < 0.25  # the tallest of these, √(0.25 / 0.3) = 0.91 of the side, fits
    assert small.sum() > 2000
    ranges = stats.uniform(0.3, 1 / 0.3 - 0.3)
    assert stats.kstest(aspect[small], ranges.cdf).pvalue > 0.01
    assert stats.kstest(area[small], stats.uniform(0.02, 0.23).cdf).pvalue > 0.01
    logarithmic = stats.loguniform(0.3, 1 / 0.3)
    assert stats.kstest(aspect[small], logarithmic.cdf).pvalue < 1e-20, "torchvision's distribution"


def test_a_box_that_does_not_fit_is_drawn_again():
    """On 384 × 128, large wide boxes do not fit and are drawn again, so more boxes are tall."""
    boxes = erase_boxes(4000, 384, 128, 1.0, generator()).numpy().astype(float)
    area, aspect = 0.02 + 0.38 * torch.rand(4000, 100), 0.3 + (1 / 0.3 - 0.3) * torch.rand(4000, 100)
    h, w = (
        ((area * aspect).sqrt() * (384 * 128) ** 0.5).round(),
        ((area / aspect).sqrt() * (384 * 128) ** 0.5).round(),
    )
    fits = (h < 384) & (w < 128)
    expected = (h * w)[torch.arange(4000), fits.int().argmax(1)].numpy()
    ours = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    assert stats.ks_2samp(ours, expected).pvalue > 0.01


def test_the_spatial_attention_eraser_fills_small_boxes_with_noise():
    """Area 0.02–0.2, one N(0, 1) number for each pixel and channel, after normalisation."""
    images = training_images(64, 64, 64)
    form = {"erase_largest": 0.2, "erase_fill": "noise"}
    draws = draw_augmentation(64, 64, 64, generator(3), crop=0, flip=0, erase=1, **form)
    batch, plain = images.batch(range(64), draws).clone(), images.batch(range(64)).clone()
    top, bottom, left, right = draws.boxes.T
    area = (bottom - top) * (right - left) / 64**2
    assert area.max() < 0.2 + 0.02 and area.max() > 0.17 and area.min() < 0.04
    inside = torch.zeros(64, 64, 64, dtype=torch.bool)
    for row, (t, b, lt, r) in enumerate(draws.boxes.tolist()):
        inside[row, t:b, lt:r] = True
    assert torch.equal(batch.movedim(1, -1)[~inside], plain.movedim(1, -1)[~inside])
    filled = batch.movedim(1, -1)[inside]  # (pixels, 3)
    assert stats.kstest(filled.flatten().numpy()[:20000], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(filled.numpy().T) - np.eye(3)).max() < 0.03, "channels are drawn independently"
    again = images.batch(range(64), draws)
    assert torch.equal(again, batch), "the noise belongs to the draws"
    part = images.batch(range(16, 48), draws[slice(16, 48)])
    assert torch.equal(part, batch[16:48]), "and to its image, whatever the rest of the batch"


def test_colour_jitter_multiplies_brightness_contrast_and_saturation():
    images = training_images(4, 32, 16)
    draws = draw_augmentation(400, 32, 16, generator(5), crop=0, flip=0, erase=0, jitter=0.2)
    assert draws.colours.shape == (400, 3)
    assert draws.colours.min() >= 0.8 and draws.colours.max() <= 1.2
    assert stats.kstest(draws.colours.flatten().numpy(), stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3
    one = draw_augmentation(4, 32, 16, generator(5), crop=0, flip=0, erase=0, jitter=0.2)
    batch = images.batch(range(4), one).clone()
    for pixels, (brightness, contrast, saturation), changed in zip(
        images.plain, one.colours.tolist(), batch, strict=True
    ):
        image = Image.fromarray(pixels.numpy())
        for enhancer, factor in (
            (ImageEnhance.Brightness, brightness),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Color, saturation),
        ):
            image = enhancer(image).enhance(factor)
        expected = normalise(torch.from_numpy(np.array(image))[None])[0]
        step = 1 / 255 / min(IMAGENET_STD)  # one grey level
        assert (changed - expected).abs().max() < 3.1 * step, "PIL rounds after each of the three"


def test_erasing_with_probability_zero_or_one():
    assert (erase_boxes(50, 96, 48, 0.0, generator()) == 0).all()
    boxes = erase_boxes(200, 96, 48, 1.0, generator())
    assert ((boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])).all()
    assert boxes.dtype == torch.int64
    assert torch.equal(boxes, erase_boxes(200, 96, 48, 1.0, generator()))
