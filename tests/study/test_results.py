"""What notebooks save."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reidlib.show.drawing import described
from reidlib.study.results import Study


@pytest.fixture
def study(tmp_path):
    return Study("demo", "synthetic", tmp_path)


def test_a_figure_has_its_description_and_its_numbers_beside_it(study):
    figure = described(Figure(figsize=(1, 1)), "A line that\n rises by 3 %.")
    table = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]})
    saved = study.save_figure(figure, "line", table)
    assert Image.open(saved).text == {"Description": "A line that rises by 3 %."}
    assert b"A line that rises by 3 %." in saved.with_suffix(".pdf").read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(saved.with_suffix(".csv")), table)


def test_arrays_lie_beside_a_figure_and_the_same_input_gives_the_same_bytes(study):
    maps = {"gap": np.arange(6, dtype=np.float32).reshape(2, 3), "sa": np.ones(2)}
    figure = Figure(figsize=(1, 1))
    written = []
    for _ in range(2):
        study.save_figure(figure, "maps", maps)
        written.append({path.name: path.read_bytes() for path in sorted(study.figures.iterdir())})
    assert written[0] == written[1]
    assert list(written[0]) == ["maps.npz", "maps.pdf", "maps.png"]
    with np.load(study.figures / "maps.npz") as read:
        assert {name: read[name].tolist() for name in read} == {k: v.tolist() for k, v in maps.items()}
