"""The data set type: images in three splits, each with its identity and its camera."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from reidlib.errors import ReidError
from reidlib.images.contents import content_digests

ImageRow = tuple[str, int, int, int]  # name relative to the root, identity, camera, size in bytes


class DatasetError(ReidError):
    """The data set on disk, or a request for it, is not as expected."""


@dataclass(frozen=True, eq=False)
class Split:
    """N images sorted by name.

    paths; ids (N,) int64; cameras (N,) int64.
    """

    paths: tuple[Path, ...]
    ids: np.ndarray
    cameras: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class ReidDataset:
    """A checked data set.

    `root` directly holds the official sub-folders; `notes` are sentences for the report. Digests of the
    images are remembered in the folder `cache` (None: nowhere); `keep_digests` False: only those that are
    there are used, and nothing is written.
    """

    name: str
    root: Path
    train: Split
    query: Split
    gallery: Split
    notes: tuple[str, ...] = ()
    includes_val: bool = False  # MSMT17: list_val.txt was added to the training images
    cache: Path | None = field(default=None, repr=False)
    keep_digests: bool = field(default=True, repr=False)

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "query": self.query, "gallery": self.gallery}

    @property
    def cameras(self) -> np.ndarray:
        """(cameras,) int64: those of all splits, in ascending order."""
        return np.unique(np.concatenate([split.cameras for split in self.splits.values()]))

    @property
    def is_synthetic(self) -> bool:
        return self.name == "synthetic"

    @cached_property
    def num_train_identities(self) -> int:
        return len(np.unique(self.train.ids))

    @cached_property
    def train_labels(self) -> np.ndarray:
        """(N,) int64 in 0..C-1, in ascending order of identity."""
        return np.unique(self.train.ids, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Digests, 16 hex digits each, of the data behind the weights and behind the scores.

        "training" covers the training images, "test" query and gallery: names relative to the root,
        identities, cameras and the content of the files, links followed. Nothing else under the root counts,
        and neither does its location. Runs and steps depend on a data set by these two digests only.

        Raises:
            UnreadableImageError: an image cannot be read; the message names it.
        """
        return {"training": self._fingerprint("train"), "test": self._fingerprint("query", "gallery")}

    def _fingerprint(self, *splits: str) -> str:
        digest, prefix = hashlib.sha256(), self.root.as_posix().rstrip("/") + "/"
        for part in splits:
            split = self.splits[part]
            contents = content_digests(split.paths, cache=self.cache, keep=self.keep_digests)
            names = [path.as_posix().removeprefix(prefix) for path in split.paths]
            rows = zip(names, split.ids.tolist(), split.cameras.tolist(), contents, strict=True)
            digest.update("".join([f"{part} {row}\n" for row in rows]).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]
