"""The networks of the study.

`build_model` makes one from a method's name; the classes can also be used directly.
"""

from pathlib import Path

from reidlib.config import experiment_for
from reidlib.models.abdnet import ABDNet
from reidlib.models.backbone import ReidNetwork, ReidOutput
from reidlib.models.networks import FAMILIES, model_from_experiment
from reidlib.models.pfsa import PFSANet
from reidlib.settings import choose

__all__ = ["ABDNet", "PFSANet", "ReidNetwork", "ReidOutput", "build_model", "model_from_experiment"]


def build_model(
    method: str, num_classes: int, *, pretrained: bool | str | Path = False, **overrides
) -> ReidNetwork:
    """The network of a method (a key of `reidlib.config.METHODS`), with some of its settings overridden.

    Args:
        pretrained: False, True (torchvision's ImageNet weights) or the path of a state-dict file.
        overrides: settings of `Experiment` that shape this method's network, such as backbone="resnet18".

    Raises:
        ReidError: an unknown method or setting.
    """
    _, settings = FAMILIES[experiment_for(method).family]
    for name in overrides:
        choose(f"setting of {method}'s network", name, settings)
    weights = str(pretrained) if isinstance(pretrained, Path) else pretrained
    return model_from_experiment(experiment_for(method, pretrained=weights, **overrides), num_classes)
