"""The examples at the end of the README: a method and a data set, added in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidlib.files import REPOSITORY

# The README's last section must hold this text. A line such as "# FILE, at the end of NAME" says where the
# lines below it go.
METHOD = '''
# reidlib/models/abdnet.py, in place of POOLINGS: the layer and its name
def generalised_mean(x: Tensor, power: float = 3) -> Tensor:
    """(B, C, H, W) → (B, C), in float32: the average for power 1, near the maximum for a large power."""
    return x.float().clamp_min(1e-6).pow(power).mean((2, 3)).pow(1 / power)
POOLINGS = {"average": average_pool, "max": max_pool, "generalised": generalised_mean}
# reidlib/experiment.py, in place of global_pooling: the values of the setting
    global_pooling: Literal["average", "max", "generalised"] = "average"  # of the global branch
# reidlib/config.py, at the end of METHODS: the row
    "baseline+gem": Method("Baseline (XE) + GeM", "baseline", {"global_pooling": "generalised"}),
'''.strip()
DATASET = """
# reidlib/datasets/corridor.py, a new file: cam<camera>/<person>_<image>.png, odd people for training
def has_corridor(root):
    return (root / "cam1").is_dir()

def read_corridor(root, notes):
    splits = {"train": [], "query": [], "gallery": []}
    for path in sorted(root.glob("cam*/*.png")):
        person, camera = int(path.name.partition("_")[0]), int(path.parent.name.removeprefix("cam"))
        split = "train" if person % 2 else "query" if camera == 1 else "gallery"
        splits[split].append((f"{path.parent.name}/{path.name}", person, camera, path.stat().st_size))
    return splits
# reidlib/datasets/known.py, among the imports
from reidlib.datasets.corridor import has_corridor, read_corridor
# reidlib/datasets/known.py, at the end of DATASETS
    "corridor": KnownDataset("Corridor", ("corridor",), read_corridor, has_corridor, "cam1/, cam2/ …"),
""".strip()
COMMAND = "python run_all.py --methods baseline baseline+gem --dataset corridor --data-root DIR"

TRAIN = """
import sys
from pathlib import Path
import numpy as np
import torch
from reidlib.config import experiment_for
from reidlib.datasets import load_dataset
from reidlib.training import fit

tiny = {"height": 96, "width": 48, "epochs": 1, "steps_per_epoch": 3, "batch_size": 4, "embedding_dim": 16}
data = load_dataset("corridor", sys.argv[1])
assert [len(split) for split in data.splits.values()] == [6, 2, 2]
assert data.train.ids.tolist() == [1, 3, 5] * 2 and data.gallery.cameras.tolist() == [2, 2]
experiment = experiment_for("baseline+gem", dataset="corridor", profile="smoke", **tiny)
run = fit(experiment, data, Path("runs", "baseline+gem-seed0"), cache=Path("cache"))
assert len(run.curves) == 1 and np.isfinite(run.curves["loss"]).all() and run.metrics["queries_scored"] == 2
x = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
torch.testing.assert_close(run.model().global_branch.pool(x), torch.tensor([[14 ** (1 / 3)]]))
"""


def add(block: str, checkout: Path) -> None:
    """Makes the changes that a block of the README describes."""
    parts = re.split(
        r"^# (reidlib/\S+), (in place of|at the end of|among the|a new) (\w+).*\n", block, flags=re.M
    )
    for file, where, name, lines in zip(*(parts[start::4] for start in range(1, 5)), strict=True):
        path, lines = checkout / file, lines.strip("\n")
        text = path.read_text() if path.exists() else ""
        if where == "a new":
            assert not path.exists()
            text = lines
        elif where == "among the":
            text = re.sub(r"^from reidlib", f"{lines}\n\\g<0>", text, count=1, flags=re.M)
        elif where == "in place of":
            text, found = re.subn(rf"^ *{name}\b.*", lambda _, new=lines: new, text, flags=re.M)
            assert found == 1
        else:
            text, found = re.subn(
                rf"^{name}\b.* = {{\n(.*\n)*?(?=}}\n)", rf"\g<0>{lines}\n", text, flags=re.M
            )
            assert found == 1
        path.write_text(f"{text.rstrip()}\n")


@pytest.mark.parametrize("text", [METHOD, DATASET, COMMAND])
def test_the_readme_shows_what_is_executed_here(text):
    section = (REPOSITORY / "README.md").read_text().partition("\n## Adding a method or a data set\n")[2]
    assert text in section
    assert len(text.splitlines()) <= 15


def test_the_new_method_trains_on_the_new_data_set(tmp_path):
    for name in ("reidlib", "notebooks", "data/paper"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)
    shutil.copy(REPOSITORY / "run_all.py", tmp_path)
    add(METHOD, tmp_path)
    add(DATASET, tmp_path)
    images = tmp_path / "images"
    rng = np.random.default_rng(0)
    for camera in (1, 2):
        (images / f"cam{camera}").mkdir(parents=True)
        for person in range(1, 6):
            pixels = rng.integers(0, 256, (96, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"cam{camera}" / f"{person:04d}_0.png")

    def python(*arguments: str) -> str:
        call = [sys.executable, *arguments]
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(call, cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    python("-c", TRAIN, str(images))
    planned = python(*COMMAND.replace("DIR", str(images)).split()[1:], "--profile", "smoke", "--dry-run")
    assert "10_train/baseline+gem-seed0" in planned
