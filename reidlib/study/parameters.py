"""The parameters of the notebooks, each with its rule.

`reidlib.study.steps.check_parameters` checks what run_all.py passes, before anything runs. This module checks
what a notebook got from anywhere, such as papermill's command line, which passes all but plain numbers, True,
False and None as text.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from reidlib.config import LABELS, METHODS, PROFILES, VARIANTS
from reidlib.datasets import DATASETS
from reidlib.errors import ReidError
from reidlib.files import absolute_path
from reidlib.settings import LARGEST_SEED, ConfigError, Rule, Seed, at_most, between, check_settings, choose
from reidlib.show.selection import CHOSEN


class ParameterError(ReidError):
    """A notebook does not take this parameter, or not with this value."""


_NAMED = Rule(lambda value: all(isinstance(name, str) for name in value), "names and their values")
_NO_LABELS = Rule(
    lambda value: not {*value} & {*LABELS},
    f"settings only: {', '.join(LABELS)} are parameters of their own",
)
_FOLDERS = Rule(
    lambda value: all(isinstance(name, str) and isinstance(path, str) for name, path in value.items()),
    "names of data sets and their folders",
)
_METHODS = Rule(
    lambda value: value and len(set(value)) == len(value),
    "one or more different rows of reidlib.config.METHODS",
)
_SEEDS = Rule(
    lambda value: value and min(value) >= 0 and len(set(value)) == len(value),
    "one or more different whole numbers, 0 or more",
)
_PATHS = Rule(all, "a list of paths")  # none of them empty


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Every parameter that a notebook may have. A name means the same in all notebooks.

    Raises:
        ParameterError: a value of another type or outside its range, or a path that cannot be looked at.
    """

    profile: str = "demo"
    dataset: str = "synthetic"
    results: str = ""
    data_root: str = ""
    data_options: Annotated[dict, _NAMED] = field(default_factory=dict)
    targets: Annotated[dict, _FOLDERS] = field(default_factory=dict)
    method: str = "baseline"
    methods: Annotated[tuple[str, ...], _METHODS] = ("baseline",)
    seed: Seed = 0
    seeds: Annotated[tuple[int, ...], _SEEDS, at_most(LARGEST_SEED)] = (0,)
    checkpoint: str = ""
    run: str = ""
    query_images: Annotated[tuple[str, ...], _PATHS] = ()
    reference: str = ""
    overrides: Annotated[dict, _NAMED, _NO_LABELS] = field(default_factory=dict)
    images: str = "digits"
    images_root: str = ""
    people: Annotated[int, between(1, 100)] = 6
    queries: Annotated[int, between(1, 100)] = 3
    top: Annotated[int, between(1, 50)] = 5
    chosen: str = "differing"
    worst: Annotated[int, between(1, 100)] = 20
    mask_queries: Annotated[int, between(2, 2000)] = 60
    layers: bool = False
    most_queries: Annotated[int, between(1, 5000)] = 300
    match_rank: Annotated[int, between(1, 10)] = 1

    def __post_init__(self) -> None:
        try:
            check_settings(self)
            choose("profile", self.profile, PROFILES)
            choose("dataset", self.dataset, DATASETS)
            if self.method not in VARIANTS:  # too many to be listed in a message
                choose("method", self.method, METHODS)
            for method in self.methods:
                choose("name among methods", method, METHODS)
            choose("value of chosen", self.chosen, CHOSEN)
        except ConfigError as error:
            raise ParameterError(f"{error}{self._how_to_pass(str(error))}") from None
        for name in ("results", "data_root", "checkpoint", "run", "reference", "images_root"):
            if getattr(self, name):
                absolute_path(getattr(self, name), name)
        for path in self.query_images:
            absolute_path(path, "query_images")

    def _how_to_pass(self, message: str) -> str:
        """How papermill's command line passes what it cannot pass by -p; "" for another mistake."""
        name = message.partition(" = ")[0]
        declared = {field.name: field.type for field in fields(self)}
        value = getattr(self, name, None)
        if declared.get(name) is str and not isinstance(value, str):
            return f" With papermill, write -r {name} VALUE, which passes text as it is."
        if name in ("data_options", "overrides") and not isinstance(value, dict):
            return f" With papermill, write -y '{{{name}: {{NAME: VALUE}}}}', or leave it out."
        if name == "query_images" and not isinstance(value, list | tuple):
            return " With papermill, write -y '{query_images: [PATH]}'."
        if name == "seeds" and not isinstance(value, list | tuple):
            return " With papermill, write -y '{seeds: [0, 1]}'."
        return ""


def check_values(**parameters: Any) -> None:
    """Checks some of a notebook's parameters; `open_study` checks those that it is given.

    Raises:
        ParameterError: a value of another type or outside its range, or a path that cannot be looked at.
    """
    Parameters(**parameters)
