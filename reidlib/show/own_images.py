"""One's own images searched with one's own queries: rankings as rows of pictures, scores, why two match."""

from reidlib.show.drawing import described  # first: it decides how matplotlib starts

# isort: split

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from reidlib.datasets.own_images import UNKNOWN, OwnImages
from reidlib.errors import shown
from reidlib.evaluation import EvaluationError, rank_gallery
from reidlib.evaluation.ranking import RANKS, rank
from reidlib.evaluation.scoring import summary
from reidlib.image_embedder import Embedder
from reidlib.images.decoding import decode, open_rgb
from reidlib.show import figures, maps
from reidlib.show.explorer import TOP, as_webp
from reidlib.show.text import DASH, in_markdown, percent

MOST_ROWS = 30  # queries whose rankings a page shows as pictures
PAIRS = 3  # queries whose maps are drawn
TALL = 128  # pixels of a thumbnail; its width follows, up to the same
NAME = 15  # characters of a file's name below a thumbnail


def image_table(own: OwnImages, part: str) -> pd.DataFrame:
    """The images of "query" or "gallery" in their order: file, identity, camera; None where not known.

    Names and labels are as they can be printed (`errors.shown`): pandas and Parquet hold UTF-8 only.
    """
    paths = own.dataset.splits[part].paths
    labels = [[shown(text) or None for text in own.labels[path]] for path in paths]
    table = pd.DataFrame(labels, columns=["identity", "camera"], dtype=object)
    table.insert(0, "file", [shown(own.names[path]) for path in paths])
    return table


def ranking_frame(own: OwnImages, embeddings: dict[str, np.ndarray], top: int = TOP) -> pd.DataFrame:
    """The first `top` gallery images of each query, one row for each image.

    Left out are images of the query's person by its own camera, as in the scores, junk, and the query itself
    where it lies in the gallery.

    Args:
        embeddings: `query` (Q, D) and `gallery` (G, D).

    Returns:
        Columns query (row), query_file, query_identity, query_camera, rank (from 1), gallery (row), file,
        identity, camera, distance (squared), right (bool, or NA where one of the two has no identity).

    Raises:
        EvaluationError: all rankings are empty, because everything in the gallery is left out.
    """
    query, gallery = own.dataset.query, own.dataset.gallery
    labels = (query.ids, gallery.ids, query.cameras, gallery.cameras)
    nearest, _ = rank_gallery(embeddings["query"], embeddings["gallery"], *labels, top=top + 1)
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(query.paths):
        others = [row for row in nearest[number] if row >= 0 and not path.samefile(gallery.paths[row])]
        for place, row in enumerate(others[:top], 1):
            difference = embeddings["query"][number].astype(np.float64) - embeddings["gallery"][row]
            rows.append({"query": number, "rank": place, "gallery": int(row)})
            rows[-1]["distance"] = float(np.square(difference).sum())
    if not rows:
        raise EvaluationError(
            "There is nothing to rank: the folder of images holds only the queries themselves, images of the "
            "same person by the same camera, and junk. Add other images, or choose other --labels."
        )
    frame = pd.DataFrame(rows, columns=["query", "rank", "gallery", "distance"])
    for part, side, before in (("query", "query", "query_"), ("gallery", "gallery", "")):
        table = image_table(own, side).iloc[frame[part]].reset_index(drop=True)
        frame = frame.join(table.add_prefix(before))
    known = frame["query_identity"].notna() & frame["identity"].notna()
    right = (frame["query_identity"] == frame["identity"]).astype("boolean")
    return frame.assign(right=right.where(known & (query.ids[frame["query"]] > 0)))


def ranked_rows(frame: pd.DataFrame, own: OwnImages, most: int = MOST_ROWS) -> str:
    """HTML: one row of pictures for each of the first `most` queries, as in the explorer.

    Args:
        frame: `ranking_frame`.
    """
    parts = []
    for number in range(min(most, len(own.dataset.query))):
        path, found = own.dataset.query.paths[number], frame[frame["query"] == number]
        name, label = shown(own.names[path]), _who(*own.labels[path])
        pictures = [_picture(path, f"query {number + 1}: {name}", "", "query", name)]
        for _, row in found.iterrows():
            mark, kind = {True: ("✓ ", "right"), False: ("✗ ", "wrong")}.get(row["right"], ("", ""))
            about = ", ".join(
                filter(None, (f"rank {row['rank']}", kind, _who(row["identity"], row["camera"])))
            )
            caption = f"{mark}{_distance(row['distance'])}"
            image = own.dataset.gallery.paths[row["gallery"]]
            pictures.append(_picture(image, f"{about}: {row['file']}", kind, caption, row["file"]))
        heading = html.escape(f"Query {number + 1}: {name}{f' ({label})' if label else ''}")
        parts.append(
            f'<h3>{heading}</h3><div class="scroll" tabindex="0" role="region" aria-label="{heading}">'
            f'<div class="ranks" style="display:flex;gap:8px">{"".join(pictures)}</div></div>'
        )
    left = len(own.dataset.query) - most
    if left > 0:
        parts.append(f"<p>{left:,} more queries are in the table's files, without pictures.</p>")
    return "\n".join(parts)


def first_table(frame: pd.DataFrame, most: int = MOST_ROWS) -> pd.DataFrame:
    """The first image of each of the first `most` queries of a `ranking_frame`, in words."""
    first = frame[(frame["rank"] == 1) & (frame["query"] < most)]
    marks = [{True: "✓", False: "✗"}.get(right, DASH) for right in first["right"]]
    distances = map(_distance, first["distance"])
    columns = {"query": first["query_file"], "first image": first["file"]}
    return pd.DataFrame(columns).assign(**{"squared distance": list(distances), "right": marks})


def scores(
    own: OwnImages, embeddings: dict[str, np.ndarray], *, resamples: int = 2000
) -> tuple[pd.DataFrame | None, str]:
    """Rank-k, mAP and mINP in %, with 95 % intervals over people, as a table of one row; and a sentence.

    The table is None where labels do not suffice; the sentence says why.
    """
    missing = [
        name for name, has in (("identities", own.has_identities), ("cameras", own.has_cameras)) if not has
    ]
    if missing:
        return None, (
            f"There are no scores, because the gallery has no {' and no '.join(missing)}: they need both, "
            "since images by the query's own camera do not count."
        )
    try:
        ranked = rank(embeddings["query"], embeddings["gallery"], own.dataset)
    except EvaluationError as error:
        return None, f"There are no scores: {in_markdown(str(error))}"
    found = summary(ranked, own.dataset, resamples=resamples)
    row = {f"rank-{k}": percent(found[f"rank{k}"]) for k in RANKS}
    row |= {"rank-1": percent(found["rank1"], found["rank1_interval"])}
    row |= {"mAP": percent(found["map"], found["map_interval"]), "mINP": percent(found["minp"])}
    row |= {"queries scored": found["queries_scored"], "gallery": len(own.dataset.gallery)}
    people = len(np.unique(own.dataset.query.ids[~np.isnan(ranked.average_precision)]))
    over = f"{found['queries_scored']:,} of {len(own.dataset.query):,} queries have a match by another camera"
    sentence = f"Rank-1 is {row['rank-1']} %, mAP {row['mAP']} %: {over}. "
    sentence += (
        f"Intervals (95 %) are over the {people} people of these queries; another training is not in them."
        if people > 1
        else "They show one person, so there is no interval."
    )
    return pd.DataFrame([row]), sentence


def why_matched(
    embedder: Embedder, own: OwnImages, frame: pd.DataFrame, *, pairs: int = PAIRS, match_rank: int = 1
) -> tuple[Figure, dict[str, np.ndarray]]:
    """Where queries and gallery images are alike, by ranking activation maps (`maps.ranking_activation`).

    Args:
        frame: `ranking_frame`.
        pairs: how many queries, from the first on.
        match_rank: which gallery image of each, by rank; the last if there are fewer.

    Returns:
        The figure, and the maps "query" and "match", (pairs, H, W).
    """
    chosen = frame[frame["rank"] <= match_rank].groupby("query").tail(1).head(pairs)
    size = (embedder.experiment.height, embedder.experiment.width)
    splits = {"query": own.dataset.query, "gallery": own.dataset.gallery}
    query, match = (
        np.stack([decode(split.paths[row], *size) for row in chosen[name]]) for name, split in splits.items()
    )
    model = embedder.model.cpu()
    heats = {
        "query": maps.ranking_activation(model, query, match),
        "match": maps.ranking_activation(model, match, query),
    }
    images, labels = {"query": query, "match": match}, {"query": "query", "match": "match"}
    title = f"What makes a query and its image at rank {match_rank} alike"
    figure = figures.heat_rows(images, heats, labels, title, over=images)
    both = np.concatenate(list(heats.values()))
    upper = 100 * both[:, : size[0] // 2].sum() / max(both.sum(), 1e-12)
    text = (
        f"{len(chosen)} pairs of a query and its gallery image at rank {match_rank}, with maps of the places "
        f"that make the two alike: {upper:.0f} % of what the maps hold lies in the upper half of the images."
    )
    return described(figure, text), heats


def summary_sentence(own: OwnImages, frame: pd.DataFrame, scored: str) -> str:
    """The takeaway (Markdown): how many images were searched, what is first, and the sentence of `scores`."""
    first = frame[frame["rank"] == 1]
    parts = [f"{len(own.dataset.query):,} queries were searched in {len(own.dataset.gallery):,} images."]
    known = first["right"].dropna()
    if len(known):
        parts.append(
            f"The first image shows the query's person for {int(known.sum())} of {len(known)} queries."
        )
    parts.append(
        f"The first image's squared distance is {_distance(first['distance'].median())} in the median."
    )
    return " ".join([*parts, scored])


def _picture(path: Path, alt: str, kind: str, caption: str, name: str) -> str:
    image = open_rgb(path)
    wide = min(max(round(TALL * image.width / image.height), 1), TALL)
    pixels = np.asarray(image.resize((wide, TALL), Image.Resampling.LANCZOS))
    source = f"data:image/webp;base64,{base64.b64encode(as_webp(pixels)).decode()}"
    alt, name = html.escape(alt), html.escape(_cut(name.rpartition("/")[2]))
    return (
        f'<figure class="{kind}" title="{alt}" style="margin:0">'
        f'<img class="thumb" alt="{alt}" src="{source}" width="{wide}" height="{TALL}">'
        f"<figcaption>{html.escape(caption)}<br><small>{name}</small></figcaption></figure>"
    )


def _cut(name: str) -> str:
    """A file's name, without what is too much in the middle."""
    return name if len(name) <= NAME else f"{name[: NAME // 2]}…{name[-(NAME // 2) :]}"


def _who(identity: str | None, camera: str | None) -> str:
    known = {"identity": identity, "camera": camera}
    return shown(", ".join(f"{what} {text}" for what, text in known.items() if text not in (None, UNKNOWN)))


def _distance(value: float) -> str:
    return f"{value:#.3g}" if value < 100 else f"{value:.0f}"
