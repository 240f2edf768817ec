"""What is run: `Experiment` (every setting of one run), `METHODS` (every row of every table, each as a small difference
from another row), `VARIANTS` (a row with one switch between paper and released code thrown) and `PROFILES` (how large the study
is).

Settings are resolved in layers, later ones winning: the defaults of `Experiment` → the method's chain of differences → the
profile → a variant's side → the caller's overrides. Numbers without a comment are those of the papers' released code.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from reidlib.errors import ReidError
from reidlib.switches import SIDES, SWITCHES, Switch


class ConfigError(ReidError):
    """An unknown or impossible setting."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, completely: the same experiment on the same data gives the same numbers.

    Raises:
        ConfigError: a value is of the wrong type or outside its range.
    """

    method: str = "baseline"
    dataset: str = "market1501"
    profile: str = "paper"
    seed: int = 0

    # network, both papers
    family: str = "abdnet"  # abdnet | pfsa
    backbone: str = "resnet50"  # resnet18 | resnet34 | resnet50
    pretrained: bool | str = True  # ImageNet weights: True (torchvision's), False, or the path of a state dict
    last_stride: int = 1
    height: int = 384  # pixels
    width: int = 128
    # ABD-Net
    attentive_branch: bool = True
    stripes: int = 2
    pam: bool = False  # position attention
    cam: bool = False  # channel attention
    shallow_cam: bool = False  # channel attention on layer1's output
    cam_most_similar_first: bool = False  # False: the most similar channels get the least weight, as released
    before_head: bool = True  # the plain path passes through a head too, as released; False: a straight line, as drawn
    attention_per_stripe: bool = True  # as released; False: on the whole map, which is cut into stripes after it, as drawn
    branch_order: str = "global-first"  # global-first | attentive-first: also the embedding's order
    embedding_dim: int = 1024
    reduced_dim: int = 1024
    head_dim: int = 512
    dropout: float = 0.5
    # Parameter-free spatial attention
    parts: int = 0  # horizontal stripes with a classifier each; 0: global average pooling and one classifier
    deep_supervision: bool = False
    spatial_attention: str = "none"  # none | sa1 (final map) | sa2 (deep supervision) | sa1+sa2
    sa_normalization: str = "sum"  # sum: channel mean over its sum, as released; softmax: as the paper writes
    feature_dim: int = 256  # channels before the classifiers of parts, deep supervision and the global bottleneck
    global_bottleneck: bool = False  # without parts, a 1×1 convolution to feature_dim before the global classifier
    classes: int = 0  # outputs of every classifier; 0: the people in training; the released code has 751 whatever the data

    # losses
    label_smoothing: float = 0.1
    heads: str = "mean"  # how the heads' cross-entropies are joined: mean | sum
    triplet_weight: float = 0.0
    triplet_margin: float = 1.2
    of_weight: float = 0.0  # orthogonality of features
    of_start_epoch: int = 23  # counted from 0, after the warm-up
    of_squared: bool = False  # False: β (λ₁ − λ₂), as released; True: its square, as the paper writes
    of_smaller_side: bool = False  # True: λ₂ of the smaller of FFᵀ and FᵀF, which is not 0 for want of rank
    ow_weight: float = 0.0  # orthogonality of weights
    ow_reach: str = "stem"  # stem: the one convolution that the released code reaches; backbone: all of them, as the paper says
    ow_factor: float = 10.0  # before the squared spread, as released; the paper has 1
    eigenvalues: str = "rayleigh"  # rayleigh: one step and pᵀXp / pᵀp, as released; norm_ratio: ‖q‖ / ‖p‖, as the paper writes
    power_steps: int = 1  # rounds of the power iteration
    log_weighted_loss: bool = False  # log 0.2 · (deep supervision and global) + 0.8 · parts too, as the released code does

    # optimisation
    optimizer: str = "adam"  # adam | sgd (Nesterov)
    learning_rate: float = 3e-4
    trunk_rate: float = 1.0  # learning rate of the pretrained layers relative to the new ones
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = (
        "steps"  # steps: × 0.1 at each milestone; cosine: to zero, after a linear rise over two epochs or a fifth of all
    )
    milestones: tuple[int, ...] = (20, 40)  # epochs, counted from 0
    warmup_epochs: int = 10  # before epoch 0: only the new layers train
    epochs: int = 80
    steps_per_epoch: int = 0  # 0: once through the training set
    batch_size: int = 64
    images_per_identity: int = 0  # 0: shuffled images; K: batch_size / K people with K images each
    crop_probability: float = 0.5  # resize to 1.125 × the size and crop back
    flip_probability: float = 0.5
    erase_probability: float = 0.5
    precision: str = "auto"  # auto: bfloat16 where the hardware has it | float32 | bfloat16
    compile: bool = False  # torch.compile: minutes at the start, faster steps
    deterministic: bool = False  # on a GPU, the same bits every time at some cost; on a CPU it is always so
    processes: int = 1  # each takes its share of every batch: a GPU each, or cores of the CPU
    sync_batch_norm: bool = False  # batch statistics over the shares of all processes (GPUs only)

    # validation, on people held out of the training set
    validation_identities: int = 0  # how many; they are not trained on
    validate_every: int = 0  # epochs between two looks at them; 0: after the last one only

    # evaluation
    flip_evaluation: bool = True  # embeddings of image and mirror image averaged
    rerank: bool = False  # score after k-reciprocal re-ranking too
    rerank_merge_threshold: float = 0.0  # overlap over which neighbourhoods merge: 0 as released (Python 2), 2/3 as published
    rerank_half_precision: bool = True  # as released
    score_test_every: int = 0  # epochs between looks at the test set, for the curves; 0: after the last one only
    report_epoch: str = "last"  # last | best_on_test: the first with the highest rank-1, as released | best_on_validation: mAP

    # what is kept beside, without effect on any number
    keep_every: int = 0  # epochs between weights that stay as epoch-<number>.pt; 0: none
    tensorboard: bool = False  # the curves for TensorBoard, too

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "milestones":
                good = isinstance(value, tuple | list) and all(type(epoch) is int and epoch > 0 for epoch in value)
                object.__setattr__(self, "milestones", tuple(value) if good else value)
            elif item.type is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, item.name, float(value))
                good = True
            else:
                good = isinstance(value, item.type) and (
                    item.type is bool or item.name == "pretrained" or not isinstance(value, bool)
                )
            if not good:
                expected = "whole numbers above 0" if item.name == "milestones" else _IN_WORDS.get(item.type, str(item.type))
                raise ConfigError(f"{item.name} = {value!r}: expected {expected}, got {type(value).__name__}.")
        for name, (accepts, expected) in _RULES.items():
            if not accepts(getattr(self, name)):
                raise ConfigError(f"{name} = {getattr(self, name)!r}: expected {expected}.")
        if self.images_per_identity and self.batch_size % self.images_per_identity:
            raise ConfigError(
                f"batch_size = {self.batch_size} is no multiple of images_per_identity = {self.images_per_identity}."
            )
        if self.triplet_weight and self.images_per_identity < 2:
            raise ConfigError("triplet_weight needs images_per_identity of 2 or more: no anchor has a positive otherwise.")
        if self.triplet_weight and self.batch_size < 2 * self.images_per_identity:
            raise ConfigError(
                f"batch_size = {self.batch_size} holds one person with images_per_identity = "
                f"{self.images_per_identity}: the triplet loss needs two."
            )
        if self.of_weight and self.of_start_epoch >= self.epochs:
            raise ConfigError(
                f"of_start_epoch = {self.of_start_epoch} is never reached with epochs = {self.epochs} (they count from 0): "
                "of_weight would have no effect. Lower of_start_epoch, or raise epochs."
            )
        if self.family == "pfsa" and self.of_weight:
            raise ConfigError("of_weight penalises ABD-Net's feature maps, which the pfsa networks do not have: leave it 0.")
        if not self.attentive_branch and (self.pam or self.cam):
            raise ConfigError("pam and cam sit in the attentive branch: they need attentive_branch = True.")
        if not self.attentive_branch and self.branch_order != "global-first":
            raise ConfigError("branch_order orders two branches: it needs attentive_branch = True.")
        if self.report_epoch == "best_on_test" and not self.score_test_every:
            raise ConfigError(
                "report_epoch = 'best_on_test' needs score_test_every of 1 or more: nothing is looked at otherwise."
            )
        if self.validate_every and not self.validation_identities:
            raise ConfigError("validate_every needs validation_identities of 1 or more: nobody is held out otherwise.")
        if self.report_epoch == "best_on_validation" and not self.validate_every:
            raise ConfigError("report_epoch = 'best_on_validation' needs validation_identities and validate_every of 1 or more.")
        if self.batch_size % self.processes or self.batch_size < 2 * self.processes:
            raise ConfigError(
                f"batch_size = {self.batch_size} cannot be shared by processes = {self.processes}: each needs as many images as "
                "the others, and at least 2."
            )
        if self.sync_batch_norm and self.processes == 1:
            raise ConfigError("sync_batch_norm joins the statistics of several processes: it needs processes of 2 or more.")
        if self.log_weighted_loss and not self.parts:
            raise ConfigError("log_weighted_loss weighs the parts against the other heads: it needs parts of 1 or more.")
        if "sa2" in self.spatial_attention and not self.deep_supervision:
            raise ConfigError("spatial_attention 'sa2' sits in the deep supervision: it needs deep_supervision = True.")

    @property
    def augmentation(self) -> dict[str, float]:
        """The chances that `augmentation.draw_augmentation` takes."""
        return {"crop": self.crop_probability, "flip": self.flip_probability, "erase": self.erase_probability}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (tuples become lists)."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


_IN_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}

# Settings that leave every number as it is: a run made with others is the same run.
HOUSEKEEPING = ("keep_every", "tensorboard")


def _one_of(*names: str):
    return (lambda value: value in names), "one of " + ", ".join(names)


_POSITIVE = (lambda value: 0 < value < math.inf), "a value above 0"
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf), "0 or more"
_PROBABILITY = (lambda value: 0 <= value <= 1), "a value from 0 to 1"
_RULES = {
    "family": _one_of("abdnet", "pfsa"),
    "backbone": _one_of("resnet18", "resnet34", "resnet50"),
    "last_stride": ((lambda value: value in (1, 2)), "1 or 2"),
    "height": ((lambda value: value >= 32), "at least 32 pixels"),
    "width": ((lambda value: value >= 16), "at least 16 pixels"),
    "spatial_attention": _one_of("none", "sa1", "sa2", "sa1+sa2"),
    "sa_normalization": _one_of("sum", "softmax"),
    "heads": _one_of("mean", "sum"),
    "ow_reach": _one_of("stem", "backbone"),
    "branch_order": _one_of("global-first", "attentive-first"),
    "eigenvalues": _one_of("rayleigh", "norm_ratio"),
    "power_steps": ((lambda value: value >= 1), "at least 1"),
    "report_epoch": _one_of("last", "best_on_test", "best_on_validation"),
    "processes": ((lambda value: value >= 1), "at least 1"),
    "optimizer": _one_of("adam", "sgd"),
    "schedule": _one_of("steps", "cosine"),
    "precision": _one_of("auto", "float32", "bfloat16"),
    "batch_size": ((lambda value: value >= 2), "at least 2 (batch normalisation needs two images)"),
    **dict.fromkeys(("stripes", "embedding_dim", "reduced_dim", "head_dim", "learning_rate", "epochs", "feature_dim"), _POSITIVE),
    **dict.fromkeys(
        ("seed", "parts", "triplet_weight", "triplet_margin", "of_weight", "of_start_epoch", "ow_weight", "trunk_rate")
        + ("weight_decay", "warmup_epochs", "steps_per_epoch", "images_per_identity", "ow_factor", "classes")
        + ("score_test_every", "validation_identities", "validate_every", "keep_every"),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        ("dropout", "label_smoothing", "momentum", "crop_probability", "flip_probability", "erase_probability")
        + ("rerank_merge_threshold",),
        _PROBABILITY,
    ),
}


@dataclass(frozen=True)
class Method:
    """A row of a table: its name there, the row it differs from, and by what."""

    title: str
    differs_from: str
    by: Mapping[str, Any] = field(default_factory=dict)


_CAM = {"cam": True, "shallow_cam": True}
_OF = {"of_weight": 1e-6}
_OW = {"ow_weight": 1e-3}

METHODS: dict[str, Method] = {
    # ABD-Net, Table 1. "" stands for the defaults of Experiment.
    "baseline": Method("Baseline (XE)", ""),
    "baseline+pam": Method("Baseline (XE) + PAM", "baseline", {"pam": True}),
    "baseline+cam": Method("Baseline (XE) + CAM", "baseline", _CAM),
    "baseline+pam+cam": Method("Baseline (XE) + PAM + CAM", "baseline+pam", _CAM),
    "baseline+of": Method("Baseline (XE) + O.F.", "baseline", _OF),
    "baseline+ow": Method("Baseline (XE) + O.W.", "baseline", _OW),
    "baseline+of+ow": Method("Baseline (XE) + O.F. + O.W.", "baseline+of", _OW),
    "abdnet-xe": Method("ABD-Net (XE)", "baseline+pam+cam", {**_OF, **_OW}),
    "abdnet": Method("ABD-Net", "abdnet-xe", {"triplet_weight": 0.1, "images_per_identity": 4}),
    # Parameter-free spatial attention (PFSA)
    "gap": Method(
        "GAP",
        "",
        {
            "family": "pfsa",
            "label_smoothing": 0.0,
            "heads": "sum",
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "trunk_rate": 0.1,
            "milestones": (40, 80),
            "warmup_epochs": 0,
            "epochs": 100,
            "batch_size": 48,
            "crop_probability": 0.0,
            "erase_probability": 0.0,
            "flip_evaluation": False,
            "rerank": True,  # the paper publishes re-ranked scores only
        },
    ),
    "gap+sa1": Method("GAP + SA₁", "gap", {"spatial_attention": "sa1"}),
    "gap-256": Method("GAP, feature 256", "gap", {"global_bottleneck": True, "epochs": 60}),
    "gap-256+sa1": Method("GAP + SA₁, feature 256", "gap-256", {"spatial_attention": "sa1"}),
    "pfsa-parts": Method("P", "gap", {"parts": 6, "log_weighted_loss": True}),
    "pfsa-without-sa": Method("P + DS", "pfsa-parts", {"deep_supervision": True}),
    "pfsa": Method("P + DS with SA₂ (published)", "pfsa-without-sa", {"spatial_attention": "sa2"}),
    "pfsa+sa1": Method("P + DS with SA₂, SA₁", "pfsa", {"spatial_attention": "sa1+sa2"}),
}

# Both sides of every switch that takes training, each as a difference from the switch's row. They are no rows of a table.
VARIANTS: dict[str, Method] = {
    f"{switch.base}.{switch.name}.{side}": Method(
        f"{METHODS[switch.base].title}, {switch.what}: {side.replace('-', ' ')}", switch.base, switch.side(side)
    )
    for switch in SWITCHES
    if switch.effect == "training"
    for side in SIDES
}


@dataclass(frozen=True)
class Profile:
    """How large the study is: settings for every run, and which runs there are."""

    title: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_family: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    synthetic: Mapping[str, int] = field(default_factory=dict)  # SyntheticSpec of the embedded data; {}: its defaults
    switches: tuple[str, ...] = ()  # switches between paper and released code whose other side is trained too
    bootstrap_resamples: int = 2000


_FIGURE_METHODS = ("baseline", "baseline+pam+cam", "abdnet-xe", "abdnet", "gap", "gap+sa1", "pfsa")

# From random weights there is nothing to freeze, so no warm-up; one optimiser for both families, since SGD at 0.1 × 0.1 is made
# for a pretrained trunk. The channel numbers follow ResNet-18, a quarter as wide as ResNet-50.
_SMALL = {
    "backbone": "resnet18",
    "pretrained": False,
    "height": 128,
    "width": 64,
    "reduced_dim": 256,
    "embedding_dim": 256,
    "head_dim": 128,
    "optimizer": "adam",
    "learning_rate": 5e-4,
    "trunk_rate": 1.0,
    "schedule": "cosine",
    "warmup_epochs": 0,
    "batch_size": 32,
    "crop_probability": 0.5,
    "erase_probability": 0.0,
    "flip_evaluation": True,
}

# Spatial attention sums to 1 over the map's places, so the pooled vector shrinks by their number. From random weights and in
# few steps Adam then needs a larger rate for the classifiers, and no weight decay, which would outweigh gradients that small.
_SMALL_BY_FAMILY = {"pfsa": {"learning_rate": 1.5e-2, "trunk_rate": 1 / 30, "weight_decay": 0.0}}

TRAINED_SWITCHES = tuple(switch.name for switch in SWITCHES if switch.effect == "training")

PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        "a few steps on a handful of images: shows that everything runs, measures nothing",
        _FIGURE_METHODS,
        settings={**_SMALL, "height": 96, "width": 48, "epochs": 2, "steps_per_epoch": 2, "batch_size": 8, "of_start_epoch": 1},
        synthetic={"train_identities": 8, "test_identities": 6, "height": 96, "width": 48},
        switches=("ow-reach",),
        bootstrap_resamples=200,
    ),
    "demo": Profile(
        "ResNet-18 from random weights at 128 × 64, one seed: every figure and table in minutes on two CPU cores",
        _FIGURE_METHODS,
        settings={**_SMALL, "epochs": 8, "steps_per_epoch": 28, "of_start_epoch": 2},
        by_family=_SMALL_BY_FAMILY,
    ),
    "full": Profile(
        "every row of every table with three seeds, otherwise as the demo but for 60 epochs",
        tuple(METHODS),
        seeds=(0, 1, 2),
        settings={**_SMALL, "epochs": 60, "steps_per_epoch": 40, "of_start_epoch": 17},
        by_family=_SMALL_BY_FAMILY,
        switches=TRAINED_SWITCHES,
    ),
    "paper": Profile(
        "the papers' settings: ResNet-50 from ImageNet weights at 384 × 128 (a GPU is needed)",
        tuple(METHODS),
        switches=TRAINED_SWITCHES,
    ),
}


def choose(kind: str, name: str, known) -> str:
    """`name`, if it is among `known`; otherwise a ConfigError that lists them and the nearest."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def title_of(method: str) -> str:
    """How tables and figures call a row or a variant."""
    return (METHODS | VARIANTS)[choose("method", method, METHODS | VARIANTS)].title


def differences(method: str) -> dict[str, Any]:
    """The method's settings that are not defaults of `Experiment`, its whole chain of differences resolved."""
    row = METHODS[choose("method", method, METHODS)]
    return {**(differences(row.differs_from) if row.differs_from else {}), **row.by}


def run_of(switch: Switch, side: str, profile: str, **overrides: Any) -> str:
    """The method whose runs show one side of a trained switch: a row that has that side anyway, the switch's own first, or a
    variant."""
    variant = f"{switch.base}.{switch.name}.{side}"
    experiment_for(variant, profile=profile, **overrides)  # raises what is impossible
    one = _resolved(variant, profile, overrides)
    return next((row for row in (switch.base, *METHODS) if _resolved(row, profile, overrides) == one), variant)


def experiment_for(
    method: str, *, dataset: str = "market1501", profile: str = "paper", seed: int = 0, **overrides: Any
) -> Experiment:
    """The experiment of one row or variant: `experiment_for("abdnet", profile="demo", dataset="synthetic", epochs=3)`.

    Raises:
        ConfigError: an unknown method, profile or setting (the nearest known name is shown), or an impossible value.
    """
    settings = _resolved(method, profile, overrides)
    known = [item.name for item in fields(Experiment) if item.name not in ("method", "dataset", "profile", "seed")]
    for name in overrides:
        choose("setting", name, known)
    try:
        return Experiment(method=method, dataset=dataset, profile=profile, seed=seed, **settings)
    except ConfigError as error:
        if method in METHODS:
            raise
        raise ConfigError(f"{error} The switch's side {method} has this problem: leave it out with --switches.") from None


def _resolved(method: str, profile: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a row or variant but those of the call itself, layer upon layer, not validated."""
    variant = VARIANTS.get(method)
    settings = differences(variant.differs_from if variant else method)
    size = PROFILES[choose("profile", profile, PROFILES)]
    family = size.by_family.get(settings.get("family", Experiment.family), {})
    side = variant.by if variant else {}  # after the profile, which may change the same setting
    given = ("method", "dataset", "profile", "seed")
    defaults = {item.name: item.default for item in fields(Experiment) if item.name not in given}
    return {**defaults, **settings, **size.settings, **family, **side, **overrides}


def caveats(profile: str, dataset: str, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """What a reader must know before comparing the numbers with the papers'; one sentence each, [] if nothing."""
    settings = {**PROFILES[choose("profile", profile, PROFILES)].settings, **(overrides or {})}
    sentences = []
    if dataset == "synthetic":
        sentences.append("The images are synthetic: people drawn by a program, so no number here compares with a published one.")
    if settings.get("pretrained") is False:
        backbone = settings.get("backbone", Experiment.backbone)
        sentences.append(f"The networks ({backbone}) were trained from random weights: no ImageNet weights were used.")
    if profile == "smoke":
        sentences.append("The smoke profile takes a few steps only: it shows that everything runs, its scores mean nothing.")
    return sentences
