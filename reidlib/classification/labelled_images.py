"""Images to classify: scikit-learn's digits, which need no download, and CIFAR-100."""

import hashlib
import http.client
import socket
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from reidlib.errors import ReidError
from reidlib.files import REPOSITORY
from reidlib.settings import choose

IMAGE_SET_TITLES = {"digits": "scikit-learn's digits", "cifar100": "CIFAR-100"}
TIMEOUT = 30  # seconds without an answer until a download is given up


class ClassificationError(ReidError):
    """Images that are not there, or a run that cannot be trained."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images to classify, and how training images may be changed.

    Images are (N, H, W, C) bytes with C 1 or 3; labels are (N,) int64 into `class_names`.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    shift: int  # training images are shifted by up to this many pixels and filled with black
    mirror: bool  # half of the training images are mirrored
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Digest of images and labels, 16 hex digits."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over the training images, (1, C, 1, 1) float32 each."""
        axes = (0, 1, 2)
        mean = self.train_images.mean(axes, dtype=np.float64)
        squares = np.square(self.train_images, dtype=np.uint16).mean(axes, dtype=np.float64)
        std = np.sqrt(np.maximum(squares - mean**2, 1.0))  # at least 1: images may have a single colour
        return tuple(values.astype(np.float32).reshape(1, -1, 1, 1) for values in (mean, std))


def load_labelled_images(name: str, root: str | Path = "", *, at_most: int = 0) -> LabelledImages:
    """The images called "digits" or "cifar100".

    - digits: scikit-learn's 1797 handwritten digits, 8 × 8 grey, enlarged bilinearly to 16 × 16 so that 4 × 4
      positions are left to pool. Two thirds train and one third tests, always the same split, stratified by
      digit. Writers are unknown, so one may be in both.
    - cifar100: read by torchvision from `root` (empty: data/cifar100), downloaded there if it is missing.

    Args:
        at_most: use only the first so many training and so many test images; 0: all.

    Raises:
        ConfigError: another name.
        ClassificationError: CIFAR-100 is not there and cannot be downloaded.
    """
    images = {"digits": _digits, "cifar100": lambda: _cifar100(root)}[
        choose("images", name, IMAGE_SET_TITLES)
    ]()
    total = len(images.train_images), len(images.test_images)
    if not at_most or max(total) <= at_most:
        return images
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    note = f"Only the first {at_most} of {total[0]} training and of {total[1]} test images are used."
    return replace(
        images, notes=(*images.notes, note), **{part: getattr(images, part)[:at_most] for part in parts}
    )


def _digits() -> LabelledImages:
    from sklearn.datasets import load_digits  # imported here: both take a second
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # stored values are 0 to 16
    images = np.stack(
        [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in grey]
    )
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=1 / 3, random_state=0, stratify=labels)
    return LabelledImages(
        "digits",
        *(images[train][..., None], labels[train], images[test][..., None], labels[test]),
        class_names=tuple(str(digit) for digit in digits.target_names),
        shift=1,
        mirror=False,  # a mirrored digit is another sign
        notes=(
            "8 × 8 pixels enlarged to 16 × 16; the writers are unknown, so one may be in training and test.",
        ),
    )


def _cifar100(root: str | Path) -> LabelledImages:
    from torchvision.datasets import CIFAR100

    folder = Path(root).expanduser() if str(root) else REPOSITORY / "data" / "cifar100"
    if folder.name == CIFAR100.base_folder and (folder / "train").is_file():  # root is the inner folder
        folder = folder.parent
    try:
        train, test = (CIFAR100(folder, train=part) for part in (True, False))
    except (RuntimeError, OSError):  # torchvision's RuntimeError: a file is missing or its MD5 differs
        _download(CIFAR100, folder)
        train, test = (CIFAR100(folder, train=part) for part in (True, False))
    return LabelledImages(
        "cifar100",
        *(np.ascontiguousarray(train.data), np.array(train.targets, np.int64)),
        *(np.ascontiguousarray(test.data), np.array(test.targets, np.int64)),
        class_names=tuple(train.classes),
        shift=4,
        mirror=True,
    )


def _download(source, folder: Path) -> None:
    """Downloads the archive, unless it is in `folder` already, and extracts it there.

    torchvision checks its MD5.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    before = socket.getdefaulttimeout()
    # torchvision sets no timeout: it would wait for minutes if packets are dropped.
    socket.setdefaulttimeout(TIMEOUT)
    try:
        download_and_extract_archive(source.url, folder, filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ClassificationError(
            f"CIFAR-100 is not in {folder} (or a file there is damaged), "
            f"and downloading it failed ({error}). "
            f"On a machine with a network fetch {source.url} (MD5 {source.tgz_md5}) "
            f"and put it into that folder as {source.filename}: it is extracted on the next call. "
            f"Or set images_root to the folder that holds {source.base_folder}/, or images to digits."
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def sample_sheet(data: LabelledImages, classes: int = 10) -> tuple[list[list[np.ndarray]], list[str]]:
    """Two rows of (H, W, 3) bytes, and the names of the classes shown.

    The rows are the first training and the first test image of each of the first classes.
    """
    both = [
        label
        for label in range(len(data.class_names))
        if label in data.train_labels and label in data.test_labels
    ][:classes]
    rows = [
        [np.repeat(images[np.argmax(labels == label)], 3 // images.shape[3], axis=2) for label in both]
        for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    ]
    return rows, [data.class_names[label].replace("_", "\n") for label in both]
