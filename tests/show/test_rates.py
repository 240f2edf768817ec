"""Which learning rate the grid on held-out people chooses, on grids made by hand."""

import pandas as pd
import pytest

from reidlib.show.rates import RATES, chosen_rates, rates_table

GUESS = 5.0


def grid(*lines):
    """Lines of (rate, method, cross-entropy, mAP on held-out people)."""
    columns = ["learning_rate", "method", "cross_entropy", "validation_map"]
    fixed = {"dataset": "synthetic", "weights": "random", "family": "pfsa", "optimizer": "sgd"}
    return pd.DataFrame(lines, columns=columns).assign(**fixed, uniform_guess=GUESS)


@pytest.mark.parametrize(
    ("lines", "rate"),
    [
        # the highest average over the rows, not the highest score
        ([(0.1, "gap", 1, 0.5), (0.1, "pfsa", 1, 0.5), (0.3, "gap", 1, 0.8), (0.3, "pfsa", 1, 0.1)], 0.1),
        # within a point of the best: the lowest
        ([(0.1, "gap", 1, 0.595), (0.3, "gap", 1, 0.6), (0.03, "gap", 1, 0.58)], 0.1),
        # a rate with which more rows learn, whatever the scores
        (
            [(0.1, "gap", 4.95, 0.9), (0.1, "pfsa", 1, 0.9), (0.3, "gap", 4.8, 0.1), (0.3, "pfsa", 4.8, 0.1)],
            0.3,
        ),
        # tried with one of the rows only: it shows something of that row, and is no choice for the family
        ([(0.1, "gap", 1, 0.5), (0.1, "gap+sa1", 4.99, 0.1), (10, "gap+sa1", 1, 0.9)], 0.1),
        # nothing learned: by score alone
        ([(0.1, "gap", 4.99, 0.1), (0.3, "gap", 4.99, 0.2)], 0.3),
    ],
)
def test_the_rule(lines, rate):
    chosen = chosen_rates(grid(*lines))
    assert chosen["learning_rate"].tolist() == [rate]


def test_the_table_marks_the_chosen_rate_and_rows_that_did_not_learn(tmp_path):
    made = grid((0.1, "gap", 4.95, 0.1), (0.1, "pfsa", 1, 0.5), (0.3, "gap", 4.95, 0.1))
    made.to_csv(tmp_path / "rates.csv", index=False)
    table = rates_table(tmp_path / "rates.csv").set_index("row")
    assert table.columns.tolist() == ["data", "initial weights", "optimiser", "0.1", "0.3"]
    assert table.loc["GAP", ["0.1", "0.3"]].tolist() == ["10.0 ✗ ✓", "10.0 ✗"]
    assert table.loc["P + DS with SA₂ (published)", ["0.1", "0.3"]].tolist() == ["50.0 ✓", "–"]


def test_the_small_profiles_have_the_rates_that_the_committed_grid_chooses():
    from reidlib.config import experiment_for

    chosen = chosen_rates(pd.read_csv(RATES))
    own = chosen[(chosen["dataset"] == "synthetic") & (chosen["weights"] == "random")].set_index("family")
    for family, method in (("abdnet", "baseline"), ("pfsa", "pfsa")):
        experiment = experiment_for(method, profile="demo", dataset="synthetic")
        assert experiment.learning_rate == own.loc[family, "learning_rate"]
