"""Makes a network from settings: the class of each family, and the settings it takes."""

from reidlib.experiment import Experiment
from reidlib.models.abdnet import ABDNet
from reidlib.models.backbone import ReidNetwork
from reidlib.models.pfsa import PFSANet
from reidlib.settings import ConfigError

# Family → (its class, {field of Experiment: argument of the constructor}).
_SHARED = {name: name for name in ("backbone", "last_stride", "dropout", "pretrained")}
_ABDNET = (
    "cam",
    "pam",
    "shallow_cam",
    "attention_heads",
    "global_branch",
    "global_pooling",
    "attentive_branch",
    "stripes",
    "embedding_dim",
    "reduced_dim",
    "head_dim",
)
_ABDNET_SWITCHES = (
    "pam_form",
    "cam_most_similar_first",
    "before_head",
    "attention_per_stripe",
    "branch_order",
)
FAMILIES = {
    "abdnet": (ABDNet, _SHARED | {name: name for name in (*_ABDNET, *_ABDNET_SWITCHES)}),
    "pfsa": (
        PFSANet,
        _SHARED
        | {
            name: name
            for name in ("parts", "part_classifiers", "deep_supervision", "spatial_attention", "feature_dim")
        }
        | {"sa_normalization": "normalization"},
    ),
}


def model_from_experiment(experiment: Experiment, num_identities: int) -> ReidNetwork:
    """The network that an Experiment describes.

    Args:
        num_identities: people in training; the number of classes, unless `experiment.classes` fixes it.

    Raises:
        ConfigError: the experiment fixes fewer classes than there are people.
    """
    if experiment.classes and experiment.classes < num_identities:
        raise ConfigError(
            f"classes = {experiment.classes} are too few for {num_identities} people in training: "
            "set 0, which follows the data."
        )
    network, settings = FAMILIES[experiment.family]
    arguments = {argument: getattr(experiment, field) for field, argument in settings.items()}
    return network(experiment.classes or num_identities, **arguments)
