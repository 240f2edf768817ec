"""What both papers claim, as data: who says it, what is measured, on which rows, and what is predicted.

`reidlib.show.findings` measures each claim on runs, and `reidlib.show.verdicts` judges it. Differences
between paper and released code are claims, too: that the form in the paper scores higher.
"""

from dataclasses import dataclass

from reidlib.switches import RELEASED, SWITCHES


@dataclass(frozen=True)
class Measure:
    """What a claim is measured by, for every query.

    column: of the first row's queries (`Run.queries`); against: of the second row's.
    scale, digits: from the numbers in the column to those shown.
    """

    title: str
    unit: str
    column: str
    against: str
    scale: float = 100
    digits: int = 1


def _of(title: str, unit: str, column: str, **shown: float) -> Measure:
    return Measure(title, unit, column, column, **shown)


MEASURES: dict[str, Measure] = {
    "map": _of("mAP", "points", "average_precision"),
    "reranking": Measure("mAP", "points", "reranked_average_precision", "average_precision"),
    "accuracy": _of("accuracy", "points", "correct"),
    "channel_correlation": _of("S(Corr)", "correlation", "channel_correlation", scale=1, digits=3),
    "effective_area": _of("area of activation", "% of the map", "effective_area"),
    "effective_rank": _of("effective rank", "% of the largest", "effective_rank"),
}
# What a claim answers. Claims of one question are tested together: Holm's correction is over them.
SCORES_OF_ABDNET, HOW_ABDNET_WORKS = "Does ABD-Net retrieve better?", "Does ABD-Net work as it says?"
SPATIAL_ATTENTION, PAPER_OR_CODE = "Does spatial attention help?", "Does the form in the paper score higher?"
QUESTIONS = (SCORES_OF_ABDNET, HOW_ABDNET_WORKS, SPATIAL_ATTENTION, PAPER_OR_CODE)
CLASSIFICATION = "accuracy"  # the one measure of images, not of queries: its rows are POOLINGS


@dataclass(frozen=True)
class Claim:
    """One claim. The effect is first minus second row, in the measure's own unit (1 point of mAP is 0.01).

    sign: that the claim predicts, +1 or -1.
    size: the published effect, if there is one; size_source: where.
    margin: a smaller effect does not count; with `relative`, as a share of the second row's mean. It is
        below the published size: else a verdict "smaller than the margin" would say nothing against the
        claim.
    """

    name: str
    question: str  # of QUESTIONS
    text: str  # one plain sentence
    source: str  # who says it, and where
    measure: str  # of MEASURES
    first: str  # of METHODS or VARIANTS
    second: str
    sign: int = 1
    size: float | None = None
    size_source: str = ""
    margin: float = 0.01
    relative: bool = False


_TABLE_1 = "ABD-Net, Table 1"
_CORRELATION = "ABD-Net, channel-correlation figure: S(Corr) in its titles"
_PARTS_OF_TABLE_1 = (
    Claim(
        "attention", SCORES_OF_ABDNET, "Attention (PAM and CAM) improves retrieval.", _TABLE_1,
        "map", "baseline+pam+cam", "baseline", size=0.011, size_source="Market-1501, 77.4 → 78.5",
    ),
    Claim(
        "PAM", SCORES_OF_ABDNET, "Position attention (PAM) alone improves retrieval.", _TABLE_1,
        "map", "baseline+pam", "baseline", size=0.007, size_source="Market-1501, 77.4 → 78.1", margin=0.005,
    ),
    Claim(
        "CAM", SCORES_OF_ABDNET, "Channel attention (CAM) alone improves retrieval.", _TABLE_1,
        "map", "baseline+cam", "baseline", size=0.006, size_source="Market-1501, 77.4 → 78.0", margin=0.005,
    ),
    Claim(
        "diversity", SCORES_OF_ABDNET,
        "Diversity (O.F. and O.W.) improves a network with attention.", _TABLE_1,
        "map", "abdnet-xe", "baseline+pam+cam", size=0.074, size_source="Market-1501, 78.5 → 85.9",
    ),
    Claim(
        "O.F.", SCORES_OF_ABDNET, "Orthogonal features (O.F.) improve the baseline.", _TABLE_1,
        "map", "baseline+of", "baseline", size=0.047, size_source="Market-1501, 77.4 → 82.1",
    ),
    Claim(
        "O.W.", SCORES_OF_ABDNET, "Orthogonal weights (O.W.) improve the baseline.", _TABLE_1,
        "map", "baseline+ow", "baseline", size=0.011, size_source="Market-1501, 77.4 → 78.5",
    ),
    Claim(
        "O.F. + O.W.", SCORES_OF_ABDNET,
        "Orthogonal features and weights together improve the baseline.", _TABLE_1,
        "map", "baseline+of+ow", "baseline", size=0.049, size_source="Market-1501, 77.4 → 82.3",
    ),
    Claim(
        "triplet", SCORES_OF_ABDNET, "The triplet loss improves ABD-Net (XE).", _TABLE_1,
        "map", "abdnet", "abdnet-xe", size=0.0238, size_source="Market-1501, 85.9 → 88.28",
    ),
    Claim(
        "ABD-Net", SCORES_OF_ABDNET, "Everything together improves the baseline.", _TABLE_1,
        "map", "abdnet", "baseline", size=0.1088, size_source="Market-1501, 77.4 → 88.28",
    ),
)  # fmt: skip
_MECHANISM = (
    Claim(
        "attention correlates", HOW_ABDNET_WORKS, "Attention makes channels more alike.", _CORRELATION,
        "channel_correlation", "baseline+pam+cam", "baseline", size=0.319, size_source="0.049 → 0.368",
    ),
    Claim(
        "diversity decorrelates", HOW_ABDNET_WORKS,
        "Diversity makes the channels of attention less alike.",
        _CORRELATION, "channel_correlation", "abdnet", "baseline+pam+cam",
        sign=-1, size=-0.154, size_source="0.368 → 0.214",
    ),
    Claim(
        "diversity broadens", HOW_ABDNET_WORKS, "Diversity spreads attention over more of the person.",
        "ABD-Net, attention-map figure: shown on six people, without a number",
        "effective_area", "abdnet-xe", "baseline+pam+cam",
    ),
    Claim(
        "O.F. flattens", HOW_ABDNET_WORKS,
        "Orthogonal features (O.F.) flatten the spectrum of the features.",
        "ABD-Net, the penalty's definition: the largest and the smallest eigenvalue shall agree",
        "effective_rank", "baseline+of", "baseline", margin=0.05, relative=True,
    ),
    Claim(
        "O.W. flattens", HOW_ABDNET_WORKS,
        "Orthogonal weights (O.W.) flatten the spectrum of the features.",
        "ABD-Net, text: diverse filters give diverse features, without a number",
        "effective_rank", "baseline+ow", "baseline", margin=0.05, relative=True,
    ),
)  # fmt: skip
_NOT_RECOVERED = "its ablation tables could not be recovered"
_PFSA = (
    Claim(
        "SA before GAP", SPATIAL_ATTENTION,
        "Spatial attention before global average pooling improves retrieval.",
        f"PFSA, text: {_NOT_RECOVERED}. A reader of the released code found the opposite "
        "(rank-1 89.6 → 88.6, HRanWang/Spatial-Re-Scaling issue 1)",
        "map", "gap+sa1", "gap",
    ),
    Claim(
        "SA before stripes", SPATIAL_ATTENTION,
        "Spatial attention before six stripes improves retrieval.",
        f"PFSA, re-ID ablation in the released README; {_NOT_RECOVERED}", "map", "stripes+sa1", "stripes",
    ),
    Claim(
        "SA in P + DS", SPATIAL_ATTENTION,
        "Spatial attention in deep supervision improves the whole network (P + DS).",
        f"PFSA, text: {_NOT_RECOVERED}", "map", "pfsa", "pfsa-without-sa",
    ),
    Claim(
        "SA spreads", SPATIAL_ATTENTION,
        "Spatial attention spreads the activation over the whole body.",
        "PFSA, class-activation figure: shown on six people, without a number",
        "effective_area", "gap+sa1", "gap",
    ),
    Claim(
        "SA classifies", SPATIAL_ATTENTION,
        "Spatial attention before global average pooling improves classification.",
        "PFSA, CIFAR-100 ablation: its numbers could not be recovered",
        CLASSIFICATION, "gap+sa-sum", "gap",
    ),
    Claim(
        "re-ranking", SPATIAL_ATTENTION, "Re-ranking improves the published network.",
        "PFSA, Table 1 (all its own numbers are re-ranked)", "reranking", "pfsa", "pfsa",
        size=0.1, size_source="Market-1501, 81.7 (released weights, by a reader: "
        "HRanWang/Spatial-Re-Scaling issue 9) → 91.7",
    ),
)  # fmt: skip

# Of all switches (22_paper_vs_code), those that may matter for the scores.
SWITCHES_THAT_MAY_MATTER = ("of-squared", "sa-normalization", "classes", "erasing")


def _of_switch(name: str) -> Claim:
    """The claim that the form in the paper (or in its first release) beats the released one."""
    (switch,) = (one for one in SWITCHES if one.name == name)
    (other,) = switch.others
    sides = {side: switch.sides[side].words for side in (other, RELEASED)}
    form = other.replace("-", " ")
    return Claim(
        f"{name} {form}",
        PAPER_OR_CODE,
        f"{switch.what[0].upper()}{switch.what[1:]}: {form} scores higher than as released.",
        f"{switch.paper}, difference {switch.number} between paper and released code, no sentence of the "
        f"paper. {form.capitalize()}: {sides[other]}; as released: {sides[RELEASED]}",
        "map",
        f"{switch.base}.{name}.{other}",
        f"{switch.base}.{name}.{RELEASED}",
    )


CLAIMS: tuple[Claim, ...] = (
    *_PARTS_OF_TABLE_1,
    *_MECHANISM,
    *_PFSA,
    *map(_of_switch, SWITCHES_THAT_MAY_MATTER),
)
