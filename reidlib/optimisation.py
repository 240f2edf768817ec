"""What a step minimises, and with which optimiser and rate: settings as losses, parameter groups and a schedule."""

import math
from collections.abc import Mapping

import torch

from reidlib import losses
from reidlib.config import Experiment
from reidlib.models import ReidNetwork, ReidOutput
from reidlib.parallel import ALONE, Share

WEIGHTED_LOG = (0.8, 0.2)  # of the parts' losses and of the others, in the log of the released spatial-attention code


def loss_terms(
    experiment: Experiment,
    model: ReidNetwork,
    output: ReidOutput,
    target: torch.Tensor,
    epoch: int,
    *,
    starts: torch.Generator | None = None,
    share: Share = ALONE,
) -> Mapping[str, torch.Tensor]:
    """The weighted terms of L = L_xent + β_tr·L_triplet + β_OF·L_OF + β_OW·L_OW that this experiment has in this epoch.

    Args:
        output: of this process's share of the batch.
        target: (B,) labels of the whole batch.
        epoch: counted from the end of the warm-up, negative in it.
        starts: of the power iterations' start vectors; the same in every process. None: torch's global generator.
        share: which part of the batch this process has. The mean over processes of the terms' gradients is the gradient of the
            whole batch's terms; hardest positives and negatives are looked for in the whole batch.
    """
    own = target[share.of(len(target))]
    terms = {
        "cross_entropy": losses.cross_entropy(
            output.logits, own, label_smoothing=experiment.label_smoothing, reduction=experiment.heads
        )
    }
    if experiment.triplet_weight:
        heads = [share.gathered(head.float()) for head in output.head_embeddings]
        triplets = [share.scaled(losses.batch_hard_triplet(head, target, margin=experiment.triplet_margin)) for head in heads]
        terms["triplet"] = experiment.triplet_weight * sum(triplets) / len(triplets)
    power = {"estimator": experiment.eigenvalues, "iterations": experiment.power_steps, "generator": starts}
    if experiment.of_weight and epoch >= experiment.of_start_epoch:
        terms["orthogonal_features"] = losses.orthogonality_features(
            output.feature_maps,
            weight=experiment.of_weight,
            squared=experiment.of_squared,
            smaller_side=experiment.of_smaller_side,
            batch=len(target),
            part=share.of(len(target)),
            **power,
        )
    if experiment.ow_weight and epoch >= 0:
        weights = losses.orthogonality_targets(model, reach=experiment.ow_reach)
        terms["orthogonal_weights"] = losses.orthogonality_weights(
            weights, weight=experiment.ow_weight, factor=experiment.ow_factor, **power
        )
    return terms


@torch.no_grad()
def weighted_loss(experiment: Experiment, output: ReidOutput, target: torch.Tensor) -> torch.Tensor:
    """What the released spatial-attention code logs, though it trains the plain sum: 0.8 · parts + 0.2 · all other heads."""
    per_head = [
        losses.cross_entropy([logits], target, label_smoothing=experiment.label_smoothing, reduction="sum")
        for logits in output.logits
    ]
    of_parts, of_others = WEIGHTED_LOG
    return of_parts * sum(per_head[: experiment.parts]) + of_others * sum(per_head[experiment.parts :])


def make_optimizer(experiment: Experiment, model: ReidNetwork) -> torch.optim.Optimizer:
    """Adam or Nesterov SGD with two groups: the pretrained layers at `trunk_rate` × the rate, and the new ones."""
    groups = [
        {"params": model.trunk_parameters(), "rate": experiment.trunk_rate},
        {"params": model.new_parameters(), "rate": 1.0},
    ]
    common = {"lr": experiment.learning_rate, "weight_decay": experiment.weight_decay}
    if experiment.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True, **common)
    momentum = {"momentum": experiment.momentum, "nesterov": experiment.momentum > 0}
    return torch.optim.SGD(groups, fused=True, **momentum, **common)


def learning_rate(experiment: Experiment, epoch: float) -> float:
    """The rate of the new layers at a (fractional) epoch counted from the end of the warm-up."""
    if experiment.schedule == "steps":
        return experiment.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in experiment.milestones)
    rise = min(2.0, experiment.epochs / 5)
    if epoch < rise:
        return experiment.learning_rate * (0.1 + 0.9 * epoch / rise)
    return experiment.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - rise) / max(experiment.epochs - rise, 1e-9)))


def freeze_trunk(model: ReidNetwork, frozen: bool) -> None:
    """While warming up, the pretrained layers neither learn nor gather statistics; gradients still cross them."""
    for parameter in model.trunk_parameters():
        parameter.requires_grad_(not frozen)
    for module in model.trunk_modules():
        module.train(not frozen)
