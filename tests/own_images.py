"""A made-up run with weights, and folders of noise images, for the tests of one's own images."""

import os
from pathlib import Path

import numpy as np
import torch
from made_up_runs import fabricate
from PIL import Image

from reidlib.models.networks import model_from_experiment
from reidlib.run import Run
from reidlib.study.results import Study

SIZE = {"height": 64, "width": 32}
NAMES = (b"two\nlines.png", b"<b>&amp;.png", b"\xe9.png", b"$x$ `y`.png")  # a line break, HTML, no UTF-8


def run_with_weights(results: Path, method: str = "abdnet", seed: int = 0) -> Run:
    """A finished run of a small network with drawn weights."""
    study = Study("smoke", "folder", results / "smoke-folder")
    run = fabricate(study, method, seed=seed, settings=SIZE)
    torch.manual_seed(seed)
    network = model_from_experiment(run.experiment, run.metrics["classes"])
    torch.save(network.state_dict(), run.files.model)
    return run


def write_noise(path: Path, number: int, size: tuple[int, int] = (20, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def odd_names(folder: Path) -> list[Path]:
    """Images with names that a file system allows and little else does."""
    return [
        write_noise(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)), i) for i, name in enumerate(NAMES)
    ]
