"""The papers' numbers: as in data/paper, as text, and assigned to our runs."""

import csv
import itertools
import math

import pytest

from reidlib.config import METHODS
from reidlib.datasets import DATASET_TITLES, DATASETS
from reidlib.show.published import (
    PAPER,
    PAPER_COLUMN,
    SVD_ROW,
    as_published,
    difference_from_paper,
    paper_table,
    published_result,
)
from reidlib.show.text import DASH

NAN = float("nan")


def test_numbers_keep_the_decimals_they_were_published_with():
    assert as_published(88.28) == "88.28" and as_published(91.5) == "91.5" and as_published(NAN) == DASH


def test_differences_from_the_paper_are_signed_points():
    assert difference_from_paper(0.873, 88.0) == "-0.7"
    assert difference_from_paper(0.9, 88.0) == "+2.0"
    assert difference_from_paper(0.5, NAN) == DASH and difference_from_paper(None, 88.0) == DASH


def test_titles_cover_every_data_set():
    assert list(DATASET_TITLES) == list(DATASETS)
    assert set(PAPER_COLUMN) < set(DATASETS)


@pytest.mark.parametrize("name", ["abdnet_table1_ablation", "abdnet_table4_msmt17", "pfsa_table1"])
def test_a_table_is_read_unchanged(name):
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        typed = list(csv.DictReader(file))
    read = paper_table(name)
    assert len(read) == len(typed) > 2
    for row, cells in zip(read.to_dict("records"), typed, strict=True):
        assert list(row) == list(cells)
        for value, cell in zip(row.values(), cells.values(), strict=True):
            if isinstance(value, str):
                assert value == cell
            else:
                assert value == float(cell) if cell else math.isnan(value)


def test_what_is_printed_and_what_is_known_about_it():
    """Venues stand as printed; rows of which other tables suggest that they are re-ranked say "probably"."""
    for name in ("abdnet_table2_market1501", "abdnet_table3_dukemtmc"):
        row = paper_table(name).set_index("method").loc["CA3Net"]
        assert row["venue"] == "2018 CVPR" and "it appeared at ACM MM" in row["note"]
    reranked = paper_table("pfsa_table1").set_index("method")["reranked"]
    assert reranked[reranked == "probably"].index.tolist() == ["SVD-net", "FMN"]
    elsewhere = paper_table("abdnet_table3_dukemtmc").set_index("method")["map"]
    assert paper_table("pfsa_table1").set_index("method").loc["SVD-net", "dukemtmc_map"] == 78.3
    assert 62.44 in elsewhere.filter(like="SVDNet").tolist()


def test_every_row_of_the_papers_ablation_is_one_of_our_methods():
    titles = {METHODS[method].title for method in list(METHODS)[:9]}
    assert set(paper_table("abdnet_table1_ablation")["method"]) == titles | {SVD_ROW}


def test_published_results_of_every_method_and_data_set():
    ablation = paper_table("abdnet_table1_ablation").set_index("method")
    pfsa = paper_table("pfsa_table1").iloc[-1]
    assert pfsa["method"] == "Parameter-Free Spatial Attention" and pfsa["reranked"] == "yes"
    known = []
    for method, dataset in itertools.product(METHODS, DATASET_TITLES):
        found, column = published_result(method, dataset), PAPER_COLUMN.get(dataset)
        title = METHODS[method].title
        if method == "abdnet" and dataset == "msmt17":
            assert found == {"rank1": 82.3, "rank5": 90.6, "map": 60.8, "reranked": False}
        elif method == "pfsa" and column:
            assert found == {"rank1": pfsa[f"{column}_rank1"], "map": pfsa[f"{column}_map"], "reranked": True}
        elif title in ablation.index and dataset in ("market1501", "dukemtmc-reid"):
            row = ablation.loc[title]
            assert found == {"rank1": row[f"{column}_rank1"], "map": row[f"{column}_map"], "reranked": False}
        else:
            assert found == {}, (method, dataset)
        known += [(method, dataset)] if found else []
    assert len(known) == 1 + len(PAPER_COLUMN) + 9 * 2
