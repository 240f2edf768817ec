"""Scores without learning: the colour histogram by hand, and the table of reference points."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from reidlib.config import experiment_for
from reidlib.evaluation import (
    EvaluationError,
    colour_histogram_embeddings,
    reference_points,
    retrieval_metrics,
)
from reidlib.images.decoding import ImageError


def test_colour_histogram(tmp_path):
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[0] = 255  # a quarter white, the rest black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.new("L", (5, 3), 100).save(tmp_path / "b.png")
    embeddings = colour_histogram_embeddings([tmp_path / "a.png", tmp_path / "b.png"])
    assert embeddings.shape == (2, 512)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings[0, [0, 511]], np.sqrt([0.75, 0.25]))
    assert embeddings[1, 3 * 64 + 3 * 8 + 3] == 1  # 100 (of 0 to 255) lies in the fourth of eight bins
    np.testing.assert_allclose((embeddings**2).sum(axis=1), 1)
    (tmp_path / "c.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"c\.png"):
        colour_histogram_embeddings([tmp_path / "c.png"])
    with pytest.raises(EvaluationError, match="bins=1"):
        colour_histogram_embeddings([tmp_path / "a.png"], bins=1)


def test_reference_points(steady, dataset, cache):
    experiment = experiment_for(
        "baseline",
        dataset="folder",
        pretrained=False,
        backbone="resnet18",
        height=96,
        width=48,
        reduced_dim=16,
        embedding_dim=16,
        head_dim=16,
        precision="float32",
        bootstrap_resamples=200,
    )
    frame = reference_points(experiment, dataset, cache=cache)
    assert frame["method"].tolist() == ["colour histogram", "untrained network"]
    assert ((frame["map_low"] <= frame["map"]) & (frame["map"] <= frame["map_high"])).all()
    assert ((frame["rank1_low"] <= frame["rank1"]) & (frame["rank1"] <= frame["rank1_high"])).all()
    histograms = [colour_histogram_embeddings(split.paths) for split in (dataset.query, dataset.gallery)]
    by_colour = retrieval_metrics(
        *histograms, dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras
    )
    row = frame.iloc[0]
    assert (row["rank1"], row["rank5"], row["map"], row["minp"]) == (
        by_colour.rank(1),
        by_colour.rank(5),
        by_colour.mean_ap,
        by_colour.mean_inp,
    )
    again = reference_points(replace(experiment, pretrained=True), dataset, cache=cache)
    assert again.equals(frame), "random weights, whatever the experiment starts from"
