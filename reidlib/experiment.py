"""`Experiment`: all settings of one run, with their rules, in three groups.

- `TrainingSettings` decide the weights: with another value, the network is trained anew.
- `ScoringSettings` decide the scores: with another value, the same weights are scored again.
- `Housekeeping` changes no number.

Defaults without a comment are those of the papers' released code.
"""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from reidlib.settings import (
    POSITIVE,
    Amount,
    ConfigError,
    Count,
    PositiveAmount,
    Probability,
    Rule,
    Seed,
    Size,
    at_least,
    at_most,
    check_settings,
)

# Feature maps that the penalty O.F. may act on, see `reidlib.losses.orthogonality_features`.
OF_POSITIONS = ("intermediate", "before", "cam", "pam", "after")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings that decide the weights."""

    seed: Seed = 0

    # network, both papers
    family: Literal["abdnet", "pfsa"] = "abdnet"
    backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet50"
    # ImageNet weights: True (torchvision's), False, or the path of a state dict
    pretrained: bool | str = True
    # a file of a whole network to train on from, in place of `pretrained`: released weights or a model.pt
    start_from: str = ""
    start_classifiers: bool = True  # False: leave out the file's classifiers, so that people may differ
    last_stride: Literal[1, 2] = 1
    height: Annotated[int, at_least(32, "pixels")] = 384
    width: Annotated[int, at_least(16, "pixels")] = 128

    # ABD-Net
    global_branch: bool = True
    attentive_branch: bool = True
    stripes: Size = 2
    pam: bool = False  # position attention
    cam: bool = False  # channel attention
    shallow_cam: bool = False  # channel attention on layer1's output
    # plain: 1×1 convolutions, query and key with C/8 channels, as released; normalised: C channels each, with
    # batch normalisation and ReLU, as readers' notes and the paper's figure have it
    pam_form: Literal["plain", "normalised"] = "plain"
    attention_heads: bool = True  # False: attention acts on the reduced map itself, without DANet's heads
    cam_most_similar_first: bool = False  # False: the most similar channels get the least weight, as released
    # True: the path without attention passes through a head too, as released; False: it has none, as drawn
    before_head: bool = True
    # True: attention on each stripe, as released; False: on the whole map, which is cut afterwards, as drawn
    attention_per_stripe: bool = True
    branch_order: Literal["global-first", "attentive-first"] = "global-first"  # also the embedding's order
    global_pooling: Literal["average", "max"] = "average"  # of the global branch
    embedding_dim: Size = 1024
    reduced_dim: Size = 1024
    head_dim: Size = 512
    dropout: Probability = 0.5

    # Parameter-free spatial attention
    # horizontal stripes with a classifier each; 0: global average pooling and one classifier
    parts: Count = 0
    part_classifiers: bool = True  # False: only the stripes' mean feature is classified
    deep_supervision: bool = False
    # sa1: on the final map; sa2: in deep supervision
    spatial_attention: Literal["none", "sa1", "sa2", "sa1+sa2"] = "none"
    # sum: channel mean divided by its sum, as released; softmax: as written
    sa_normalization: Literal["sum", "softmax"] = "sum"
    feature_dim: Size = 256  # channels before the classifiers of parts and deep supervision
    # outputs of every classifier; 0: the number of training identities. The released code always has 751.
    classes: Count = 0

    # losses
    label_smoothing: Probability = 0.1
    heads: Literal["mean", "sum"] = "mean"  # how the heads' cross-entropies are joined
    triplet_weight: Amount = 0.0
    triplet_margin: Amount = 1.2
    of_weight: Amount = 0.0  # orthogonality of features
    of_start_epoch: Count = 23  # counted from 0, after the warm-up
    of_positions: Annotated[
        tuple[str, ...],
        Rule(
            lambda value: set(value) <= set(OF_POSITIONS) and len(set(value)) == len(value) > 0,
            f"some of {', '.join(OF_POSITIONS)}, each at most once",
        ),
    ] = OF_POSITIONS  # where it acts; those that a row lacks are ignored
    of_intermediate_weight: Amount = 0.01  # its factor at `intermediate`; the other positions have 1
    of_squared: bool = False  # False: β (λ₁ − λ₂), as released; True: its square, as the paper writes
    of_smaller_side: bool = False  # True: of FFᵀ and FᵀF take the smaller; the larger always has λ₂ = 0
    ow_weight: Amount = 0.0  # orthogonality of weights
    # stem: the one convolution that the released code reaches; backbone: all
    ow_reach: Literal["stem", "backbone"] = "stem"
    ow_factor: Amount = 10.0  # factor of the squared spread, as released; the paper has 1
    # rayleigh: pᵀXp / pᵀp after the power iteration, as released; norm_ratio: ‖q‖ / ‖p‖, as written
    eigenvalues: Literal["rayleigh", "norm_ratio"] = "rayleigh"
    power_steps: Annotated[int, at_least(1), at_most(1000)] = 1  # steps of the power iteration
    # also log 0.2 · mean of deep supervision and global + 0.8 · mean of the parts, as the released code does
    log_weighted_loss: bool = False

    # optimisation
    optimizer: Literal["adam", "sgd"] = "adam"  # sgd: with Nesterov's momentum
    learning_rate: PositiveAmount = 3e-4
    trunk_rate: Amount = 1.0  # learning rate of the pretrained layers relative to the new ones
    momentum: Probability = 0.9
    weight_decay: Amount = 5e-4
    # steps: × 0.1 at each milestone; cosine: to zero, after a linear rise over two epochs or a fifth of all
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: Annotated[
        tuple[int, ...], Rule(lambda value: all(epoch > 0 for epoch in value), "whole numbers above 0")
    ] = (20, 40)  # epochs, counted from 0
    warmup_epochs: Count = 10  # before epoch 0: only the new layers train
    epochs: Annotated[int, POSITIVE] = 80
    steps_per_epoch: Count = 0  # 0: once through the training set
    batch_size: Annotated[int, at_least(2, "(batch normalisation needs two images)")] = 64
    images_per_identity: Count = 0  # 0: shuffled images; K: batch_size / K people with K images each
    crop_probability: Probability = 0.5  # resize to 1.125 × the size and crop back
    flip_probability: Probability = 0.5
    # corner of the crop. rounded: a uniform number is rounded, as released, so the two end positions have
    # half the weight of the others; uniform: over all positions
    crop_corners: Literal["rounded", "uniform"] = "rounded"
    erase_probability: Probability = 0.5
    erase_largest: Annotated[
        float, Rule(lambda value: 0.02 < value <= 1, "a value above 0.02, at most 1")
    ] = 0.4  # share of the image; the smallest is 0.02
    # mean: the colour of the data's mean; noise: a normal number for each pixel and channel
    erase_fill: Literal["mean", "noise"] = "mean"
    # strength of random brightness, contrast and saturation, each a factor from 1 − c to 1 + c. The released
    # option color-jitter has strength 0: it changes nothing.
    colour_jitter: Probability = 0.0
    precision: Literal["float32", "bfloat16", "auto"] = "float32"  # auto: bfloat16 where the hardware has it
    compile: bool = False  # torch.compile: minutes at the start, faster steps
    deterministic: bool = False  # on a GPU, repeat results bit by bit, at some cost; a CPU always does
    # each process takes its share of every batch, on its own GPU or on cores of the CPU
    processes: Annotated[int, at_least(1), at_most(1024)] = 1
    sync_batch_norm: bool = False  # batch statistics over the shares of all processes (GPUs only)

    # evaluation while training, and the epoch whose weights are kept
    validation_identities: Count = 0  # people held out of the training set
    validate_every: Count = 0  # epochs between two evaluations on them; 0: only after the last epoch
    # epochs between two evaluations on the test set, for the curves; 0: only after the last epoch
    score_test_every: Count = 0
    # best_on_test: the first epoch with the highest rank-1, as released; best_on_validation: the first with
    # the highest mAP
    report_epoch: Literal["last", "best_on_test", "best_on_validation"] = "last"


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """The settings that decide the scores of given weights."""

    flip_evaluation: bool = True  # average the embeddings of image and mirror image
    embedding_precision: Literal["float32", "bfloat16", "auto"] = "float32"  # auto: as for `precision`
    rerank: bool = False  # also score after k-reciprocal re-ranking
    # overlap above which neighbourhoods merge: 0 as released (Python 2), 2/3 as published
    rerank_merge_threshold: Probability = 0.0
    rerank_half_precision: bool = True  # as released
    bootstrap_resamples: Annotated[int, at_least(100)] = 2000  # for the confidence intervals
    # also score with one random gallery image a person, the metric of CUHK03's classic protocol (CUHK03
    # itself always is)
    single_shot: bool = False


@dataclass(frozen=True, kw_only=True)
class Housekeeping:
    """The settings of what else is kept; no number depends on them."""

    keep_every: Count = 0  # weights of every n-th epoch stay as epoch-<number>.pt; 0: none
    tensorboard: bool = False  # also write the curves for TensorBoard
    # measure the features of some training images after every n-th epoch (`reidlib.evaluation.measures`), as
    # columns of curves.csv; 0: after the last epoch only
    measure_every: Count = 1


@dataclass(frozen=True, kw_only=True)
class Experiment(Housekeeping, ScoringSettings, TrainingSettings):
    """One run, completely: the same experiment on the same data gives the same numbers.

    Raises:
        ConfigError: a value is of the wrong type or outside its range, or two settings contradict each other.
    """

    # labels of the run; its numbers depend on the settings alone
    method: str = "baseline"
    dataset: str = "market1501"
    profile: str = "paper"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.images_per_identity and self.batch_size % self.images_per_identity:
            raise ConfigError(
                f"batch_size = {self.batch_size} is no multiple of images_per_identity = "
                f"{self.images_per_identity}."
            )
        if self.triplet_weight and self.images_per_identity < 2:
            raise ConfigError(
                "triplet_weight needs images_per_identity of 2 or more: no anchor has a positive otherwise."
            )
        if self.triplet_weight and self.batch_size < 2 * self.images_per_identity:
            raise ConfigError(
                f"batch_size = {self.batch_size} holds one person with images_per_identity = "
                f"{self.images_per_identity}: the triplet loss needs two."
            )
        if self.of_weight and self.of_start_epoch >= self.epochs:
            raise ConfigError(
                f"of_start_epoch = {self.of_start_epoch} is never reached with epochs = {self.epochs} (they "
                "count from 0): of_weight would have no effect. Lower of_start_epoch, or raise epochs."
            )
        if self.family == "pfsa" and self.of_weight:
            raise ConfigError(
                "of_weight penalises ABD-Net's feature maps, which the pfsa networks do not have: leave it 0."
            )
        self._check_branches()
        self._check_rows()
        if self.report_epoch == "best_on_test" and not self.score_test_every:
            raise ConfigError(
                "report_epoch = 'best_on_test' needs score_test_every of 1 or more: no epoch is scored "
                "otherwise."
            )
        if self.validate_every and not self.validation_identities:
            raise ConfigError(
                "validate_every needs validation_identities of 1 or more: nobody is held out otherwise."
            )
        if self.report_epoch == "best_on_validation" and not self.validate_every:
            raise ConfigError(
                "report_epoch = 'best_on_validation' needs validation_identities and validate_every of 1 "
                "or more."
            )
        if self.batch_size % self.processes or self.batch_size < 2 * self.processes:
            raise ConfigError(
                f"batch_size = {self.batch_size} cannot be shared by processes = {self.processes}: each "
                "needs as many images as the others, and at least 2."
            )
        if self.sync_batch_norm and self.processes == 1:
            raise ConfigError(
                "sync_batch_norm joins the statistics of several processes: it needs processes of 2 or more."
            )
        if not self.part_classifiers and not self.parts:
            raise ConfigError("part_classifiers = False leaves out the parts' classifiers: it needs parts.")
        if self.log_weighted_loss and not (self.parts and self.part_classifiers):
            raise ConfigError(
                "log_weighted_loss weighs the parts against the other heads: it needs parts of 1 or more, "
                "with part_classifiers = True."
            )
        if self.start_from and isinstance(self.pretrained, str):
            raise ConfigError(
                f"start_from = {self.start_from} and pretrained = {self.pretrained} both name initial "
                "weights, of the whole network and of its trunk: leave one out."
            )
        if not self.start_classifiers and not self.start_from:
            raise ConfigError(
                "start_classifiers = False leaves out the classifiers of the file that start_from names: "
                "it needs start_from."
            )
        if "sa2" in self.spatial_attention and not self.deep_supervision:
            raise ConfigError(
                "spatial_attention 'sa2' sits in the deep supervision: it needs deep_supervision = True."
            )

    def _check_branches(self) -> None:
        both = self.global_branch and self.attentive_branch
        if not self.global_branch and not self.attentive_branch:
            raise ConfigError(
                "global_branch and attentive_branch are both False: a network needs one branch or both."
            )
        if not self.attentive_branch and (self.pam or self.cam):
            raise ConfigError("pam and cam sit in the attentive branch: they need attentive_branch = True.")
        if not both and self.branch_order != "global-first":
            raise ConfigError("branch_order orders two branches: it needs both.")
        if not self.global_branch and self.global_pooling != "average":
            raise ConfigError("global_pooling is the global branch's: it needs global_branch = True.")
        there = {"intermediate", *(("before", "after") if self.attentive_branch else ())}
        there |= {name for name in ("cam", "pam") if getattr(self, name)}
        if self.of_weight and not there & set(self.of_positions):
            raise ConfigError(
                f"of_positions = {self.of_positions} names no feature map of this network: of_weight would "
                f"have no effect. It has {', '.join(name for name in OF_POSITIONS if name in there)}."
            )

    def _check_rows(self) -> None:
        """The last feature map must have rows enough for the stripes, or for the parts."""
        rows = self.height
        # Halved twice by the stem, and by layer2, layer3 and, with last_stride 2, layer4.
        for _ in range(3 + self.last_stride):
            rows = -(-rows // 2)
        if self.family == "abdnet" and self.attentive_branch and rows % self.stripes:
            raise ConfigError(
                f"stripes = {self.stripes} cannot share the {rows} rows of the last feature map evenly. They "
                f"come from height = {self.height} and last_stride = {self.last_stride}: change one of these."
            )
        if self.family == "pfsa" and rows < self.parts:
            raise ConfigError(
                f"parts = {self.parts} are more than the {rows} rows of the last feature map. They come from "
                f"height = {self.height} and last_stride = {self.last_stride}: change one of these."
            )

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch's weights are kept, beside those of the last epoch or in their place."""
        return self.report_epoch != "last" or bool(self.validation_identities and self.validate_every)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (tuples become lists)."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    def group(self, settings: type) -> dict[str, Any]:
        """The plain values of one group: TrainingSettings, ScoringSettings or Housekeeping."""
        values = self.as_dict()
        return {field.name: values[field.name] for field in fields(settings)}
