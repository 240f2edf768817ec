"""The differences between paper and released code, as switches.

`SWITCHES` is the one list of these differences. A switch has two sides or more. Every side holds settings:
those of the released code, and those of the paper, of an earlier release or of another source. For every
switch that changes training, `reidlib.config` makes a variant of the switch's row for each side
(`abdnet.cam-sign.as-written`, `abdnet.cam-sign.as-released`), which trains like any row of a table. If the
row itself already has one side, its own runs show that side.

The default is the released side, because the published numbers come from it; exceptions give their reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

RELEASED = "as-released"  # every other side is compared with this one
# training: all sides must be trained. schedule: so must they, and they change the papers' schedule; the other
# profiles have one of their own and cannot show this. scoring: one run's weights are scored in all ways. log:
# only the logged loss differs. none: there is no setting.
Effect = Literal["training", "schedule", "scoring", "log", "none"]


@dataclass(frozen=True)
class Side:
    """One side of a switch: in words, and as settings of `Experiment`. Without settings it is the row."""

    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Switch:
    """One difference between paper and released code."""

    paper: str  # ABD-Net | PFSA
    number: str  # in the paper's list of differences; a letter where one number covers several
    name: str  # short; part of the variants' names
    what: str
    sides: Mapping[str, Side]  # name, part of the variants' names → side; RELEASED is one of them
    here: str  # the side that this study takes, and why if it is not the released one
    base: str  # the row whose settings the switch changes
    effect: Effect = "training"
    weak: str = ""  # why its source is weak, if it is

    @property
    def is_trained(self) -> bool:
        """Whether its sides have to be trained to be compared."""
        return self.effect in ("training", "schedule")

    @property
    def others(self) -> tuple[str, ...]:
        """The sides that are compared with the released one."""
        return tuple(name for name in self.sides if name != RELEASED)

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that the sides change."""
        return tuple(dict.fromkeys(name for side in self.sides.values() for name in side.settings))


def _switch(
    paper: str,
    base: str,
    number: str,
    name: str,
    what: str,
    *,
    written: str,
    released: str,
    other: str = "as-written",
    here: str = "as released",
    effect: Effect = "training",
    weak: str = "",
    **settings: tuple[Any, Any],
) -> Switch:
    """Builds a `Switch` of two sides.

    Args:
        written: what the other side is, in words.
        other: the name of that side.
        settings: name=(value of the other side, value as released).
    """
    one, two = ({setting: pair[i] for setting, pair in settings.items()} for i in (0, 1))
    sides = {other: Side(written, one), RELEASED: Side(released, two)}
    return Switch(paper, number, name, what, sides, here, base, effect, weak)


_abdnet = partial(_switch, "ABD-Net", "abdnet")
_pfsa = partial(_switch, "PFSA", "pfsa")

_ABDNET = (
    _abdnet(
        "1",
        "ow-reach",
        "convolutions that O.W. reaches",
        written="all 63 of the backbone",
        released="1, the stem: only nn.Sequential is walked",
        ow_reach=("backbone", "stem"),
    ),
    _abdnet(
        "2a",
        "ow-factor",
        "factor of O.W.",
        written="β (λ₁ − λ₂)²",
        released="β · 10 (λ₁ − λ₂)²",
        ow_factor=(1.0, 10.0),
    ),
    _abdnet(
        "2b",
        "of-squared",
        "power of O.F.",
        written="β (λ₁ − λ₂)²",
        released="β (λ₁ − λ₂), not squared",
        of_squared=(True, False),
    ),
    _abdnet(
        "2c",
        "eigenvalues",
        "how λ₁ and λ₂ are estimated",
        written="power iteration p ← Xq, q ← Xp, ratio ‖q‖ / ‖p‖ "
        "(the number of rounds is not said: one here)",
        released="one step p ← Xq and the Rayleigh quotient pᵀXp / pᵀp",
        eigenvalues=("norm_ratio", "rayleigh"),
    ),
    _abdnet(
        "3",
        "of-smaller-side",
        "λ₂ of O.F. in the attentive branch",
        written="the smallest eigenvalue (here of the smaller of FFᵀ and FᵀF: they share all that are not 0)",
        released="of the C × C matrix, whose rank is at most H·W < C: λ₂ is 0",
        of_smaller_side=(True, False),
    ),
    _abdnet(
        "4",
        "cam-sign",
        "sign of the channel attention",
        written="softmax of the energy: the most similar channels weigh most",
        released="row maximum minus energy: the least similar weigh most",
        cam_most_similar_first=(True, False),
    ),
    _abdnet(
        "5",
        "before-head",
        "the plain path, `before`",
        written="a straight line",
        released="passes through a head of its own",
        before_head=(False, True),
    ),
    _abdnet(
        "6",
        "attention-per-stripe",
        "what attention runs on",
        written="the whole map",
        released="each of the two stripes",
        attention_per_stripe=(False, True),
    ),
    _abdnet(
        "7",
        "branch-order",
        "order of the branches in the embedding",
        written="–",
        released="changes with Python's hash seed",
        here="fixed, global first. The other order changes only the random draws, so its difference is noise",
        branch_order=("global-first", "attentive-first"),
    ),
    _abdnet(
        "8",
        "report-epoch",
        "epoch reported",
        written="–",
        released="the best on the test set's rank-1",
        here="the last: choosing on the test set flatters. The best stands beside it where it was looked for",
        report_epoch=("last", "best_on_test"),
        score_test_every=(0, 1),
    ),
    _abdnet(
        "9",
        "augmentation",
        "crop and erasing",
        written="on, each with p 0.5",
        released="off where --data-augment is left out or has commas",
        here="on, as the published settings name both (the small profiles leave erasing out)",
        crop_probability=(0.5, 0.0),
        erase_probability=(0.5, 0.0),
    ),
    _abdnet(
        "10",
        "pam-form",
        "layers of the position attention",
        written="convolution, batch normalisation and ReLU with C channels each",
        released="plain 1×1 convolutions, query and key with C/8 channels",
        weak="two readers' notes, and labels in the authors' attention figure",
        pam_form=("normalised", "plain"),
    ),
    _abdnet(
        "11a",
        "second-stage",
        "epochs after the warm-up, and the start of O.F.",
        written="60, with every term from the start",
        released="80, O.F. from epoch 23 on",
        weak="one reader's notes",
        effect="schedule",
        epochs=(60, 80),
        of_start_epoch=(0, 23),
    ),
    _abdnet(
        "11b",
        "crop",
        "crop, apart from erasing",
        written="off",
        released="p 0.5",
        weak="one reader's notes",
        crop_probability=(0.0, 0.5),
    ),
    _abdnet(
        "12",
        "intermediate-weight",
        "factor of O.F. at `intermediate`",
        written="none",
        released="0.01",
        of_intermediate_weight=(1.0, 0.01),
    ),
    Switch(
        "ABD-Net",
        "13",
        "baseline-form",
        "what Table 1's Baseline (XE) is",
        {
            RELEASED: Side(
                "two branches with two stripes, 10 epochs of warm-up (the author's answer in issue 22: O.F. "
                "is run with O.W. and attention off)",
            ),
            "without-warm-up": Side(
                "the same without the warm-up (the author's answer in issue 25: not in two steps)",
                {"warmup_epochs": 0},
            ),
            "one-branch": Side(
                "the attentive branch alone, one stripe, its 1×1 convolution as the extra layer, no warm-up "
                "(a co-author's later script for the O.F. rows, without its batch of 32, its 60 epochs and "
                "its crop without erasing; issue 25: an extra layer before the classifier)",
                {"global_branch": False, "stripes": 1, "warmup_epochs": 0},
            ),
        },
        "as released with the options of the other rows; which form Table 1 has is uncertain (the small "
        "profiles never warm up)",
        "baseline",
        weak="two answers of the author that differ, and a co-author's script",
    ),
    _abdnet(
        "14",
        "crop-corners",
        "corner of the crop",
        written="uniform over all positions",
        released="a rounded uniform number: the two end positions have half the weight of the others",
        crop_corners=("uniform", "rounded"),
    ),
    _abdnet(
        "–",
        "precision",
        "precision of training",
        other="bfloat16",
        written="in autocast",
        released="float32",
        here="as released in the profile paper; the small profiles take bfloat16 where the hardware has it",
        precision=("bfloat16", "float32"),
    ),
    _abdnet(
        "–",
        "embedding-precision",
        "precision of the test embeddings",
        other="bfloat16",
        written="in autocast",
        released="float32",
        here="as released in the profile paper; the small profiles take bfloat16 where the hardware has it",
        effect="scoring",
        embedding_precision=("bfloat16", "float32"),
    ),
    _abdnet(
        "–",
        "batch-statistics",
        "batch normalisation on two GPUs",
        written="–",
        released="over 32 images on each",
        here="over the whole batch on one device",
        effect="none",
    ),
)
_PFSA = (
    _pfsa(
        "1",
        "sa-normalization",
        "spatial attention",
        written="channel sum, softmax over positions",
        released="channel mean over its sum, no softmax",
        sa_normalization=("softmax", "sum"),
    ),
    _pfsa(
        "2",
        "sa1",
        "SA₁ before the final pooling",
        written="drawn",
        released="built, never called",
        here="as released; the rows gap+sa1 and pfsa+sa1 have it",
        spatial_attention=("sa1+sa2", "sa2"),
    ),
    _pfsa(
        "3",
        "logged-loss",
        "loss that is logged",
        written="plain sum",
        released="0.2 · mean of deep supervision and global + 0.8 · mean of the parts, while the plain sum "
        "is trained",
        here="both are logged: `loss` is what is trained, `weighted_loss` what the released code logs",
        log_weighted_loss=(False, True),
        effect="log",
    ),
    _pfsa(
        "4a",
        "classes",
        "number of classes",
        written="of the data set",
        released="751 always",
        here="of the data set: 751 fits Market-1501 alone",
        classes=(0, 751),
    ),
    _pfsa(
        "4b",
        "erasing",
        "random erasing",
        other="first-release",
        written="on in the first main.py (95b6744, 2018-12-03): p 0.5, area 0.02–0.2, a normal number for "
        "each pixel and channel",
        released="off since 9692209 (2018-12-23)",
        here="on, as in the first release: the README says of its ablation only that erasing was cut there, "
        "so the published numbers were most probably made with it (the small profiles leave erasing out)",
        erase_probability=(0.5, 0.0),
        erase_largest=(0.2, 0.2),
        erase_fill=("noise", "noise"),
    ),
    _pfsa(
        "4e",
        "epochs",
        "epochs",
        other="as-reported",
        written="150, for the released weights",
        released="100, the README's command",
        weak="a reader's report in HRanWang/Spatial-Re-Scaling issue 9",
        effect="schedule",
        epochs=(150, 100),
        milestones=((40, 80, 120), (40, 80)),
    ),
    _pfsa(
        "–",
        "dropout",
        "dropout on CUHK03",
        other="as-logged",
        written="0.7",
        released="0.5",
        here="as released; --set dropout=0.7 tries the other",
        weak="the name of a log folder",
        effect="none",
    ),
    _pfsa(
        "4c",
        "trainval",
        "training on train and val together",
        written="–",
        released="--combine-trainval is never read",
        here="as released; --data include_val=True for MSMT17, which has a val split",
        effect="none",
    ),
    _pfsa(
        "4d",
        "last-epoch",
        "epoch reported",
        written="–",
        released="the last, named best",
        effect="none",
    ),
    _pfsa(
        "5",
        "reranking",
        "scores published",
        written="after re-ranking only",
        released="the call of re-ranking is commented out",
        here="both are given",
        rerank=(True, False),
        effect="scoring",
    ),
    _pfsa(
        "–",
        "tied-distances",
        "gallery images at the same distance, in mAP",
        written="–",
        released="scikit-learn: they share the precision of the last of them",
        here="the earlier one in the gallery ranks first; 22_paper_vs_code shows by how much mAP differs",
        effect="none",
    ),
    _pfsa(
        "6",
        "reranking-python2",
        "overlap at which re-ranking merges neighbourhoods",
        written="more than 2/3, full precision",
        released="any: 2/3 is 0 under Python 2; in half precision",
        rerank_merge_threshold=(2 / 3, 0.0),
        rerank_half_precision=(False, True),
        effect="scoring",
    ),
)


def _together(name: str, switches: tuple[Switch, ...]) -> Switch:
    """Several trained differences of a paper as one switch: all as written; as released is the row itself."""
    values = {
        name: value for switch in switches for name, value in switch.sides["as-written"].settings.items()
    }
    numbers = ", ".join(switch.number for switch in switches)
    what, first = f"{numbers} at once", switches[0]
    sides = {"as-written": Side("all as written", values), RELEASED: Side("all as released")}
    return Switch(first.paper, "all", name, what, sides, "as released", first.base)


# The other switches concern reporting, or their written side is not stated in the paper itself.
_WHOLE_ABDNET = (
    "ow-reach",
    "ow-factor",
    "of-squared",
    "eigenvalues",
    "cam-sign",
    "before-head",
    "attention-per-stripe",
)
_WHOLE_PFSA = ("sa-normalization", "sa1")

SWITCHES: tuple[Switch, ...] = (
    *_ABDNET,
    _together("all-of-abdnet", tuple(switch for switch in _ABDNET if switch.name in _WHOLE_ABDNET)),
    *_PFSA,
    _together("all-of-pfsa", tuple(switch for switch in _PFSA if switch.name in _WHOLE_PFSA)),
)

# What the released ABD-Net command line offers and this study has no setting for, with the reason.
LEFT_OUT: dict[str, str] = {
    "--branches np dan; --np-dim, --np-np, --np-with-global, --np-max-pooling; --dan-dim, --dan-dan, "
    "--dan-dan-no-head": "two other branches; neither paper nor any row of its tables has them",
    "--global-dim other than --abd-dim": "both are `embedding_dim`: no row has two sizes",
    "--arch densenet…": "another backbone, in no row of the ablation",
    "--optim rmsprop, amsgrad; --rmsprop-alpha; --sgd-dampening, SGD without --sgd-nesterov; --adam-beta1, "
    "--adam-beta2; --gamma": "no published command uses them",
    "--fixbase, --open-layers": "the warm-up has its own list of new layers; nothing else is frozen",
    "--lambda-xent": "the weight of the cross-entropy is 1 in every row",
    "--split-id": "each data set has one split",
    "--htri-only": "the triplet loss without cross-entropy: no row trains so",
    "--start-eval": "where epochs are scored at all (`score_test_every`), the first ones are, too",
    "--start-epoch, --resume": "an interrupted run goes on by itself",
    "--cuhk03-classic-split": "CUHK03's old protocol with 20 splits: the study reads the new one, and scores "
    "its images by the classic metric, too (`single_shot`)",
    "--seq-len, --sample-method, --pool-tracklet-features": "video data sets",
}
