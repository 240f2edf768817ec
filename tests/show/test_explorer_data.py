import numpy as np
import pandas as pd
import pytest

from reidlib.show.explorer import precision_pairs, ranges, ranges_sentence, telling_order


def test_queries_on_which_models_differ_come_first():
    precision = np.array([[1.0, 0.5, 0.2, np.nan, 0.4], [0.9, 0.5, 0.9, 0.1, 0.4]])
    ranks = np.array([[1, 2, 5, 1, 1], [1, 2, 1, 9, np.nan]])
    assert telling_order(ranks, precision).tolist() == [2, 0, 1], "those without a match are left out"


def test_how_often_models_differ():
    frame = pd.DataFrame(
        {"A": [10.0, 50.0, 90.0, np.nan], "B": [20.0, 45.0, 10.0, 5.0], "C": [20.0, 50.0, 99.0, 1]}
    )
    table = ranges(frame)
    assert table[["model", "against"]].to_numpy().tolist() == [["B", "A"], ["C", "A"], ["C", "B"]]
    assert table["better (%)"].tolist() == pytest.approx([100 / 3, 100 / 3, 25])
    assert table["worse (%)"].tolist() == pytest.approx([100 / 3, 0, 0])
    assert table["median difference"].tolist() == [-5, 9, 2.5]
    sentence = ranges_sentence(table)
    assert "B is better than A by 10 points of average precision or more on 33 % of the queries" in sentence
    figure = precision_pairs(frame, table)
    assert len(figure.axes) == 3 and sentence in figure.get_label()
