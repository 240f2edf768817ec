"""The report that lies in the repository says what the reference runs there say."""

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from reidlib.report import outside_references
from reidlib.show import findings, tables
from reidlib.study.reference import read_reference, reference_studies
from reidlib.study.results import REFERENCE
from run_all import REFERENCE_PAGES

REPORT = REFERENCE / "report"
AGAIN = "python tools/keep_report.py makes it again"


@pytest.fixture(scope="module")
def studies():
    return reference_studies()


def test_its_findings_are_those_of_the_runs(studies):
    by_data_set = {study.title: study.runs for study in studies}
    now = findings.findings(by_data_set, findings.classification_samples([]))
    kept = pd.read_csv(REPORT / "files" / "figures" / "findings.csv")
    for name in ("name", "data_set", "verdict", "seeds"):
        assert kept[name].tolist() == now[name].tolist(), AGAIN
    numbers = ["difference", "low", "high", "published"]
    assert_frame_equal(kept[numbers], now[numbers].astype(float), check_exact=False, obj=AGAIN)


def test_its_table_has_every_run():
    runs = read_reference(REFERENCE / "synthetic").runs
    now = tables.runs_table(runs).astype(str)
    kept = pd.read_csv(REPORT / "files" / "tables" / "runs.csv", dtype=str, keep_default_na=False)
    columns = ["method", "seed", "rank-1 [95 %]", "mAP [95 %]"]
    assert kept[columns].to_numpy().tolist() == now[columns].to_numpy().tolist(), AGAIN


def test_it_has_the_pages_that_need_no_image_and_asks_nothing_of_the_net():
    pages = {path.stem: path for path in REPORT.glob("*.html")}
    assert {"index", "05_findings"} < {*pages} <= {*REFERENCE_PAGES, "index", "search"}
    assert outside_references(REPORT) == []


def test_it_is_small():
    sizes = [path.stat().st_size for path in REPORT.rglob("*") if path.is_file()]
    assert sum(sizes) < 8_000_000
