"""Shared helpers and fixtures: golden values, made-up released weights, noise images, one thread, no GPU."""

import contextlib
import functools
import json
import os
import sys
import zlib
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_checkout import checkout  # noqa: F401  # a fixture

from reidlib.datasets import load_dataset

GOLDEN = Path(__file__).parent / "golden"

# The slowest files. Parallel processes start with them, so that none has to run one alone at the end.
SLOW_FIRST = (
    "test_run_all.py",
    "test_resuming.py",
    "test_checkpoint_command.py",
    "test_fitting.py",
    "test_parallel.py",
    "test_pipeline.py",
    "test_classification.py",
    "test_records.py",
)

HAS_GPU = torch.cuda.is_available()

if os.environ.get("PYTEST_XDIST_WORKER"):
    torch.set_num_threads(1)  # each test process has a core


def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: SLOW_FIRST.index(item.path.name) if item.path.name in SLOW_FIRST else len(SLOW_FIRST)
    )


def golden(name: str) -> dict[str, torch.Tensor]:
    """The tensors of tests/golden/<name>.npz; tests/golden/README.md says what each is."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def golden_shapes(name: str) -> dict:
    """Names and shapes of released weights, from tests/golden/<name>_state_keys.json."""
    return json.loads((GOLDEN / f"{name}_state_keys.json").read_text())


@functools.cache
def released_entry(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One entry of a released state dict, drawn from its name by the rule in tests/golden/README.md."""
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


def released_state(
    shapes: dict[str, list[int]], *, branches: tuple[str, str] = ("global", "abd")
) -> dict[str, torch.Tensor]:
    """A released state dict, made from its names and shapes.

    branches: which branch of ABD-Net is `branches.0` in the file, and which `branches.1`.
    """
    state = {}
    for name, shape in shapes.items():
        released = name
        for number, branch in enumerate(branches):
            released = released.replace(f"branches.{branch}.", f"branches.{number}.")
        state[released] = released_entry(name, tuple(shape))
    return state


@pytest.fixture(scope="session", autouse=True)
def no_gpu():
    """Tests and the programs that they start run on the CPU: a GPU's numbers differ from time to time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture
def gpu(monkeypatch):
    """The GPU, which other tests do not see. Without one, the test is skipped."""
    if not HAS_GPU:
        pytest.skip("needs a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return torch.device("cuda")


@contextlib.contextmanager
def one_thread_on_the_cpu():
    """One thread (`no_gpu` hides GPUs), so that numbers do not depend on the machine. Restores settings."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
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
    """The images of `root` as a data set."""
    return load_dataset("folder", root)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A module's cache folder for decoded images."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def closed_figures():
    """No test leaves a figure open. Only tests that draw have imported matplotlib."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Tests draw the same random numbers, in whatever order they run."""
    torch.manual_seed(0)
