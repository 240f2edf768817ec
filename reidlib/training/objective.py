"""The losses, the optimiser and the learning rate of a training step, made from an experiment's settings."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from reidlib import losses
from reidlib.experiment import Experiment
from reidlib.models.backbone import ReidNetwork, ReidOutput
from reidlib.training.parallel import ALONE, Share
from reidlib.training.schedule import cosine_with_rise

# Weights of the parts' losses and of the others, in the log of the released spatial-attention code.
WEIGHTED_LOG = (0.8, 0.2)


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
    """The weighted loss terms that this experiment has in this epoch.

    All terms: L = L_xent + β_tr·L_triplet + β_OF·L_OF + β_OW·L_OW.

    Args:
        output: of this process's share of the batch.
        target: (B,) labels of the whole batch.
        epoch: counted from the end of the warm-up; negative during the warm-up.
        starts: draws the start vectors of the power iterations, the same in every process. None: torch's
            global generator.
        share: which part of the batch this process has. Averaged over processes, the terms' gradients are
            those of the whole batch. Hardest positives and negatives come from the whole batch.
    """
    own = target[share.of(len(target))]
    terms = {
        "cross_entropy": losses.cross_entropy(
            output.logits, own, label_smoothing=experiment.label_smoothing, reduction=experiment.heads
        )
    }
    if experiment.triplet_weight:
        heads = [share.gathered(head.float()) for head in output.head_embeddings]
        triplets = [
            share.scaled(losses.batch_hard_triplet(head, target, margin=experiment.triplet_margin))
            for head in heads
        ]
        terms["triplet"] = experiment.triplet_weight * sum(triplets) / len(triplets)
    power = {"estimator": experiment.eigenvalues, "iterations": experiment.power_steps, "generator": starts}
    if experiment.of_weight and epoch >= experiment.of_start_epoch:
        terms["orthogonal_features"] = losses.orthogonality_features(
            output.feature_maps,
            weight=experiment.of_weight,
            squared=experiment.of_squared,
            smaller_side=experiment.of_smaller_side,
            factors=of_factors(experiment),
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


def of_factors(experiment: Experiment) -> dict[str, float]:
    """Position of O.F. → its factor, in the order in which start vectors are drawn."""
    own = {**losses.FEATURE_POSITIONS, "intermediate": experiment.of_intermediate_weight}
    return {position: own[position] for position in own if position in experiment.of_positions}


@torch.no_grad()
def weighted_loss(experiment: Experiment, output: ReidOutput, target: torch.Tensor) -> torch.Tensor:
    """0.8 · mean over the parts + 0.2 · mean over all other heads: what the released PFSA code logs.

    That code trains on the plain sum. At uniform logits over 751 classes, the logged loss is ln 751 = 6.62.
    """
    groups = (output.logits[: experiment.parts], output.logits[experiment.parts :])
    return sum(
        share * losses.cross_entropy(heads, target, label_smoothing=experiment.label_smoothing)
        for share, heads in zip(WEIGHTED_LOG, groups, strict=True)
    )


def make_optimizer(experiment: Experiment, model: ReidNetwork) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum. The pretrained layers get `trunk_rate` × the new layers' rate.

    Its parameters are the model's, trunk first, as they lie in memory (`as_stored`). Before each step,
    `give_gradients` hands it their gradients.
    """
    groups = [
        {"params": list(map(as_stored, model.trunk_parameters())), "rate": experiment.trunk_rate},
        {"params": list(map(as_stored, model.new_parameters())), "rate": 1.0},
    ]
    common = {"lr": experiment.learning_rate, "weight_decay": experiment.weight_decay}
    if experiment.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True, **common)
    momentum = {"momentum": experiment.momentum, "nesterov": experiment.momentum > 0}
    return torch.optim.SGD(groups, fused=True, **momentum, **common)


def as_stored(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter; if it lies channels last, a contiguous view (O, k, k, C) of the same numbers.

    On a CPU, PyTorch's fused optimisers copy every tensor that is not contiguous, twice a step.
    """
    if parameter.is_contiguous():
        return parameter
    return nn.Parameter(parameter.detach().permute(0, 2, 3, 1))


def give_gradients(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Gives the optimiser's views the gradients of the parameters that they show, without a copy.

    Args:
        parameters: those from which the optimiser was made, in its order.
    """
    views = [view for group in optimizer.param_groups for view in group["params"]]
    for view, parameter in zip(views, parameters, strict=True):
        if view is not parameter:
            gradient = parameter.grad
            view.grad = None if gradient is None else gradient.permute(0, 2, 3, 1).contiguous()


def learning_rate(experiment: Experiment, epoch: float) -> float:
    """The rate of the new layers at a (fractional) epoch counted from the end of the warm-up."""
    if experiment.schedule == "steps":
        return experiment.learning_rate * 0.1 ** sum(
            epoch >= milestone for milestone in experiment.milestones
        )
    return experiment.learning_rate * cosine_with_rise(epoch, experiment.epochs)


def freeze_trunk(model: ReidNetwork, frozen: bool) -> None:
    """Freezes the pretrained layers for the warm-up, or unfreezes them.

    Frozen layers change neither weights nor batch statistics; gradients still pass through them.
    """
    for parameter in model.trunk_parameters():
        parameter.requires_grad_(not frozen)
    for module in model.trunk_modules():
        module.train(not frozen)
