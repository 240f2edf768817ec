"""Embeddings in two dimensions: principal components and t-SNE, by scikit-learn."""

from collections.abc import Mapping

import numpy as np

from reidlib.datasets.types import ReidDataset
from reidlib.show.selection import spread_identities

PERPLEXITY = 30  # of t-SNE, at most; about the number of neighbours that a point looks at


def images_of_people(dataset: ReidDataset, people: int) -> dict[str, np.ndarray]:
    """Rows of the query and of the gallery that show some of the people, evenly spread over the queries'.

    Returns:
        query (N,), gallery (M,): rows; identity (N + M,): of the queries, then of the gallery images.
    """
    chosen = spread_identities(dataset.query.ids, people)
    query, gallery = (
        np.flatnonzero(np.isin(split.ids, chosen)) for split in (dataset.query, dataset.gallery)
    )
    identity = np.concatenate([dataset.query.ids[query], dataset.gallery.ids[gallery]])
    return {"query": query, "gallery": gallery, "identity": identity}


def planes(embeddings: np.ndarray, *, seed: int = 0) -> tuple[dict[str, np.ndarray], float]:
    """PCA and t-SNE of (N, D) embeddings as they are compared: not normalised, by Euclidean distance.

    Args:
        embeddings: of at least three images.
        seed: of t-SNE, which starts from the principal components.

    Returns:
        Name → (N, 2) places, and the share of the variance that the two principal components hold.
    """
    # Imported here because it takes a second, and other figures do not need it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = np.asarray(embeddings, dtype=np.float64)
    components = PCA(2, svd_solver="full")
    first = components.fit_transform(values)
    second = TSNE(perplexity=min(PERPLEXITY, (len(values) - 1) / 3), random_state=seed).fit_transform(values)
    return {"PCA": first, "t-SNE": second}, float(components.explained_variance_ratio_.sum())


def neighbours_right(places: np.ndarray, identity: np.ndarray) -> float:
    """The share of images whose nearest other image (N, D) shows the same person."""
    places = np.asarray(places, dtype=np.float64)
    lengths = np.square(places).sum(axis=1)
    distances = lengths[:, None] + lengths - 2 * places @ places.T
    np.fill_diagonal(distances, np.inf)
    return float((identity[distances.argmin(axis=1)] == identity).mean())


def plane_titles(found: Mapping[str, float], variance: float) -> dict[str, str]:
    """What stands above each plane. found: shares of `neighbours_right`; variance: of the PCA."""
    own = {"PCA": f", {100 * variance:.0f} % of the variance", "t-SNE": ""}
    return {
        name: f"{name}{more}\nnearest other image is of the same person: {100 * found[name]:.0f} %"
        for name, more in own.items()
    }


def plane_sentence(found: Mapping[str, float], identity: np.ndarray) -> str:
    """How much of the embedding the planes keep.

    Args:
        found: the shares of `neighbours_right` in "embedding", "PCA" and "t-SNE".
        identity: (N,) of the images.
    """
    shares = ", ".join(
        f"in {'the embedding' if name == 'embedding' else name} for {100 * share:.0f} %"
        for name, share in found.items()
    )
    people = len(np.unique(identity))
    return (
        f"Of {len(identity)} images of {people} people, the nearest other one shows the same person "
        f"{shares}. Points that touch in a plane need not be near in the embedding."
    )
