"""Turns RGB bytes into the networks' input.

The input is normalised by ImageNet's mean and standard deviation; channels are last in memory.
"""

import functools

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CACHED_VALUES = 1 << 20  # float32 numbers processed at a time on a CPU, so that they stay in its cache


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) bytes → (B, 3, H, W) float32, normalised, channels last in memory."""
    return normalise_into(images, torch.empty(images.shape, device=images.device))


def normalise_into(images: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`normalise` into `out`, (B, H, W, 3) float32.

    The operations and their order are those of ToTensor and Normalize, so the result is bit-identical.
    """
    # Mean and deviation are rows of pixels: long enough for vector instructions. A CPU processes a few images
    # at a time, to stay in its cache.
    mean, std = (row_of_pixels(colour, out.shape[2], out.device) for colour in (IMAGENET_MEAN, IMAGENET_STD))
    few = len(out) if out.is_cuda else max(1, CACHED_VALUES // max(out[:1].numel(), 1))
    for given, made in zip(images.split(few), out.split(few), strict=True):
        made.copy_(given).view(-1, len(mean)).div_(255).sub_(mean).div_(std)
    return out.permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # cached across calls: must not become an inference tensor
def row_of_pixels(colour: tuple[float, float, float], width: int, device: torch.device) -> torch.Tensor:
    """(3 · width,): a row of pixels of one colour. Cached, because making it would wait for a GPU."""
    return torch.tensor(colour).repeat(width).to(device)
