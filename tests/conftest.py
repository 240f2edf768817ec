"""Helpers shared by the tests: where golden values lie, and the rule that fills a released network's weights."""

import contextlib
import functools
import json
import zlib
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidlib.datasets import load_dataset

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, torch.Tensor]:
    """The tensors of tests/golden/<name>.npz; tests/golden/README.md says what each is."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def golden_shapes(name: str) -> dict:
    """tests/golden/<name>_state_keys.json: released names and shapes."""
    return json.loads((GOLDEN / f"{name}_state_keys.json").read_text())


@functools.cache
def released_entry(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One entry of a released network's state dict, drawn from its name by the rule in tests/golden/README.md."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        values = 0.5 + rng.random(shape)
    elif name.endswith("running_mean"):
        values = 0.1 * rng.standard_normal(shape)
    elif name.endswith("gamma"):
        values = 0.5 + 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1:
        values = (1 if name.endswith("weight") else 0) + 0.1 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) * sqrt(1 / prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float32))


def released_state(shapes: dict[str, list[int]], *, branches: tuple[str, str] = ("global", "abd")) -> dict[str, torch.Tensor]:
    """A released state dict from its names and shapes. branches: which of ABD-Net's is `branches.0`, which `branches.1`."""
    state = {}
    for name, shape in shapes.items():
        released = name
        for number, branch in enumerate(branches):
            released = released.replace(f"branches.{branch}.", f"branches.{number}.")
        state[released] = released_entry(name, tuple(shape))
    return state


@contextlib.contextmanager
def one_thread_on_the_cpu():
    """Numbers that do not depend on the machine: one thread, no GPU; torch's settings are put back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def make_noise_images(root: Path, seed: int = 0, width: int = 48) -> Path:
    """Noise in Market-1501's layout: 6 training people with 4 images, 4 test people, 2 cameras."""
    rng = np.random.default_rng(seed)
    for folder, people, cameras in (
        ("bounding_box_train", range(1, 7), (1, 1, 2, 2)),
        ("query", range(11, 15), (1,)),
        ("bounding_box_test", range(11, 15), (1, 2, 2)),
    ):
        (root / folder).mkdir(parents=True)
        for person in people:
            for number, camera in enumerate(cameras):
                pixels = rng.integers(0, 256, (96, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{person:04d}_c{camera}s1_{number:06d}_00.png")
    return root


@pytest.fixture
def steady():
    """`one_thread_on_the_cpu` for a test."""
    with one_thread_on_the_cpu():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A module's folder of noise images."""
    return make_noise_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def dataset(root):
    """Those images as a data set."""
    return load_dataset("folder", root)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where a module's decoded images are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Tests that draw numbers draw the same ones in any order."""
    torch.manual_seed(0)
