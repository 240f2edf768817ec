"""Average precision from one camera to another, ranked by hand."""

from pathlib import Path

import numpy as np

from reidlib.datasets import ReidDataset, Split
from reidlib.evaluation.camera_pairs import camera_pair_precision


def split(images):
    """A split and its one-dimensional embeddings, from (identity, camera, number) of each image."""
    ids, cameras, values = (np.array(column) for column in zip(*images, strict=True))
    return Split(tuple(Path(f"{row}.jpg") for row in range(len(images))), ids, cameras), values[:, None]


def test_each_query_is_ranked_against_one_other_cameras_images_alone():
    query, asked = split([(1, 1, 0.0), (2, 1, 10.0), (1, 2, 0.0), (3, 3, 20.0)])
    gallery, shown = split(
        [
            (1, 2, 3.0), (2, 2, 1.0), (0, 2, 2.0),  # person 1 is third for a query at 0, after a distractor
            (1, 3, 1.0), (1, 3, 5.0), (2, 3, 4.0),  # first and third for it
            (-1, 3, 0.5), (1, 1, 0.0),  # junk is nowhere; the last is of the query's own camera
        ]
    )  # fmt: skip
    nobody = Split((), np.empty(0, np.int64), np.empty(0, np.int64))
    dataset = ReidDataset("folder", Path(), nobody, query, gallery)
    found = camera_pair_precision({"query": asked, "gallery": shown}, dataset)
    nan, whole = np.nan, (1 + 2 / 3) / 2
    assert list(found) == [1, 2, 3]
    # Person 2's image in camera 2 is at 1, the farthest from 10; in camera 3 it is at 4, behind the one at 5.
    np.testing.assert_allclose(found[1], [nan, nan, 1, nan])
    np.testing.assert_allclose(found[2], [1 / 3, 1 / 3, nan, nan])
    np.testing.assert_allclose(found[3], [whole, 1 / 2, whole, nan])
