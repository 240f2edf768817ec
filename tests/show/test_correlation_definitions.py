"""Definitions of S(Corr) against the published ratios: which is nearest, and which cannot be compared."""

import math

import numpy as np
import pandas as pd
import pytest

from reidlib.evaluation.channels import ABSOLUTE, EACH, IMAGES, LAST, POOLED, SIGNED
from reidlib.show.correlation_definitions import (
    ATTENTION,
    BASELINE,
    DIVERSITY,
    alternatives_sentence,
    chance_correlation,
    compared_alternatives,
)


def definitions(**values):
    """Row → its table with three definitions: ours, the signed one, the pooled map."""
    keys = [(LAST, ABSOLUTE, EACH), (LAST, SIGNED, EACH), (POOLED, ABSOLUTE, IMAGES)]
    rows = dict(zip((BASELINE, ATTENTION, DIVERSITY), zip(*values.values(), strict=True), strict=True))
    columns = ["map", "correlation", "over", "value"]
    return {
        row: pd.DataFrame([(*key, value) for key, value in zip(keys, own, strict=True)], columns=columns)
        for row, own in rows.items()
    }


def test_the_definition_nearest_to_the_published_ratios_is_named():
    found = definitions(ours=(0.2, 0.4, 0.2), signed=(0.001, 0.00751, 0.0044), pooled=(0.05, 0.4, 0.2))
    table = compared_alternatives(found)
    assert table["attention / baseline"].tolist() == pytest.approx([2, 7.51, 8])
    assert table["diversity / attention"].tolist() == pytest.approx([0.5, 0.0044 / 0.00751, 0.5])
    published = (0.368 / 0.049, 0.214 / 0.368)
    apart = [abs(math.log2(ratio / published[0])) + abs(math.log2(0.5 / published[1])) for ratio in (2, 8)]
    assert table["apart"].tolist() == pytest.approx([apart[0], math.nan, apart[1]], nan_ok=True)
    said = alternatives_sentence(table)
    assert "The published ratios are 7.51 and 0.58" in said
    assert "Of 2 definitions by which all three models have 0.01 or more" in said
    assert "nearest is the absolute correlation of the pooled last map over the images: 8.00 and 0.50" in said
    assert "of the last map over the places of each image) is number 2: 2.00 and 0.50" in said
    assert "By 2 of the 2, attention makes channels more alike" in said


def test_ours_may_be_the_nearest_and_few_definitions_need_agree():
    found = definitions(ours=(0.05, 0.4, 0.2), signed=(0.2, 0.1, 0.1), pooled=(0.2, 0.4, 0.5))
    said = alternatives_sentence(compared_alternatives(found))
    assert "That is the definition used here." in said and "number" not in said
    assert "By 1 of the 3" in said


def test_without_one_of_the_models_nothing_is_compared():
    found = definitions(ours=(0.05, 0.4, 0.2), signed=(0.2, 0.1, 0.1), pooled=(0.2, 0.4, 0.5))
    del found[ATTENTION]
    table = compared_alternatives(found)
    assert table["apart"].isna().all() and table["ABD-Net (XE)"].tolist() == [0.2, 0.1, 0.5]
    assert "No definition can be compared" in alternatives_sentence(table)


def test_chance_correlates_what_is_unrelated():
    one, other = np.random.default_rng(0).standard_normal((2, 4000, 192))
    found = np.mean([abs(np.corrcoef(*pair)[0, 1]) for pair in zip(one, other, strict=True)])
    assert chance_correlation(192) == pytest.approx(found, rel=0.03)
    found = definitions(ours=(0.05, 0.4, 0.2), signed=(0.2, 0.1, 0.1), pooled=(0.2, 0.4, 0.5))
    assert "0.049 of the baseline is less than" in alternatives_sentence(compared_alternatives(found))
