"""The networks of the study. `build_model` makes one from a method's name; the classes can be used directly."""

from pathlib import Path

from reidlib.config import ConfigError, Experiment, choose, experiment_for
from reidlib.models.abdnet import ABDNet
from reidlib.models.backbone import ReidNetwork, ReidOutput
from reidlib.models.pfsa import PFSANet

__all__ = ["ABDNet", "PFSANet", "ReidNetwork", "ReidOutput", "build_model", "model_from_experiment"]

# Per family its class and, as Experiment's field → constructor's argument, the settings that it takes.
_SHARED = {name: name for name in ("backbone", "last_stride", "dropout", "pretrained")}
_ABDNET = ("cam", "pam", "shallow_cam", "attentive_branch", "stripes", "embedding_dim", "reduced_dim", "head_dim")
_ABDNET_SWITCHES = ("cam_most_similar_first", "before_head", "attention_per_stripe", "branch_order")
FAMILIES = {
    "abdnet": (ABDNet, _SHARED | {name: name for name in (*_ABDNET, *_ABDNET_SWITCHES)}),
    "pfsa": (
        PFSANet,
        _SHARED
        | {name: name for name in ("parts", "deep_supervision", "spatial_attention", "feature_dim", "global_bottleneck")}
        | {"sa_normalization": "normalization"},
    ),
}


def build_model(method: str, num_classes: int, *, pretrained: bool | str | Path = False, **overrides) -> ReidNetwork:
    """The network of a method (a key of `reidlib.config.METHODS`), with some of its settings overridden.

    pretrained: False, True (torchvision's ImageNet weights) or the path of a state-dict file. overrides: those of Experiment's
    settings that shape this method's network, such as backbone="resnet18". Raises ReidError for an unknown method or setting.
    """
    _, settings = FAMILIES[experiment_for(method).family]
    for name in overrides:
        choose(f"setting of {method}'s network", name, settings)
    return model_from_experiment(experiment_for(method, pretrained=pretrained, **overrides), num_classes)


def model_from_experiment(experiment: Experiment, num_identities: int) -> ReidNetwork:
    """The network that an Experiment describes, for that many people in training (or the number of classes that it fixes).

    Raises:
        ConfigError: the experiment fixes fewer classes than there are people.
    """
    if experiment.classes and experiment.classes < num_identities:
        raise ConfigError(
            f"classes = {experiment.classes} are too few for {num_identities} people in training: set 0, which follows the data."
        )
    network, settings = FAMILIES[experiment.family]
    arguments = {argument: getattr(experiment, field) for field, argument in settings.items()}
    return network(experiment.classes or num_identities, **arguments)
