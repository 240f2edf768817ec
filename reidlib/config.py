"""What is run: methods, variants and profiles.

- `METHODS`: every row of every table, each as a small difference from another row.
- `VARIANTS`: a row with one side of one switch between paper and released code, or with another O.F. weight.
- `PROFILES`: how large the study is.

Settings are resolved in layers, later ones winning: the defaults of `Experiment` → the method's chain of
differences → the profile → a variant's side → the caller's overrides. Numbers without a comment are those of
the papers' released code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from reidlib.experiment import Experiment
from reidlib.settings import ConfigError, choose
from reidlib.switches import SWITCHES, Switch

LABELS = ("method", "dataset", "profile", "seed")  # arguments of `experiment_for` itself, not overrides
OF_FILES = ("pretrained", "start_from")  # settings that may name a file

SETTINGS = tuple(item.name for item in fields(Experiment) if item.name not in LABELS)


@dataclass(frozen=True)
class Method:
    """A row of a table: its title there, the row it differs from, and the settings that differ."""

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
            # As in the first release: see the switch `erasing`.
            "erase_probability": 0.5,
            "erase_largest": 0.2,
            "erase_fill": "noise",
            "flip_evaluation": False,
            "rerank": True,  # the paper publishes re-ranked scores only
        },
    ),
    "gap+sa1": Method("GAP + SA₁", "gap", {"spatial_attention": "sa1"}),
    # The ablation that the released project's README describes: 60 epochs, erasing cut.
    "stripes": Method(
        "Six stripes, one classifier",
        "gap",
        {"parts": 6, "part_classifiers": False, "epochs": 60, "erase_probability": 0.0},
    ),
    "stripes+sa1": Method("Six stripes, one classifier + SA₁", "stripes", {"spatial_attention": "sa1"}),
    "pfsa-parts": Method("P", "gap", {"parts": 6, "log_weighted_loss": True}),
    "pfsa-without-sa": Method("P + DS", "pfsa-parts", {"deep_supervision": True}),
    "pfsa": Method("P + DS with SA₂ (published)", "pfsa-without-sa", {"spatial_attention": "sa2"}),
    "pfsa+sa1": Method("P + DS with SA₂, SA₁", "pfsa", {"spatial_attention": "sa1+sa2"}),
}

# Switch → further rows, beside its own, that have variants. Only the reference runs train these.
FURTHER_ROWS = {"sa-normalization": ("gap+sa1",)}

# All sides of every switch that changes training, as differences from the switch's row. No table lists them.
VARIANTS: dict[str, Method] = {
    f"{base}.{switch.name}.{name}": Method(
        f"{METHODS[base].title}, {switch.what}: {name.replace('-', ' ')}", base, side.settings
    )
    for switch in SWITCHES
    if switch.is_trained
    for base in (switch.base, *FURTHER_ROWS.get(switch.name, ()))
    for name, side in switch.sides.items()
}

# The sweep of O.F.'s weight β, asked for like a switch. A co-author swept 0 and 1 to 9 times 1e-8 to 1e-5,
# with O.F. alone, no attention and no O.W. (hsfzxjy/ABD-Net.next, scripts/abl_of.sh).
OF_BETA, OF_BETA_ROW = "of-beta", "baseline+of"
OF_BETAS = (0.0, *(float(f"{digit}e-{power}") for power in (8, 7, 6, 5) for digit in range(1, 10)))
FEW_OF_BETAS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 9e-5)

VARIANTS |= {
    f"{OF_BETA_ROW}.{OF_BETA}.{beta:g}": Method(
        f"{METHODS[OF_BETA_ROW].title}, β = {beta:g}", OF_BETA_ROW, {"of_weight": beta}
    )
    for beta in OF_BETAS
}


@dataclass(frozen=True)
class Profile:
    """How large the study is: settings for every run, and which runs there are."""

    title: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_family: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Settings of SyntheticSpec for the embedded data; {}: its defaults.
    synthetic: Mapping[str, int] = field(default_factory=dict)
    # switches between paper and released code whose sides are trained, too; OF_BETA: the sweep of O.F.
    switches: tuple[str, ...] = ()
    of_betas: tuple[float, ...] = FEW_OF_BETAS  # of the sweep


_FIGURE_METHODS = ("baseline", "baseline+pam+cam", "abdnet-xe", "abdnet", "gap", "gap+sa1", "pfsa")

# The trunk starts from random weights, so it is not frozen in a warm-up. Channel numbers follow ResNet-18, a
# quarter as wide as ResNet-50.
_SMALL = {
    "backbone": "resnet18",
    "pretrained": False,
    "height": 128,
    "width": 64,
    "reduced_dim": 256,
    "embedding_dim": 256,
    "head_dim": 128,
    "trunk_rate": 1.0,
    "schedule": "cosine",
    "warmup_epochs": 0,
    "batch_size": 32,
    "crop_probability": 0.5,
    "erase_probability": 0.0,
    "precision": "auto",
    "embedding_precision": "auto",
}

# Each family's own optimiser, with the rate that tools/choose_rates.py found on held-out people (the grid is
# in results/reference/rates.csv and in the report). With Adam, spatial attention's rows hardly leave their
# start on photographs. From random weights the trunk learns at the full rate, not at a tenth.
_SMALL_BY_FAMILY = {
    "abdnet": {"optimizer": "adam", "learning_rate": 5e-4},
    "pfsa": {"optimizer": "sgd", "learning_rate": 0.1, "trunk_rate": 1.0},
}


def trained_switches(profile: str) -> tuple[str, ...]:
    """The switches whose sides are trained, without those that only the papers' schedule can show."""
    return tuple(
        switch.name
        for switch in SWITCHES
        if switch.effect == "training" or (switch.effect == "schedule" and profile == "paper")
    )


def switches_to_ask_for(profile: str) -> tuple[str, ...]:
    """What --switches takes: the switches whose sides are trained, and the sweep of O.F.'s weight."""
    return (*trained_switches(profile), OF_BETA)


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        "a few steps on a handful of images: shows that everything runs, measures nothing",
        _FIGURE_METHODS,
        settings={
            **_SMALL,
            "height": 96,
            "width": 48,
            "epochs": 2,
            "steps_per_epoch": 2,
            "batch_size": 8,
            "of_start_epoch": 1,
        }
        | {"bootstrap_resamples": 200},
        by_family=_SMALL_BY_FAMILY,
        synthetic={"train_identities": 8, "test_identities": 6, "height": 96, "width": 48},
        switches=("ow-reach",),
    ),
    "demo": Profile(
        "ResNet-18 from random weights at 128 × 64, one seed: "
        "every figure and table in minutes on two CPU cores",
        _FIGURE_METHODS,
        settings={**_SMALL, "epochs": 8, "steps_per_epoch": 20, "of_start_epoch": 2},
        by_family=_SMALL_BY_FAMILY,
    ),
    "full": Profile(
        "every row of every table with three seeds, otherwise as the demo but for 60 epochs",
        tuple(METHODS),
        seeds=(0, 1, 2),
        settings={**_SMALL, "epochs": 60, "steps_per_epoch": 40, "of_start_epoch": 17},
        by_family=_SMALL_BY_FAMILY,
        switches=switches_to_ask_for("full"),
        of_betas=OF_BETAS,
    ),
    "paper": Profile(
        "the papers' settings: ResNet-50 from ImageNet weights at 384 × 128 (a GPU is needed)",
        tuple(METHODS),
        switches=trained_switches("paper"),
        of_betas=OF_BETAS,
    ),
}


def title_of(method: str) -> str:
    """The title of a row or variant in tables and figures."""
    return (METHODS | VARIANTS)[choose("method", method, METHODS | VARIANTS)].title


def settings_of(method: str) -> dict[str, Any]:
    """The method's settings that are not defaults of `Experiment`, with its whole chain of differences."""
    row = METHODS[choose("method", method, METHODS)]
    return {**(settings_of(row.differs_from) if row.differs_from else {}), **row.by}


def run_of(switch: Switch, side: str, profile: str, **overrides: Any) -> str:
    """The method whose runs show one side of a trained switch.

    It is a row that has that side anyway (the switch's own row first), otherwise a variant.
    """
    return _row_or_variant(f"{switch.base}.{switch.name}.{side}", profile, overrides)


def of_beta_runs(profile: str, **overrides: Any) -> tuple[str, ...]:
    """The methods whose runs show the sweep of O.F.'s weight, smallest weight first.

    A weight that a row has anyway is shown by that row: 0 by `baseline`, 1e-6 by `baseline+of`.
    """
    betas = PROFILES[choose("profile", profile, PROFILES)].of_betas
    variants = (f"{OF_BETA_ROW}.{OF_BETA}.{beta:g}" for beta in betas)
    return tuple(dict.fromkeys(_row_or_variant(variant, profile, overrides) for variant in variants))


def _row_or_variant(variant: str, profile: str, overrides: Mapping[str, Any]) -> str:
    """The row that has the variant's settings anyway (its own row first), or the variant."""
    experiment_for(variant, profile=profile, **overrides)  # raises ConfigError for impossible settings
    one = _resolved(variant, profile, overrides)
    rows = (VARIANTS[variant].differs_from, *METHODS)
    return next((row for row in rows if _resolved(row, profile, overrides) == one), variant)


def experiment_for(
    method: str, *, dataset: str = "market1501", profile: str = "paper", seed: int = 0, **overrides: Any
) -> Experiment:
    """The experiment of one row or variant.

    Example: `experiment_for("abdnet", profile="demo", dataset="synthetic", epochs=3)`.

    Raises:
        ConfigError: an unknown method, profile or setting (the nearest known name is shown), or an impossible
            value.
    """
    settings = _resolved(method, profile, overrides)
    for name in overrides:
        choose("setting", name, SETTINGS)
    try:
        return Experiment(method=method, dataset=dataset, profile=profile, seed=seed, **settings)
    except ConfigError as error:
        if method in METHODS:
            raise
        raise ConfigError(
            f"{error} The switch's side {method} has this problem: leave it out with --switches."
        ) from None


def experiment_for_file(method: str, **settings: Any) -> Experiment:
    """`experiment_for` of released weights that are only scored.

    Their embeddings are float32, as the originals were, whatever the profile takes for its own runs. Asked
    for, another precision counts.
    """
    return experiment_for(method, **{"embedding_precision": "float32", **settings})


def _resolved(method: str, profile: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a row or variant, layer upon layer and not validated, without the LABELS."""
    variant = VARIANTS.get(method)
    settings = settings_of(variant.differs_from if variant else method)
    size = PROFILES[choose("profile", profile, PROFILES)]
    family = size.by_family.get(settings.get("family", Experiment.family), {})
    side = variant.by if variant else {}  # after the profile, which may change the same setting
    defaults = {item.name: item.default for item in fields(Experiment) if item.name not in LABELS}
    return {**defaults, **settings, **size.settings, **family, **side, **overrides}


def caveats(profile: str, dataset: str, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """What a reader must know before comparing the numbers with the papers'.

    One sentence each; [] if there is nothing.
    """
    settings = {**PROFILES[choose("profile", profile, PROFILES)].settings, **(overrides or {})}
    sentences = []
    if dataset == "synthetic":
        sentences.append(
            "The images are synthetic: people drawn by a program, "
            "so no number here compares with a published one."
        )
    if settings.get("start_from"):
        sentences.append(
            "The networks were trained on from the weights in a file (start_from). What those had seen "
            "before, this test set perhaps, is not known here: the scores are no reproduction."
        )
    elif settings.get("pretrained") is False:
        backbone = settings.get("backbone", Experiment.backbone)
        sentences.append(
            f"The networks ({backbone}) were trained from random weights: no ImageNet weights were used."
        )
    if profile == "smoke":
        sentences.append(
            "The smoke profile takes a few steps only: "
            "it shows that everything runs, its scores mean nothing."
        )
    return sentences
