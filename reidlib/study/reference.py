"""The reference studies: what is trained once for them, and the runs that were, from the repository.

`tools/make_reference.py` makes the runs, `reidlib.study.reference_files` describes their files, and
`python run_all.py --reference` shows them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reidlib.config import (
    METHODS,
    PROFILES,
    VARIANTS,
    caveats,
    experiment_for,
    run_of,
    settings_of,
    trained_switches,
)
from reidlib.datasets import DATASET_TITLES
from reidlib.datasets.types import ReidDataset, Split
from reidlib.experiment import Experiment
from reidlib.files import FileError
from reidlib.run import Run, StaleRunError
from reidlib.settings import ConfigError, choose
from reidlib.study.alike import differences, differences_in_words, left_out_sentences
from reidlib.study.points import kept_points
from reidlib.study.reference_files import read_kept_run, without_paths
from reidlib.study.results import REFERENCE, Study
from reidlib.switches import SWITCHES

if TYPE_CHECKING:
    import pandas as pd

# ---------------------------------------------------------------- settings of the reference runs

# Real photographs, from weights that are real up to layer3: each paper's optimiser, warm-up and erasing.
# 1,000 steps of 32 images, warm-up included, the same for all rows; the schedules are stretched for 3,000.
REAL = {"steps_per_epoch": 100, "erase_probability": 0.5}
REAL_LONGER = {**REAL, "steps_per_epoch": 300}
REAL_BY_FAMILY = {
    "abdnet": {"learning_rate": 2e-4, "warmup_epochs": 1, "epochs": 9, "of_start_epoch": 3},
    "pfsa": {"learning_rate": 0.1, "trunk_rate": 0.1, "warmup_epochs": 0, "epochs": 10},
}
# 240 steps, as the demo's.
SMALL_REAL = {"steps_per_epoch": 30, "epochs": 8, "of_start_epoch": 2}
SMALL_REAL_BY_FAMILY = {
    family: {name: settings[name] for name in ("learning_rate", "trunk_rate") if name in settings}
    for family, settings in REAL_BY_FAMILY.items()
}
SYNTHETIC = {"steps_per_epoch": 30, "epochs": 8, "of_start_epoch": 2}
# The precision is fixed, so that it does not depend on the machine as "auto" does.
PRECISION = {"precision": "bfloat16", "embedding_precision": "bfloat16"}

SMALL_COPY = "The photographs are a copy reduced to 64 × 128 pixels, so scores lie below published ones."
PARTIAL_WEIGHTS = (
    "The ResNet-18 starts from ImageNet weights up to layer3 only: the 3×3 convolutions of layer4 start "
    "from random weights."
)


@dataclass(frozen=True, kw_only=True)
class ReferencePlan:
    """A reference study: which runs it has, and their settings.

    Args:
        name: of its folder.
        methods, seeds: the rows, each trained with every seed.
        switches: switches between paper and released code whose other sides are trained, too.
        variants: further variants (`reidlib.config.VARIANTS`).
        switch_seeds: the seeds of the sides and variants.
        settings, by_family: overrides of the profile's settings, for all rows and for those of a family. They
            may not be settings that a side changes.
        pretrained: the trunk starts from a file of weights, which the maker of the runs names.
        data_options: as in `reidlib.study.runs.study_dataset`.
        caveats: what a reader must know, one sentence each.
    """

    name: str
    title: str
    dataset: str
    profile: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    switches: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    switch_seeds: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_family: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pretrained: bool = False
    data_options: Mapping[str, Any] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for switch in self.switches:
            choose("switch", switch, trained_switches(self.profile))
        sides = [name for switch in SWITCHES if switch.name in self.switches for name in switch.settings]
        sides += [name for variant in self.variants for name in VARIANTS[variant].by]
        overrides = {*self.settings, *(name for own in self.by_family.values() for name in own)}
        if both := sorted(overrides & {*sides}):
            raise ConfigError(
                f"The reference study {self.name} sets {', '.join(both)} for all rows, and trains both sides "
                "of a switch of it: leave one out."
            )

    def experiment(self, method: str, seed: int = 0, *, pretrained: str = "") -> Experiment:
        """The experiment of one run.

        Args:
            pretrained: the file of weights that the trunk starts from; without meaning if the study has none.
        """
        labels = {"dataset": self.dataset, "profile": self.profile, "seed": seed}
        return experiment_for(method, **labels, **self.overrides(method, pretrained))

    def overrides(self, method: str, pretrained: str = "") -> dict[str, Any]:
        """The settings that replace the profile's in the runs of a row or variant."""
        variant = VARIANTS.get(method)
        own = settings_of(variant.differs_from if variant else method)
        family = own.get("family", Experiment.family)
        weights = {"pretrained": pretrained or True} if self.pretrained else {}
        return {**self.settings, **self.by_family.get(family, {}), **weights}

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """The variants that are trained: the switches' sides that no row has anyway, and those named."""
        sides = [
            run_of(switch, side, self.profile, **self.overrides(switch.base))
            for switch in SWITCHES
            if switch.name in self.switches
            for side in switch.sides
        ]
        return tuple(dict.fromkeys([side for side in [*sides, *self.variants] if side in VARIANTS]))

    def runs(self) -> list[tuple[str, int]]:
        """(method, seed) of every run in the order of making: all of one seed, then the next."""
        return [
            (method, seed)
            for seed in dict.fromkeys([*self.seeds, *self.switch_seeds])
            for methods, seeds in ((self.methods, self.seeds), (self.sides, self.switch_seeds))
            if seed in seeds
            for method in methods
        ]


PLANS: tuple[ReferencePlan, ...] = (
    ReferencePlan(
        name="cuhk03-np-detected",
        title="CUHK03-NP detected (64 × 128 copy), 1,000 steps",
        dataset="cuhk03-np-detected",
        profile="full",
        methods=(
            *("baseline", "baseline+pam+cam", "abdnet-xe", "abdnet", "baseline+of+ow"),
            *("pfsa-without-sa", "pfsa", "gap", "gap+sa1"),
        ),
        seeds=tuple(range(7)),
        variants=("gap+sa1.sa-normalization.as-written",),
        switch_seeds=tuple(range(7)),
        settings={**PRECISION, **REAL},
        by_family=REAL_BY_FAMILY,
        pretrained=True,
        caveats=(SMALL_COPY, PARTIAL_WEIGHTS),
    ),
    ReferencePlan(
        name="cuhk03-np-detected-longer",
        title="CUHK03-NP detected (64 × 128 copy), 3,000 steps",
        dataset="cuhk03-np-detected",
        profile="full",
        methods=(
            *("baseline", "baseline+pam+cam", "abdnet-xe", "abdnet", "baseline+of+ow"),
            *("pfsa-without-sa", "pfsa"),
        ),
        seeds=(0, 1, 2),
        settings={**PRECISION, **REAL_LONGER},
        by_family=REAL_BY_FAMILY,
        pretrained=True,
        caveats=(SMALL_COPY, PARTIAL_WEIGHTS),
    ),
    ReferencePlan(
        name="pku-reid",
        title="PKU-Reid, 74 people",
        dataset="folder",
        profile="demo",
        methods=PROFILES["demo"].methods,
        seeds=tuple(range(10)),
        settings={**PRECISION, **SMALL_REAL},
        by_family=SMALL_REAL_BY_FAMILY,
        pretrained=True,
        caveats=(
            "PKU-Reid is small (34 test people), and the split is this study's: no published number compares "
            "with these.",
            PARTIAL_WEIGHTS,
        ),
    ),
    ReferencePlan(
        name="synthetic",
        title="synthetic people, 200 of them to test on",
        dataset="synthetic",
        profile="demo",
        methods=tuple(METHODS),
        seeds=(0, 1, 2, 3, 4),
        switches=("of-squared", "classes", "erasing", "sa-normalization"),
        switch_seeds=(0, 1, 2),
        settings={**PRECISION, **SYNTHETIC},
    ),
)


def data_set_title(study: Study) -> str:
    """The data set's name in titles. Reference runs on one's own folder have a data set with a name."""
    return plan_of(study.reference.name).title if study.reference else DATASET_TITLES[study.dataset]


def plan_of(name: str) -> ReferencePlan:
    """The plan of a reference study. Raises ConfigError if there is none of this name."""
    plans = {plan.name: plan for plan in PLANS}
    return plans[choose("reference study", name, plans)]


# ------------------------------------------------------------------------------------------- reading the runs

NOT_KEPT = (
    "*Not shown: this needs the networks' weights, the embeddings or the images, and reference runs keep "
    "none of them. A study of your own shows it.*"
)


@dataclass(frozen=True)
class ReferenceStudy:
    """The runs of a reference study that belong together, in the order of the plan.

    left_out: one sentence (Markdown) for each reason why others are not among them.
    """

    plan: ReferencePlan
    root: Path
    runs: list[Run]
    left_out: list[str]

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def title(self) -> str:
        return self.plan.title

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings of all rows that are not the profile's; of a file, only its name."""
        files = [run.experiment.pretrained for run in self.runs[:1] if self.plan.pretrained]
        return {**self.plan.settings, **({"pretrained": files[0]} if files else {})}

    @property
    def caveats(self) -> list[str]:
        """What a reader must know before comparing the numbers with others, one sentence each."""
        return [*caveats(self.plan.profile, self.plan.dataset, self.overrides), *self.plan.caveats]

    @property
    def origin(self) -> dict[str, str]:
        """Where the runs come from: "Reference runs", "Made", "Commit", "Hardware", "Versions" and "Time".

        Of several machines, each is given with what it made (`_machines`).
        """
        metrics = [run.metrics for run in self.runs]
        made = [one["made_by"] for one in metrics]
        seconds = sum(one["train_seconds"] + one["score_seconds"] for one in metrics)
        days = sorted({one["finished"][:10] for one in metrics})
        return {
            "Reference runs": f"{len(self.runs)} of {len(self.plan.runs())} planned",
            "Made": " to ".join(dict.fromkeys([days[0], days[-1]])),
            "Commit": _each(one["commit"] for one in made),
            "Hardware": _machines(self.runs),
            "Versions": _each(f"Python {one['python']}, torch {one['torch']}" for one in made),
            "Time": f"{seconds / 3600:.1f} hours of training and scoring",
        }

    @property
    def sentence(self) -> str:
        """What the runs are, when, from which commit, where and in how many hours they were made."""
        of = self.origin
        return (
            f"These are reference runs on {self.title} ({of['Reference runs']}): they were made once, "
            f"{of['Made']}, at commit {of['Commit']}, on {of['Hardware']}, in {of['Time']}. "
            "Nothing is trained here. The findings are of all data sets; the other pages of this one."
        )


def _machines(runs: Iterable[Run]) -> str:
    """The machines that made the runs, each with its seeds, because rows of equal seeds are compared.

    Where two made runs of the same seed, each is given with its rows; one alone with neither.
    """
    from reidlib.show.text import numbered_seeds  # imports pandas, which is slow

    runs_on: dict[str, list[Run]] = {}  # machine → runs
    for run in runs:
        made = run.metrics["made_by"]
        on_cpu = f"{made['processor']}, {made['cores']} cores"
        runs_on.setdefault(on_cpu if made["device"] == "cpu" else made["device"], []).append(run)
    if len(runs_on) == 1:
        return next(iter(runs_on))
    seeds = [{run.seed for run in own} for own in runs_on.values()]
    shared = sum(map(len, seeds)) > len(set().union(*seeds))
    return "; ".join(
        f"{machine} ({', '.join(dict.fromkeys(run.method for run in own))})"
        if shared
        else f"{machine} ({numbered_seeds(run.seed for run in own)})"
        for machine, own in runs_on.items()
    )


def _each(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def reference_studies(root: Path = REFERENCE) -> list[ReferenceStudy]:
    """The reference studies that have runs, in the order of `PLANS`; [] if there are none.

    Args:
        root: the folder of the studies.
    """
    studies = [read_reference(root / plan.name) for plan in PLANS]
    return [study for study in studies if study.runs]


def read_reference(root: Path) -> ReferenceStudy:
    """The runs in a reference study's folder that belong together.

    They have the settings of the plan, and the images, the code and the initial weights that most of these
    runs have; where as many have others, those of the newest run. Others are left out and named. So are
    damaged runs and runs that are not in the plan.

    Args:
        root: results/reference/<study>. It need not exist.

    Raises:
        ConfigError: there is no plan of this name.
    """
    plan = plan_of(root.name)
    order = [f"{method}-seed{seed}" for method, seed in plan.runs()]
    found, left_out = [], []
    for folder in sorted(path for path in (root / "runs").glob("*") if path.is_dir()):
        run, problem = _planned_run(folder, plan) if folder.name in order else (None, NOT_PLANNED)
        if problem:
            left_out.append((folder.name, problem))
        else:
            found.append(run)
    newest_first = sorted(found, key=lambda run: run.metrics["finished"], reverse=True)
    most = Counter(map(_made_with, newest_first)).most_common(1)
    chosen = []
    for run in sorted(found, key=lambda run: order.index(run.name)):
        pairs = zip(_PARTS, _made_with(run), most[0][0], strict=True)
        unlike = dict.fromkeys(words for (words, *_), own, wanted in pairs if own != wanted)
        if unlike:
            left_out.append((run.name, ", ".join(unlike)))
        else:
            chosen.append(run)
    return ReferenceStudy(plan, root, chosen, left_out_sentences(left_out))


NOT_PLANNED = "a row or seed that is not in the plan"


def _planned_run(folder: Path, plan: ReferencePlan) -> tuple[Run | None, str]:
    """The run in a folder, and in words why it is not one of the plan; "" if it is."""
    try:
        run = read_kept_run(folder)
    except StaleRunError:
        return None, "records that are damaged, or of another version of the study"
    except FileError as error:
        return None, f"a damaged file ({without_paths(str(error)).rstrip('.')})"
    weights = run.made_from["weights"].get("pretrained", "")
    found = differences(run, plan.experiment(run.method, run.seed, pretrained=weights))
    return run, ", ".join(differences_in_words(found))


_PARTS = (
    ("other images to train on", "weights", "data"),
    ("other images to test on", "scores", "data"),
    ("other code of training", "weights", "code"),
    ("other code of scoring", "scores", "code"),
    ("other code of scoring", "scores", "embedding_code"),
    ("other initial weights", "weights", "pretrained"),
)


def _made_with(run: Run) -> tuple[str, ...]:
    """Digests of what all runs of a study have in common, in the order of `_PARTS`."""
    return tuple(run.made_from[record].get(key, "") for _, record, key in _PARTS)


@dataclass(frozen=True, eq=False)
class RecordedDataset(ReidDataset):
    """The data set of reference runs as far as they record it: fingerprints and queries, and no image."""

    recorded: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprints(self) -> dict[str, str]:
        return dict(self.recorded)


def recorded_dataset(study: ReferenceStudy) -> RecordedDataset:
    """The data set of a reference study, which has one run or more."""
    run, empty = study.runs[0], Split((), np.zeros(0, np.int64), np.zeros(0, np.int64))
    query = Split(
        tuple(map(Path, run.queries["query"])),
        run.queries["identity"].to_numpy(),
        run.queries["camera"].to_numpy(),
    )
    of = {"training": run.made_from["weights"]["data"], "test": run.made_from["scores"]["data"]}
    return RecordedDataset(study.plan.dataset, study.root, empty, query, empty, recorded=of)


def recorded_points(study: ReferenceStudy) -> "pd.DataFrame":
    """The scores without learning, as from `reidlib.evaluation.reference_points`, or no rows."""
    import pandas as pd  # slow to import

    columns = ["method", "rank1", "rank5", "map", "minp"]
    columns += [f"{name}_{bound}" for name in ("rank1", "map") for bound in ("low", "high")]
    return pd.DataFrame(kept_points(study.root, study.runs[0].made_from["scores"]["data"]), columns=columns)
