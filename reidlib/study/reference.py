"""The reference studies: what is trained once for them, and their runs as small files in the repository.

results/reference/<study>/reference_points.json     scores without learning, and what they are made from
                          runs/<run>/weights.json   as in reidlib.run; no weights, embeddings or images
                                     scores.json
                                     metrics.json   also "finished", the time when the run was finished
                                     curves.csv     six digits
                                     queries.csv.gz six digits, compressed
`tools/make_reference.py` makes the runs, and `python run_all.py --reference` shows them. No file holds a path
of the machine that made it.
"""

import datetime
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidlib.config import METHODS, OF_FILES, PROFILES, VARIANTS, experiment_for, settings_of
from reidlib.experiment import Experiment, ScoringSettings, TrainingSettings
from reidlib.files import FileError, plain, read_json, write_atomically, write_json
from reidlib.run import Run, RunFiles
from reidlib.settings import choose
from reidlib.switches import SWITCHES

if TYPE_CHECKING:
    import pandas as pd

# ---------------------------------------------------------------- settings of the reference runs

# Real photographs, from weights that are real up to layer3.
REAL = {"epochs": 30, "steps_per_epoch": 100, "warmup_epochs": 3, "of_start_epoch": 8}
REAL_BY_FAMILY = {
    "abdnet": {"optimizer": "adam", "learning_rate": 3e-4, "trunk_rate": 1.0},
    "pfsa": {"optimizer": "sgd", "learning_rate": 0.1, "trunk_rate": 0.1, "weight_decay": 5e-4},
}
SMALL_REAL = {"epochs": 20, "steps_per_epoch": 20, "warmup_epochs": 2, "of_start_epoch": 5}
SYNTHETIC: dict[str, Any] = {"epochs": 30, "steps_per_epoch": 40, "of_start_epoch": 8}
SYNTHETIC_BY_FAMILY: dict[str, dict[str, Any]] = {}
SYNTHETIC_PEOPLE = {"test_identities": 200}
# The precision is fixed, so that it does not depend on the machine as "auto" does.
PRECISION = {"precision": "bfloat16", "embedding_precision": "float32"}

SMALL_COPY = "The photographs are a copy reduced to 64 × 128 pixels, so scores lie below published ones."
PARTIAL_WEIGHTS = (
    "The ResNet-18 starts from ImageNet weights up to `layer3` only: the 3×3 convolutions of `layer4` start "
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
        settings, by_family: overrides of the profile's settings, for all rows and for those of a family. A
            variant keeps its own side's settings.
        pretrained: the trunk starts from a file of weights, which the maker of the runs names.
        data_options: as in `reidlib.study.runs.study_dataset`.
        caveats: what a reader must know, one sentence (Markdown) each.
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

    def experiment(self, method: str, seed: int = 0, *, pretrained: str = "") -> Experiment:
        """The experiment of one run.

        Args:
            pretrained: the file of weights that the trunk starts from; without meaning if the study has none.
        """
        variant = VARIANTS.get(method)
        own = settings_of(variant.differs_from if variant else method)
        overrides = {**self.settings, **self.by_family.get(own.get("family", Experiment.family), {})}
        if self.pretrained:
            overrides["pretrained"] = pretrained or True
        for name in variant.by if variant else ():
            overrides.pop(name, None)
        labels = {"dataset": self.dataset, "profile": self.profile, "seed": seed}
        return experiment_for(method, **labels, **overrides)

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """The variants that are trained: those named, and the switches' sides that no row has anyway."""
        rows = [_numbers_of(self.experiment(method)) for method in self.methods]
        sides = [
            f"{switch.base}.{switch.name}.{side}"
            for switch in SWITCHES
            if switch.name in self.switches
            for side in switch.sides
        ]
        new = [side for side in sides if _numbers_of(self.experiment(side)) not in rows]
        return tuple(dict.fromkeys([*new, *self.variants]))

    def runs(self) -> list[tuple[str, int]]:
        """(method, seed) of every run in the order of making: all of one seed, then the next."""
        return [
            (method, seed)
            for seed in dict.fromkeys([*self.seeds, *self.switch_seeds])
            for methods, seeds in ((self.methods, self.seeds), (self.sides, self.switch_seeds))
            if seed in seeds
            for method in methods
        ]


def _numbers_of(experiment: Experiment) -> dict[str, Any]:
    """The settings that decide a run's numbers."""
    return experiment.group(TrainingSettings) | experiment.group(ScoringSettings)


PLANS: tuple[ReferencePlan, ...] = (
    ReferencePlan(
        name="cuhk03-np-detected",
        title="CUHK03-NP detected, 64 × 128 copy",
        dataset="cuhk03-np-detected",
        profile="full",
        methods=(
            *("baseline", "baseline+pam+cam", "abdnet-xe", "abdnet", "baseline+of+ow"),
            *("pfsa-without-sa", "pfsa", "gap", "gap+sa1"),
        ),
        seeds=(0, 1, 2),
        variants=("gap+sa1.sa-normalization.as-written",),
        switch_seeds=(0, 1, 2),
        settings={**PRECISION, **REAL},
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
        seeds=(0, 1, 2, 3, 4),
        settings={**PRECISION, **SMALL_REAL},
        by_family=REAL_BY_FAMILY,
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
        profile="full",
        methods=tuple(METHODS),
        seeds=(0, 1, 2, 3, 4),
        switches=("of-squared", "classes", "erasing", "sa-normalization"),
        switch_seeds=(0, 1, 2),
        settings={**PRECISION, **SYNTHETIC},
        by_family=SYNTHETIC_BY_FAMILY,
        data_options=SYNTHETIC_PEOPLE,
    ),
)


def plan_of(name: str) -> ReferencePlan:
    """The plan of a reference study. Raises ConfigError if there is none of this name."""
    plans = {plan.name: plan for plan in PLANS}
    return plans[choose("reference study", name, plans)]


# ---------------------------------------------------------------------------------------------- keeping a run

POINTS = "reference_points.json"
# An absolute path in a text: of Unix, of a home folder, or of Windows.
_PATH = re.compile(r"(?<![\w./\\~:])(?:~?/|~\w+/|[A-Za-z]:[\\/])[^\s'\"]+")


class ReferenceFiles(RunFiles):
    """The paths of a reference run's files."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.queries = folder / "queries.csv.gz"


def keep_run(run: Run, root: Path) -> Path:
    """Copies a finished run's small files into a reference study, and returns the copy's folder.

    metrics.json is last: if it exists, the copy is complete.

    Args:
        root: the study's folder, results/reference/<study>.
    """
    kept = ReferenceFiles(root / "runs" / run.name)
    kept.metrics.unlink(missing_ok=True)
    for record in ("weights_record", "scores_record"):
        write_json(getattr(kept, record), without_paths(read_json(getattr(run.files, record))))
    write_atomically(kept.curves, _as_csv(run.curves))
    # Without a time, the same table gives the same bytes.
    write_atomically(kept.queries, gzip.compress(_as_csv(run.queries).encode(), mtime=0))
    finished = datetime.datetime.fromtimestamp(run.files.metrics.stat().st_mtime, datetime.UTC)
    metrics = {**read_json(run.files.metrics), "finished": finished.isoformat(timespec="seconds")}
    write_json(kept.metrics, without_paths(metrics))
    return kept.folder


def is_kept(name: str, weights: Mapping[str, Any], scores: Mapping[str, Any], root: Path) -> bool:
    """Whether a reference study has a complete run of this name, made from these two records."""
    kept = ReferenceFiles(root / "runs" / name)
    try:
        made_from = [read_json(path)["made_from"] for path in (kept.weights_record, kept.scores_record)]
        return made_from == [plain(without_paths(record)) for record in (weights, scores)] and bool(
            read_json(kept.metrics)
        )
    except (FileError, KeyError, TypeError):
        return False


def keep_points(points: "pd.DataFrame", images: str, root: Path) -> None:
    """Writes the scores without learning (`reidlib.evaluation.reference_points`).

    Args:
        images: the fingerprint of the test images that they are of.
    """
    write_json(root / POINTS, {"data": images, "points": points.to_dict("records")})


def kept_points(root: Path, images: str) -> list[dict[str, Any]]:
    """The rows of `keep_points`; [] if there are none of these test images."""
    try:
        content = read_json(root / POINTS)
        return content["points"] if content["data"] == images else []
    except (FileError, KeyError, TypeError):
        return []


def without_paths(data: Any) -> Any:
    """Plain data in which every absolute path is replaced by the name of its file."""
    if isinstance(data, dict):
        return {
            key: Path(value).name if key in OF_FILES and isinstance(value, str) else without_paths(value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [without_paths(value) for value in data]
    if isinstance(data, str):
        return _PATH.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], data)
    return data


def _as_csv(frame: "pd.DataFrame") -> str:
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")
