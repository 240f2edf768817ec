"""The claims of both papers: their rows exist, and their sizes are the published numbers."""

import pytest

from reidlib.claims import CLAIMS, CLASSIFICATION, MEASURES, PAPER_OR_CODE, QUESTIONS
from reidlib.classification.pooling_runs import POOLINGS
from reidlib.config import METHODS, VARIANTS, title_of
from reidlib.show.published import paper_table
from reidlib.switches import RELEASED

BY_NAME = {claim.name: claim for claim in CLAIMS}
every = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


@every
def test_a_claim_can_be_measured_and_can_be_wrong(claim):
    rows = POOLINGS if claim.measure == CLASSIFICATION else METHODS | VARIANTS
    assert {claim.first, claim.second} <= set(rows)
    assert claim.measure in MEASURES and claim.question in QUESTIONS
    measure = MEASURES[claim.measure]
    assert (claim.first, measure.column) != (claim.second, measure.against), "compared with itself"
    assert claim.sign in (1, -1)
    assert claim.text.endswith(".") and claim.source
    assert claim.margin > 0


@every
def test_a_published_size_has_the_predicted_sign_exceeds_the_margin_and_says_where(claim):
    if claim.size is None:
        assert not claim.size_source
    else:
        assert claim.size * claim.sign > claim.margin and not claim.relative
        assert claim.size_source


def test_names_and_texts_are_unique():
    assert len(BY_NAME) == len({claim.text for claim in CLAIMS}) == len(CLAIMS)


def test_sizes_are_the_differences_of_the_published_tables():
    ablation = paper_table("abdnet_table1_ablation").set_index("method")["market1501_map"]
    checked = 0
    for claim in CLAIMS:
        titles = [title_of(row) for row in (claim.first, claim.second)] if claim.measure == "map" else [""]
        if set(titles) <= set(ablation.index):
            before, after = ablation[titles[1]], ablation[titles[0]]
            assert claim.size == pytest.approx((after - before) / 100), claim.name
            assert claim.size_source.startswith("Market-1501")
            shown = claim.size_source.removeprefix("Market-1501, ").split(" → ")
            assert [float(number) for number in shown] == [before, after], claim.name
            checked += 1
    assert checked == 9
    correlation = paper_table("abdnet_channel_correlation").set_index("model")["mean_channel_correlation"]
    plain, attention, diverse = (
        correlation[name] for name in ("Baseline", "Baseline + PAM + CAM", "ABD-Net")
    )
    assert BY_NAME["attention correlates"].size == pytest.approx(attention - plain)
    assert BY_NAME["diversity decorrelates"].size == pytest.approx(diverse - attention)
    reranked = paper_table("pfsa_table1").set_index("method").loc["Parameter-Free Spatial Attention"]
    readers = paper_table("public_reproductions_market1501").set_index("setting")["map"]
    without = readers["authors' released weights"]
    assert BY_NAME["re-ranking"].size == pytest.approx((reranked["market1501_map"] - without) / 100)


def test_switches_compare_the_other_side_with_the_released_one():
    claims = [claim for claim in CLAIMS if claim.question == PAPER_OR_CODE]
    assert {claim.first.split(".")[1] for claim in claims} == {
        "of-squared", "sa-normalization", "classes", "erasing",
    }  # fmt: skip
    for claim in claims:
        other, released = VARIANTS[claim.first], VARIANTS[claim.second]
        assert claim.second.endswith(f".{RELEASED}") and other.differs_from == released.differs_from
        assert other.by != released.by
