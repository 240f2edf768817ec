"""Says whether a run learned: whether its training loss has left its start.

A network that has learned nothing about a person can still learn how many images each has. The cross-entropy
of that guess is the entropy of the labels: ln(people) where all have as many. Scores of such a network are
scores of its first weights, not of the method.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.stats
import torch

from reidlib.experiment import Experiment
from reidlib.models.backbone import ReidNetwork

# A run learned if the last epoch's cross-entropy is at most this share of the guess's.
LEFT_ITS_START = 0.98


def learning_facts(
    experiment: Experiment, model: ReidNetwork, last_epoch: Mapping[str, float], labels: np.ndarray
) -> dict[str, Any]:
    """The entries of metrics.json that say whether a run learned.

    The guess is among the people in training, whatever `classes` is: that a class without images never
    occurs is no knowledge of a person.

    Args:
        model: the run's network.
        last_epoch: the last row of curves.csv, whose cross_entropy joins the heads as `experiment.heads`
            says.
        labels: of the training images.

    Returns:
        learned (bool); last_cross_entropy, the mean over the heads; guess_cross_entropy.
    """
    loss = last_epoch["cross_entropy"]
    if experiment.heads == "sum":
        loss /= count_heads(model, experiment.height, experiment.width)
    guess = label_entropy(labels)
    return {
        "learned": loss <= LEFT_ITS_START * guess,
        "last_cross_entropy": loss,
        "guess_cross_entropy": guess,
    }


def label_entropy(labels: np.ndarray) -> float:
    """The entropy of the labels' frequencies, in nats."""
    _, counts = np.unique(labels, return_counts=True)
    return float(scipy.stats.entropy(counts))


@torch.inference_mode()
def count_heads(model: ReidNetwork, height: int, width: int) -> int:
    """The number of the network's classifiers, counted in its output. Leaves it in eval mode."""
    image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    return len(model.eval()(image).logits)
