"""What a call says and checks before it trains: how many runs, on how much disk, and from which weights.

What cannot be, such as weights that cannot be downloaded, is refused for every run at once and not at the
start of each.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace

from reidlib.config import experiment_for
from reidlib.errors import ReidError
from reidlib.experiment import Experiment
from reidlib.study.fingerprints import StepPlan
from reidlib.study.results import Study

TRAINS = "10_train"
ANNOUNCED = "paper"  # the profile whose runs take hours each


class DiskError(ReidError):
    """The runs will not fit on the disk."""


def check_runs(plans: Sequence[StepPlan], study: Study, workers: int) -> list[str]:
    """Checks what all runs that are to be made need. Returns what to say of them, as lines.

    Args:
        workers: runs at a time, each with a checkpoint while it trains.

    Raises:
        ReidError: ImageNet weights cannot be downloaded, or the disk has too little space.
    """
    experiments = [
        _experiment(plan) for plan in plans if plan.reason and plan.step.notebook == TRAINS and _trains(plan)
    ]
    for backbone in sorted({one.backbone for one in experiments if one.pretrained is True}):
        from reidlib.models.backbone import BACKBONES, download_weights  # imports torch

        download_weights(BACKBONES[backbone][1])
    if not experiments or study.profile != ANNOUNCED:
        return []
    weights = [_bytes_of_weights(one) for one in experiments]
    # Weights and optimiser, twice: a checkpoint is written before it replaces the last one.
    checkpoints = 6 * max(weights) * min(workers, len(experiments))
    needed = sum(weights) + checkpoints
    there = next(place for place in (study.root, *study.root.parents) if place.exists())
    free = shutil.disk_usage(there).free
    sizes = (
        f"{needed / 1e9:.1f} GB: {sum(weights) / 1e9:.1f} GB for weights that stay, up to "
        f"{checkpoints / 1e9:.1f} GB for checkpoints while they train"
    )
    if needed > free:
        raise DiskError(
            f"{study.root}: {len(experiments)} runs need {sizes}, and {free / 1e9:.1f} GB are "
            "free. Make room there, or name another folder with --results."
        )
    epochs = sum(one.warmup_epochs + one.epochs for one in experiments)
    return [
        f"{len(experiments)} runs are to be trained, {epochs} epochs together, {workers} at a time. They "
        f"take {sizes}; {free / 1e9:.1f} GB are free. How long they take is said after the first epoch."
    ]


_LABELS = ("method", "dataset", "profile", "seed")


def _trains(plan: StepPlan) -> bool:
    """Whether the step's parameters are those of a run, and not of released weights."""
    return {*_LABELS} <= plan.step.parameters.keys() and not plan.step.parameters.get("checkpoint")


def _experiment(plan: StepPlan) -> Experiment:
    own = {name: plan.step.parameters[name] for name in _LABELS}
    return experiment_for(own.pop("method"), **own, **plan.step.parameters.get("overrides", {}))


def _bytes_of_weights(experiment: Experiment) -> int:
    """Of one run, with the thousand people that no data set here has more than by much."""
    import torch

    from reidlib.models.networks import model_from_experiment

    plain = replace(experiment, pretrained=False, start_from="")
    with torch.device("meta"):
        model = model_from_experiment(plain, 1000)
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())
