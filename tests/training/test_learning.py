"""Whether a run learned, by hand: 0.98 of a guess's cross-entropy is the line, counted per classifier."""

import math

import numpy as np
import pytest
from run_helpers import tiny

from reidlib.models.networks import model_from_experiment
from reidlib.training.learning import label_entropy, learning_facts

PEOPLE = 8


def facts(method, loss, **settings):
    """The facts of a run whose last epoch has this cross-entropy, in guesses of ln 8."""
    experiment = tiny(method, **settings)
    model = model_from_experiment(experiment, PEOPLE)
    labels = np.repeat(np.arange(PEOPLE), 3)
    return learning_facts(experiment, model, {"cross_entropy": loss * math.log(PEOPLE)}, labels)


@pytest.mark.parametrize(
    ("method", "settings", "heads"),
    [
        ("baseline", {}, 1),  # three heads, of which the loss is the mean
        ("gap", {}, 1),
        ("pfsa", {}, 10),  # six parts, three of deep supervision and one on their mean: the loss is the sum
        ("pfsa", {"deep_supervision": False, "spatial_attention": "none"}, 7),
        ("pfsa", {"heads": "mean"}, 1),
        ("baseline", {"classes": 751}, 1),  # still a guess among eight people
    ],
)
def test_the_loss_is_compared_with_a_guess_among_the_people_for_each_head(method, settings, heads):
    for share, learned in ((1.5, False), (1.0, False), (0.99, False), (0.97, True), (0.1, True)):
        assert facts(method, heads * share, **settings) == {
            "learned": learned,
            "last_cross_entropy": pytest.approx(share * math.log(PEOPLE)),
            "guess_cross_entropy": pytest.approx(math.log(PEOPLE)),
        }


def test_a_guess_knows_how_many_images_each_person_has():
    assert label_entropy(np.array([4, 4, 9, 9])) == pytest.approx(math.log(2))
    assert label_entropy(np.array([0, 0, 0, 1])) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
