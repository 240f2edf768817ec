"""The papers' published numbers, from data/paper/*.csv."""

import pandas as pd

from reidlib.config import title_of
from reidlib.files import REPOSITORY
from reidlib.show.text import DASH

PAPER = REPOSITORY / "data" / "paper"

# Data set → its column prefix in the papers' tables.
PAPER_COLUMN = {
    "market1501": "market1501",
    "dukemtmc-reid": "dukemtmc",
    "cuhk03-np-labeled": "cuhk03_labeled",
    "cuhk03-np-detected": "cuhk03_detected",
}
SVD_ROW = "Baseline + SVD layer"  # no text that we could read describes it


def paper_table(name: str) -> pd.DataFrame:
    """A published table from data/paper/<name>.csv; empty cells are NaN."""
    return pd.read_csv(PAPER / f"{name}.csv")


def as_published(value: float) -> str:
    """A published percentage with one or two decimals, as in the paper; "–" for NaN."""
    return DASH if pd.isna(value) else f"{value:.2f}".removesuffix("0")


def difference_from_paper(ours: float | None, paper: float) -> str:
    """Ours (a fraction) minus the paper's (a percentage), in points with a sign; "–" if one is missing."""
    return DASH if ours is None or pd.isna(paper) else f"{100 * ours - paper:+z.1f}"


def published_result(method: str, dataset: str) -> dict[str, float]:
    """What the paper reports for a method on a data set.

    Returns:
        rank1 and map (percentages; on MSMT17 also rank5), and reranked (whether they are after re-ranking).
        {} if the paper reports nothing.
    """
    column = PAPER_COLUMN.get(dataset)
    if method == "abdnet" and dataset == "msmt17":
        row = paper_table("abdnet_table4_msmt17").set_index("method").loc["ABD-Net"]
        return {"rank1": row["rank1"], "rank5": row["rank5"], "map": row["map"], "reranked": False}
    if column is None:
        return {}
    if method == "pfsa":
        row = paper_table("pfsa_table1").set_index("method").loc["Parameter-Free Spatial Attention"]
        return {"rank1": row[f"{column}_rank1"], "map": row[f"{column}_map"], "reranked": True}
    ablation = paper_table("abdnet_table1_ablation").set_index("method")
    title = title_of(method)
    if title in ablation.index and f"{column}_rank1" in ablation:
        return {
            "rank1": ablation.loc[title, f"{column}_rank1"],
            "map": ablation.loc[title, f"{column}_map"],
            "reranked": False,
        }
    return {}
