"""Makes augmented batches from the decoded training set, on the device that trains.

A batch is gathered, cropped, mirrored, normalised and erased as a whole, without Python work per image.
ABD-Net's "resize to 1.125 times the size and crop back" takes a window from a second decoded set of that
size. So every pixel is the one that PIL's bilinear filter gives, as in the papers' loaders; only the random
numbers differ.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tvf

from reidlib.devices import on_device
from reidlib.images.normalisation import normalise_into, row_of_pixels

ERASE_FILL = (0.4914, 0.4822, 0.4465)  # put in after normalisation, as the released code does
CROP_SCALE = 1.125
RESIDENT_SHARE = 0.5  # of a GPU's free memory, for the decoded set; networks and batches need the rest


def enlarged_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the enlarged image, which is cropped back to height × width."""
    return round(height * CROP_SCALE), round(width * CROP_SCALE)


# ---------------------------------------------------------------------------------------------- random draws


@dataclass(frozen=True)
class Draws:
    """The random part of one batch's augmentation: (B,) tensors on the CPU, drawn for each image."""

    cropped: torch.Tensor  # bool: take a window of the enlarged image
    top: torch.Tensor  # int64, the window's corner in the enlarged image
    left: torch.Tensor
    mirrored: torch.Tensor  # bool
    boxes: torch.Tensor  # (B, 4) int64, the erased box: top, bottom, left, right; empty: nothing is erased
    # int64, the seed of each box's noise; None: boxes get ERASE_FILL
    noise: torch.Tensor | None = None
    # (B, 3) factors of brightness, contrast and saturation; None: colours stay
    colours: torch.Tensor | None = None

    def __getitem__(self, part: slice) -> "Draws":
        """The draws of some of the batch's images."""
        return Draws(**{name: None if value is None else value[part] for name, value in vars(self).items()})


def draw_augmentation(
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    *,
    crop: float,
    flip: float,
    erase: float,
    corners: Literal["rounded", "uniform"] = "rounded",
    erase_largest: float = 0.4,
    erase_fill: Literal["mean", "noise"] = "mean",
    jitter: float = 0.0,
) -> Draws:
    """Draws what happens to each image of a batch. Source: ABD-Net, data augmentation.

    Args:
        generator: a CPU generator, so that the draws are the same on every device.
        crop: probability of "resize to 1.125 × the size and crop back".
        flip: probability of the mirror image.
        erase: probability of random erasing (`erase_boxes`).
        corners: of the cropped window. "rounded" (released code): a uniform number between the first and the
            last position is rounded, so these two have half the weight of the others. "uniform": over all
            positions.
        erase_largest: largest share of the image that is erased.
        erase_fill: "mean" fills with ERASE_FILL (ABD-Net), "noise" with one N(0, 1) number for each pixel and
            channel (PFSA), both after normalisation.
        jitter: strength c of brightness, contrast and saturation: each is multiplied by a uniform number from
            1 − c to 1 + c.
    """
    uniform = torch.rand(batch, 4, generator=generator)
    rows, columns = (
        large - size for large, size in zip(enlarged_size(height, width), (height, width), strict=True)
    )

    def position(u: torch.Tensor, last: int) -> torch.Tensor:
        return ((u * last).round() if corners == "rounded" else u * (last + 1)).long()

    boxes = erase_boxes(batch, height, width, erase, generator, largest=erase_largest)
    noise = colours = None  # drawn only where they are used
    if erase_fill == "noise":
        noise = torch.randint(2**62, (batch,), generator=generator)
    if jitter:
        colours = 1 + jitter * (2 * torch.rand(batch, 3, generator=generator) - 1)
    return Draws(
        cropped=uniform[:, 0] < crop,
        top=position(uniform[:, 1], rows),
        left=position(uniform[:, 2], columns),
        mirrored=uniform[:, 3] < flip,
        boxes=boxes,
        noise=noise,
        colours=colours,
    )


def erase_boxes(
    batch: int,
    height: int,
    width: int,
    probability: float,
    generator: torch.Generator,
    *,
    largest: float = 0.4,
) -> torch.Tensor:
    """(B, 4) int64 boxes (top, bottom, left, right), empty where nothing is erased.

    The area is uniform in 0.02–`largest` of the image (ABD-Net 0.4, PFSA 0.2) and the aspect (height / width)
    uniform in 0.3–3.33, with up to 100 tries until the box fits. torchvision's RandomErasing is different: it
    draws the aspect log-uniformly and tries 10 times.
    """
    tries = 100
    area = (0.02 + (largest - 0.02) * torch.rand(batch, tries, generator=generator)) * height * width
    aspect = 0.3 + (1 / 0.3 - 0.3) * torch.rand(batch, tries, generator=generator)
    h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (h < height) & (w < width)
    first = fits.int().argmax(1, keepdim=True)  # the first try that fits
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
    corner = torch.rand(batch, 2, generator=generator)
    top, left = (corner[:, 0] * (height - h + 1)).long(), (corner[:, 1] * (width - w + 1)).long()
    chosen = (torch.rand(batch, generator=generator) < probability) & fits.any(1)
    return torch.stack([top, top + h, left, left + w], dim=1) * chosen[:, None]


# -------------------------------------------------------------------------------------------- on the device


class TrainingImages:
    """Batches of the decoded training set, on a device. A GPU holds the whole set if it fits.

    Args:
        plain: (N, H, W, 3) RGB bytes, for example a memory map.
        enlarged: (N, 1.125·H, 1.125·W, 3), the same images; None if nothing is ever cropped.
    """

    def __init__(self, plain: np.ndarray, enlarged: np.ndarray | None, device: torch.device):
        self.size, self.device = plain.shape[1:3], device
        if enlarged is not None and enlarged.shape[1:3] != enlarged_size(*self.size):
            raise ValueError(
                f"The enlarged images are {enlarged.shape[1:3]}, not {enlarged_size(*self.size)}."
            )
        sets = [_as_tensor(images) for images in (plain, enlarged) if images is not None]
        self.resident = device.type != "cpu" and fits(sum(images.numel() for images in sets), device)
        if self.resident:
            sets = [images.to(device) for images in sets]
        self.plain, self.enlarged = sets[0], sets[1] if len(sets) > 1 else None
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    def batch(self, rows: Sequence[int] | np.ndarray, draws: Draws | None = None) -> torch.Tensor:
        """(B, 3, H, W) float32, normalised, channels last; augmented if there are draws.

        The next call overwrites it.
        """
        # A copy only if the set is not on the device.
        pixels = self._gathered(torch.as_tensor(rows), draws).to(self.device, non_blocking=True)
        if draws is not None and draws.colours is not None:
            pixels = _recolour(pixels, draws.colours)
        out = self._buffer("batch", len(pixels), torch.float32, self.device)
        images = normalise_into(pixels, out)
        if draws is not None and draws.boxes.any():
            if draws.noise is None:
                _erase(out, draws.boxes)
            else:
                _erase_with_noise(out, draws.boxes, draws.noise)
        return images

    def _gathered(self, rows: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        """(B, H, W, 3) bytes, on the device of the set.

        Scattered writes are slow. So images are stacked by kind (plain, cropped, mirrored) and then gathered
        once, in the batch's order.
        """
        source, batch = self.plain.device, len(rows)
        if draws is None:
            return self.plain.index_select(0, on_device(rows, source))
        stack = self._buffer("stack", 2 * batch, torch.uint8, source)
        kept, cropped = (torch.nonzero(chosen)[:, 0] for chosen in (~draws.cropped, draws.cropped))
        torch.index_select(self.plain, 0, on_device(rows[kept], source), out=stack[: len(kept)])
        if len(cropped):
            windows(
                self.enlarged,
                rows[cropped],
                draws.top[cropped],
                draws.left[cropped],
                out=stack[len(kept) : batch],
            )
        place = torch.empty(batch, dtype=torch.int64)  # each image's position in the stack
        place[torch.cat([kept, cropped])] = torch.arange(batch)
        mirrored = torch.nonzero(draws.mirrored)[:, 0]
        if len(mirrored):
            stack[batch : batch + len(mirrored)] = stack.index_select(
                0, on_device(place[mirrored], source)
            ).flip(2)
            place[mirrored] = torch.arange(batch, batch + len(mirrored))
        return torch.index_select(stack, 0, on_device(place, source), out=self._batch_of_bytes(batch))

    def _batch_of_bytes(self, batch: int) -> torch.Tensor:
        """An uninitialised batch (batch, H, W, 3), on the device of the set.

        If it is to be copied to a GPU, it is new pinned memory each time, because the copy of the previous
        batch may still be running. PyTorch reuses that memory once the copy has finished.
        """
        if self.device.type == "cuda" and not self.resident:
            return torch.empty((batch, *self.size, 3), dtype=torch.uint8, pin_memory=True)
        return self._buffer("bytes", batch, torch.uint8, self.plain.device)

    def _buffer(self, name: str, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A reused buffer (count, H, W, 3): on a CPU, allocating new memory would take most of the time."""
        if (name, count) not in self._buffers:
            self._buffers[name, count] = torch.empty((count, *self.size, 3), dtype=dtype, device=device)
        return self._buffers[name, count]


def windows(
    images: torch.Tensor, rows: torch.Tensor, top: torch.Tensor, left: torch.Tensor, *, out: torch.Tensor
) -> torch.Tensor:
    """images[row, top : top + H, left : left + W] for (B,) rows and corners, into `out`, (B, H, W, 3).

    The set's memory is viewed as overlapping runs of W pixels, one starting at every pixel. A window is then
    a selection of runs, so one call copies the windows of all images.
    """
    count, tall, wide, channels = images.shape
    _, height, width, _ = out.shape
    runs = images.as_strided((count * tall * wide - width + 1, width * channels), (channels, 1))
    first = (rows * tall + top) * wide + left  # (B,)
    starts = first[:, None] + torch.arange(height) * wide
    torch.index_select(
        runs, 0, on_device(starts.flatten(), images.device), out=out.view(-1, width * channels)
    )
    return out


def _erase(images: torch.Tensor, boxes: torch.Tensor) -> None:
    """Puts ERASE_FILL into each image's box, in place. images: (B, H, W, 3).

    Only rows of pixels that a box meets are touched.
    """
    batch, height, width, _ = images.shape
    y = torch.arange(height)
    # The R rows of pixels that boxes meet, and their images.
    which, row = torch.nonzero((y >= boxes[:, :1]) & (y < boxes[:, 1:2]), as_tuple=True)
    touched = on_device(which * height + row, images.device)
    left, right = on_device(boxes[which, 2:].T.contiguous(), images.device).unsqueeze(2)  # (R, 1)
    x = torch.arange(3 * width, device=images.device) // 3
    rows, fill = images.view(batch * height, 3 * width), row_of_pixels(ERASE_FILL, width, images.device)
    rows[touched] = torch.where((x >= left) & (x < right), fill, rows.index_select(0, touched))


def _erase_with_noise(images: torch.Tensor, boxes: torch.Tensor, seeds: torch.Tensor) -> None:
    """Fills each image's box with N(0, 1) numbers, in place. images: (B, H, W, 3).

    Each box has a generator of its own on the CPU: its noise depends neither on the device nor on the other
    images of the batch.
    """
    for image, (top, bottom, left, right), seed in zip(images, boxes.tolist(), seeds.tolist(), strict=True):
        if bottom > top:
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(bottom - top, right - left, 3, generator=generator)
            image[top:bottom, left:right] = on_device(noise, images.device)


def _recolour(pixels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Changes brightness, then contrast, then saturation. pixels: (B, H, W, 3) bytes; factors: (B, 3)."""
    changed = []
    for image, (brightness, contrast, saturation) in zip(pixels.movedim(3, 1), factors.tolist(), strict=True):
        image = tvf.adjust_brightness(image, brightness)
        image = tvf.adjust_contrast(image, contrast)
        changed.append(tvf.adjust_saturation(image, saturation))
    return torch.stack(changed).movedim(1, 3).contiguous()


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes leave enough of a GPU's memory free."""
    return size <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def _as_tensor(images: np.ndarray) -> torch.Tensor:
    """A tensor over an array's memory, also of a read-only memory map: nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(images)
