"""Helpers shared by the tests: where golden values lie, and the rule that fills a released network's weights."""

import functools
import json
import zlib
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

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


@pytest.fixture(autouse=True)
def fixed_seed():
    """Tests that draw numbers draw the same ones in any order."""
    torch.manual_seed(0)
