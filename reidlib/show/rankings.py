"""Which gallery images runs rank first, and what the worst queries are confused with, as tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reidlib.config import title_of
from reidlib.datasets.types import ReidDataset
from reidlib.evaluation import rank_gallery
from reidlib.run import Run
from reidlib.show.selection import worst_queries


def ranking_frame(runs: Sequence[Run], dataset: ReidDataset, queries: np.ndarray, top: int) -> pd.DataFrame:
    """The first `top` gallery images of each query under each run, one row for each image.

    Args:
        queries: (N,) rows of the query.

    Returns:
        Columns query (row), query_identity, query_camera, method (title), rank (from 1), gallery (row),
        identity, camera, distance (squared), right (bool). A gallery with fewer images has fewer rows.
    """
    rows = []
    for run in runs:
        indices, right = ranked(run, dataset, queries, top)
        distances = squared_distances(run, queries, indices)
        for number, query in enumerate(queries):
            for place in np.flatnonzero(indices[number] >= 0):
                row = {"query": int(query), "method": title_of(run.method), "rank": int(place) + 1}
                row |= {"gallery": int(indices[number, place]), "distance": distances[number, place]}
                rows.append(row | {"right": bool(right[number, place])})
    columns = ["query", "method", "rank", "gallery", "distance", "right"]
    frame = pd.DataFrame(rows, columns=columns)
    for name, split, row in (("query_", dataset.query, "query"), ("", dataset.gallery, "gallery")):
        frame[f"{name}identity"], frame[f"{name}camera"] = split.ids[frame[row]], split.cameras[frame[row]]
    # Queries in the order given, and the runs of each below each other.
    order = {int(query): place for place, query in enumerate(queries)}
    return frame.sort_values("query", key=lambda rows: rows.map(order), kind="stable", ignore_index=True)


def worst_frame(run: Run, dataset: ReidDataset, count: int) -> pd.DataFrame:
    """The run's worst queries with what they were confused with, the worst first.

    Returns:
        One row for each query: query (row), query_identity, query_camera, average_precision, and of the first
        wrong image and of the best right one: wrong or right (row of the gallery; -1: there is none), and
        with that word before them _identity, _camera, _rank and _distance (squared).
    """
    precisions = run.queries["average_precision"].to_numpy(float)
    queries, gallery = worst_queries(precisions, count), dataset.gallery
    indices, right = ranked(run, dataset, queries, len(gallery))
    frame = pd.DataFrame({"query": queries, "query_identity": dataset.query.ids[queries]})
    frame["query_camera"] = dataset.query.cameras[queries]
    frame["average_precision"] = precisions[queries]
    for name, wanted in (("wrong", ~right & (indices >= 0)), ("right", right)):
        places = wanted.argmax(axis=1)
        known = wanted.any(axis=1)
        found = np.where(known, indices[np.arange(len(queries)), places], -1)
        distances = squared_distances(run, queries, found[:, None])[:, 0]
        of_image = {"identity": gallery.ids[found], "camera": gallery.cameras[found], "rank": places + 1}
        frame[name] = found
        for column, values in (of_image | {"distance": distances}).items():
            frame[f"{name}_{column}"] = pd.Series(values).where(known)
    return frame


def squared_distances(run: Run, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """(N, K) squared distances from each of N queries to K gallery images (N, K); NaN where the index is -1.

    They are taken as differences in float64, unlike those that rank, which leave out the query's length.
    """
    query = run.embeddings["query"][queries].astype(np.float64)[:, None]  # (N, 1, D)
    distances = np.square(query - run.embeddings["gallery"][indices]).sum(axis=2)
    return np.where(indices >= 0, distances, np.nan)


def ranked(run: Run, dataset: ReidDataset, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """`rank_gallery` of a run for some queries (N,): rows of the gallery and matches, both (N, top)."""
    query, gallery = dataset.query, dataset.gallery
    labels = (query.ids[queries], gallery.ids, query.cameras[queries], gallery.cameras)
    return rank_gallery(run.embeddings["query"][queries], run.embeddings["gallery"], *labels, top=top)
