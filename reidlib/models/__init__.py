"""The networks of the study.

    from reidlib.models import build_model
    model = build_model("abdnet", num_classes=751, pretrained=True)
    model(images).embedding     # images (B, 3, H, W) → (B, D); also logits, head_embeddings, feature_maps

`build_model` makes one from a method's name; the classes can also be used directly. `backbone` cuts a ResNet
into parts, `attention` has all attention layers, and `abdnet` and `pfsa` are one network each, with the paper
in the header. `networks` makes them from an Experiment. `cifar_resnet` is for the classification only.
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
