"""The report that lies in the repository says what the reference runs there say."""

import re
import sys

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from reidlib.config import METHODS
from reidlib.files import REPOSITORY
from reidlib.report import outside_references
from reidlib.show import findings, tables
from reidlib.study.reference import PLANS, reference_studies
from reidlib.study.results import REFERENCE
from run_all import REFERENCE_PAGES

sys.path.insert(0, str(REPOSITORY / "tools"))
import keep_report  # noqa: E402

REPORT = REFERENCE / "report"
AGAIN = "python tools/keep_report.py makes it again"


@pytest.fixture(scope="module")
def studies():
    return reference_studies()


@pytest.fixture(params=[plan.name for plan in PLANS])
def site(request):
    return REPORT / request.param


def test_its_findings_are_those_of_the_runs(studies, site):
    by_data_set = {study.title: study.runs for study in studies}
    now = findings.findings(by_data_set, findings.classification_samples([]))
    kept = pd.read_csv(site / "files" / "figures" / "findings.csv")
    for name in ("name", "data_set", "verdict", "seeds"):
        assert kept[name].tolist() == now[name].tolist(), AGAIN
    numbers = ["difference", "low", "high", "published"]
    assert_frame_equal(kept[numbers], now[numbers].astype(float), check_exact=False, obj=AGAIN)


def test_its_table_has_every_run(studies, site):
    (study,) = [one for one in studies if one.name == site.name]
    rows = [run for run in study.runs if run.method in METHODS]  # variants stand in 22_paper_vs_code
    now = tables.runs_table(rows).astype(str)
    kept = pd.read_csv(site / "files" / "tables" / "runs.csv", dtype=str, keep_default_na=False)
    columns = ["method", "seed", "rank-1 [95 %]", "mAP [95 %]"]
    assert kept[columns].to_numpy().tolist() == now[columns].to_numpy().tolist(), AGAIN


def test_it_has_the_pages_that_need_no_image(site):
    pages = {path.stem: path for path in site.glob("*.html")}
    assert {"index", "05_findings", "90_report"} < {*pages} <= {*REFERENCE_PAGES, "index", "search"}


def test_it_asks_nothing_of_the_net_and_every_page_leads_to_the_other_data_sets(studies):
    assert {path.name for path in REPORT.iterdir()} == {study.name for study in studies}
    assert outside_references(REPORT) == [], "links between the data sets lead somewhere, too"
    for page in REPORT.rglob("*.html"):
        linked = set(re.findall(r'href="\.\./([\w-]+)/index\.html"', page.read_text(encoding="utf-8")))
        assert linked == {study.name for study in studies} - {page.parent.name}


def test_it_is_small():
    sizes = [path.stat().st_size for path in REPORT.rglob("*") if path.is_file()]
    assert sum(sizes) < keep_report.MOST_BYTES
