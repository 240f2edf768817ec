"""The differences between paper and released code, as switches.

`SWITCHES` is the one list of these differences. Each switch holds the paper's settings and the released
code's. For every switch that changes training, `reidlib.config` makes two variants of the switch's row
(`abdnet.cam-sign.as-written`, `abdnet.cam-sign.as-released`), which train like any row of a table. If the row
itself already has one side, its own runs show that side.

The default is the released side, because the published numbers come from it; exceptions give their reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

SIDES = ("as-written", "as-released")
Effect = Literal["training", "evaluation", "log", "none"]


@dataclass(frozen=True)
class Switch:
    """One difference between paper and released code.

    `written` and `released` describe the two sides in words; `as_written` and `as_released` are the settings
    of `Experiment` for them.
    """

    paper: str  # ABD-Net | PFSA
    number: str  # in the paper's list of differences; a letter where one number covers several
    name: str  # short; part of the variants' names
    what: str
    written: str
    released: str
    here: str  # the side that this study takes, and why if it is not the released one
    base: str  # the row whose settings the switch changes
    as_written: Mapping[str, Any] = field(default_factory=dict)
    as_released: Mapping[str, Any] = field(default_factory=dict)
    # training: both sides must be trained; evaluation: one run's embeddings are scored in both ways; log:
    # only the logged loss differs; none: there is no setting.
    effect: Effect = "training"

    def side(self, side: str) -> Mapping[str, Any]:
        return self.as_written if side == "as-written" else self.as_released


def _switch(
    paper: str,
    base: str,
    number: str,
    name: str,
    what: str,
    *,
    written: str,
    released: str,
    here: str = "as released",
    effect: Effect = "training",
    **settings: tuple[Any, Any],
) -> Switch:
    """Builds a `Switch`.

    Args:
        settings: name=(value as written, value as released).
    """
    sides = [{setting: pair[i] for setting, pair in settings.items()} for i in (0, 1)]
    return Switch(paper, number, name, what, written, released, here, base, *sides, effect)


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
        released="0.2 · (deep supervision and global) + 0.8 · parts, while the plain sum is trained",
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
        written="p 0.5, by readers' reports",
        released="off",
        erase_probability=(0.5, 0.0),
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
        effect="evaluation",
    ),
    _pfsa(
        "6",
        "reranking-python2",
        "overlap at which re-ranking merges neighbourhoods",
        written="more than 2/3, full precision",
        released="any: 2/3 is 0 under Python 2; in half precision",
        rerank_merge_threshold=(2 / 3, 0.0),
        rerank_half_precision=(False, True),
        effect="evaluation",
    ),
)


def _together(name: str, switches: tuple[Switch, ...]) -> Switch:
    """Several trained differences of a paper as one switch: all as written; as released is the row itself."""
    values = {setting: value for switch in switches for setting, value in switch.as_written.items()}
    numbers = ", ".join(switch.number for switch in switches)
    what, first = f"{numbers} at once", switches[0]
    return Switch(
        first.paper, "all", name, what, "all as written", "all as released", "as released", first.base, values
    )


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
