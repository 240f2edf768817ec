"""Normalisation by hand, and against torchvision to the bit."""

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.transforms import v2

from reidlib.images.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise


def test_normalise_by_hand():
    pixels = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)  # (1, 1, 1, 3)
    expected = [
        (value / 255 - mean) / std
        for value, mean, std in zip((0, 128, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    ]
    out = normalise(pixels)
    assert out.shape == (1, 3, 1, 1) and out.dtype == torch.float32
    assert out.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 32, 16), (3, 33, 17), (1, 1, 1), (20, 384, 128)])
def test_normalise_equals_the_papers_loaders_to_the_bit(shape):
    """The papers use ToTensor and Normalize. torchvision's v2 multiplies by 1/255, so it is nearly equal.

    20 images of 384 × 128 are more than are normalised at a time.
    """
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    out = normalise(pixels)
    loaders = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    assert torch.equal(out, torch.stack([loaders(image.numpy()) for image in pixels]))
    plain = v2.functional.to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True)
    torch.testing.assert_close(
        out, v2.functional.normalize(plain, IMAGENET_MEAN, IMAGENET_STD), rtol=0, atol=1e-6
    )
    assert out.is_contiguous(memory_format=torch.channels_last)
